"""Tells somebody that a run has ended: one POST of {"text": ...} to an address of the environment.

The address is a secret (who has Slack's may write there): it is in no message, also not where it fails.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.client import HTTPException
from typing import Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from ddt.clean import one_line
from ddt.sections.run import Notify

TRIES, PAUSE_S, ANSWER_S = 3, 2.0, 10.0
MOST_CHARS = 3000  # Slack's limit of a text is 4,000


def require_address(notify: Notify) -> None:
    """ValueError naming the key where somebody is to be told and the environment has no web address."""
    if notify.when and not _is_address(_address(notify)):
        raise ValueError(
            f"notify.url_variable = {notify.url_variable}: expected it in the environment, with an address "
            "http(s)://...; or notify.when=[]"
        )


def tell(notify: Notify, event: Literal["success", "failure"], text: str) -> bool:
    """Send `text` if `event` is to be told; whether it was sent.

    Raises nothing: the run has ended, and a message that is lost is one line on stderr.
    """
    if event not in notify.when:
        return False
    try:
        require_address(notify)
        _post(_address(notify), text[:MOST_CHARS])
    except (ValueError, OSError, HTTPException) as error:
        print(f"notify: nobody was told: {_reason(error, _address(notify))}", file=sys.stderr)
        return False
    return True


def _post(address: str, text: str) -> None:
    """Again where the server has a fault or does not answer; what it refuses, it would refuse again."""
    body = json.dumps({"text": text}).encode()
    for left in reversed(range(TRIES)):
        try:
            request = Request(address, body, {"Content-Type": "application/json"}, method="POST")
            with urlopen(request, timeout=ANSWER_S):
                return
        except OSError as error:
            refused = isinstance(error, HTTPError) and error.code < 500
            if refused or not left:
                raise
        time.sleep(PAUSE_S)


def _address(notify: Notify) -> str:
    return os.environ.get(notify.url_variable, "")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number
        return False
    return known and text.isascii() and text.isprintable() and " " not in text


def _reason(error: Exception, address: str) -> str:
    """In words; what http.client says may hold a part of the address."""
    if isinstance(error, HTTPException):
        return type(error).__name__
    if isinstance(error, HTTPError):
        return f"the address answers {error.code}"
    cause = getattr(error, "reason", None) or error  # urllib wraps it
    return one_line(str(cause).replace(address, "the address") if address else cause)
