"""A server of S3 that fails: one request in twenty, in every way by turns, beside the sound one of the tests.

Both serve what moto has in this process, so that what was made through the one is read through the other.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

EVERY = 20  # requests have one fault among them
# What an error is, and which requests it can happen to.
FAULTS: dict[str, Callable[[str, str], bool]] = {
    "500": lambda method, path: True,
    "503": lambda method, path: True,  # throttled
    "cut": lambda method, path: True,  # before it is done
    "half": lambda method, path: method == "GET",  # of the answer comes
    "lost": lambda method, path: method == "PUT",  # done, but the answer does not come
    "lost commit": lambda method, path: method == "PUT" and "/units/" in path,
}
ERROR = "<Error><Code>{}</Code><Message>come again</Message></Error>"


class Failing:
    """A WSGI application before another; `seen` counts requests (under '') and faults by kind."""

    def __init__(self, application: Any) -> None:
        self.application, self.seen = application, Counter[str]()
        self._lock, self._turns = threading.Lock(), [*FAULTS]

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        fault = self._fault(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if fault in ("500", "503"):
            start(f"{fault} Error", [("Content-Type", "application/xml")])
            return [ERROR.format({"500": "InternalError", "503": "SlowDown"}[fault]).encode()]
        if fault == "cut":
            return self._cut(environ, b"")
        if fault == "half":
            body = b"".join(self.application(environ, start))
            return self._cut(environ, body[: len(body) // 2])
        if fault.startswith("lost"):
            b"".join(self.application(environ, lambda *_: None))
            return self._cut(environ, b"")
        return self.application(environ, start)

    def _fault(self, method: str, path: str) -> str:
        """That of this request, '' for most; the next in turn waits for one that it can happen to."""
        with self._lock:
            self.seen[""] += 1
            due = self.seen[""] // EVERY > self.seen.total() - self.seen[""]
            if not due or not FAULTS[self._turns[0]](method, path):
                return ""
            self._turns.append(fault := self._turns.pop(0))
            self.seen[fault] += 1
            return fault

    @staticmethod
    def _cut(environ: dict[str, Any], body: bytes) -> Iterator[bytes]:
        if body:
            yield body
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionError("cut")


@contextlib.contextmanager
def failing_server() -> Iterator[tuple[str, Counter[str]]]:
    """Its address, and what it counts."""
    failing = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, failing, threaded=True)
    server.log = lambda *_: None  # type: ignore[method-assign]  # every cut would be told with its trace
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", failing.seen
    finally:
        server.shutdown()
        thread.join()
