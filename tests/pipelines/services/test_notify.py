"""Who is told of a run's end: what a server is sent, when it is not, and that no address is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ddt.config import ConfigError
from ddt.params import load_params
from ddt.sections.run import Notify
from pipelines.services import notify
from pipelines.services.notify import require_address, tell

ROOT = Path(__file__).resolve().parents[3]
BOTH = Notify(("success", "failure"), "DDT_NOTIFY_URL")


@dataclass
class Listener:
    """A web server: what it was sent, and the answers that it gives before 200."""

    address: str = ""
    answers: list[int] = field(default_factory=list)
    heard: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    listening = Listener()

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            listening.heard.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(listening.answers.pop(0) if listening.answers else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(notify, "PAUSE_S", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        listening.address = f"http://127.0.0.1:{server.server_port}/services/s3cret"
        monkeypatch.setenv("DDT_NOTIFY_URL", listening.address)
        yield listening
        server.shutdown()


def test_off_by_default(listener: Listener) -> None:
    default = load_params(ROOT / "params.yaml").notify
    require_address(default)
    assert not tell(default, "failure", "x") and listener.heard == []


def test_what_is_asked_for_is_sent(listener: Listener) -> None:
    text = 'gate "select": äöü\nline'
    assert tell(BOTH, "failure", text) and tell(BOTH, "success", "y" * 5000)
    assert not tell(Notify(("failure",), "DDT_NOTIFY_URL"), "success", "z")
    expected = ("/services/s3cret", "application/json")
    assert listener.heard == [(*expected, {"text": text}), (*expected, {"text": "y" * notify.MOST_CHARS})]


@pytest.mark.parametrize(
    ("answers", "sent", "times"), [([503, 500], True, 3), ([503] * 3, False, 3), ([404], False, 1)]
)
def test_a_servers_fault_is_met_again_and_a_refusal_is_not(
    answers: list[int], sent: bool, times: int, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    listener.answers = list(answers)
    assert tell(BOTH, "failure", "x") == sent and len(listener.heard) == times
    told = capsys.readouterr()
    assert told.out == "" and "s3cret" not in told.err
    assert told.err == ("" if sent else f"notify: nobody was told: the address answers {answers[-1]}\n")


@pytest.mark.parametrize(
    "address", ["", "s3cret", "ftp://host/s3cret", "http:///s3cret", "http://h:s3cret/", "http://h/a s3cret"]
)
def test_no_address_is_told_before_the_run_and_not_shown(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DDT_NOTIFY_URL", address)
    with pytest.raises(
        ValueError, match="^notify.url_variable = DDT_NOTIFY_URL: expected it in the"
    ) as error:
        require_address(BOTH)
    assert "s3cret" not in str(error.value)
    assert not tell(BOTH, "failure", "x")
    assert "s3cret" not in capsys.readouterr().err


def test_nobody_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notify, "PAUSE_S", 0.01)
    monkeypatch.setenv("DDT_NOTIFY_URL", "http://127.0.0.1:9/s3cret")
    assert not tell(BOTH, "success", "x")
    assert capsys.readouterr().err == "notify: nobody was told: [Errno 111] Connection refused\n"


def test_the_address_itself_is_no_setting() -> None:
    with pytest.raises(ConfigError, match="^notify.url_variable: expected the name of an env") as error:
        load_params(ROOT / "params.yaml", None, ["notify.url_variable=https://hooks/s3cret"])
    assert "s3cret" not in str(error.value)
    with pytest.raises(ConfigError, match="notify.when.* = 'always': expected one of success, failure"):
        load_params(ROOT / "params.yaml", None, ["notify.when=[always]"])
