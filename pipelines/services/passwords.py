"""The password in `tracking.uri`: in no message, and in nothing that a run keeps.

What is shown or kept has *** in its place. The password itself is in the environment, which the processes of
a run inherit, and is put in again where MLflow is called.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

VARIABLE = "MLFLOW_TRACKING_PASSWORD"  # MLflow's own, for servers
HIDDEN = "***"
# What stands before a password in a URI, and the password: up to the last @, or the value of an option.
SECRET = re.compile(
    r"(://[^:/@\s]*:|[?&](?:password|passwd|pwd|token|secret)=)((?<=:)\S+(?=@)|(?<==)[^&\s]+)", re.IGNORECASE
)


def shown(text: str) -> str:
    """A URI, or a message with one in it, as people may see it: without its password."""
    return SECRET.sub(rf"\1{HIDDEN}", text)


def put_away(uri: str) -> str:
    """`uri` as it may be kept. Its password is in this process's environment from now on."""
    for _, password in SECRET.findall(uri):
        if password != HIDDEN:
            os.environ[VARIABLE] = unquote(password)
    return shown(uri)


def whole(uri: str) -> str:
    """`uri` with the password that was put away; ValueError where the environment has none."""
    if HIDDEN not in (password for _, password in SECRET.findall(uri)):
        return uri
    password = os.environ.get(VARIABLE)
    if not password:
        raise ValueError(f"tracking.uri = {uri}: its password is not kept; expected it in {VARIABLE}")
    return SECRET.sub(lambda found: found[1] + quote(password, safe=""), uri)


def without(text: str, uri: str) -> str:
    """`text` with the password of `uri` nowhere in it, quoted or not."""
    for _, password in SECRET.findall(whole(uri)):
        for form in (password, unquote(password)):
            text = text.replace(form, HIDDEN)
    return shown(text)
