"""What a run finds around it: a user's name, a place for temporary files, a home that can be written to.

Metaflow, Ray, matplotlib and the hub's library read that from the environment when they are imported, so
`prepare` comes first in every process that a user starts; those that it starts inherit what was set.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import sys
import tempfile
from pathlib import Path

SHORT_FOLDER = "/tmp"
SOCKET_BYTES = 107  # the longest path of a Unix socket
LONGEST_SOCKET = "/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"  # below Ray's folder
ENOUGH = bytes(1 << 16)  # a full disk still takes an empty file


def prepare() -> None:
    """Put in the environment what is missing there, each told in one line on stderr.

    Raises ValueError where nothing can take its place.
    """
    _name_user()
    _find_temporary_folder()
    _shorten_rays_folder()
    _find_place_for_caches()


def why_unwritable(folder: Path) -> str | None:
    """None where a file can be written in `folder`, which is made if need be; else the reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(ENOUGH)
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def private_folder(name: str) -> Path:
    """A folder of this user alone among the temporary ones; OSError where another user has it."""
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    return folder


def process_mark(pid: int | None = None) -> str:
    """Host, number and start of a process (this one), by which it is known from a later one of its number.

    Empty where there is no such process, or no /proc to ask.
    """
    pid = os.getpid() if pid is None else pid
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
    return f"{socket.gethostname()} {pid} {started}"


def is_gone(mark: str) -> bool:
    """Whether a process of this machine, known by its `process_mark`, has ended; of another, never."""
    host, _, rest = mark.partition(" ")
    here = process_mark().partition(" ")[0]
    return bool(here) and host == here and process_mark(int(rest.split()[0])) != mark


def _name_user() -> None:
    """Metaflow stops where it finds no name of a user, and takes root for none."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user that this machine does not know, as containers have
        name = os.environ["USER"] = "ddt"  # torch asks for it as well
    if os.environ.get("METAFLOW_USER") in (None, "", "root"):
        os.environ["METAFLOW_USER"] = "ddt" if name == "root" else name


def _find_temporary_folder() -> None:
    told = os.environ.get("TMPDIR")
    try:
        found = tempfile.gettempdir()
    except FileNotFoundError:
        raise ValueError("TMPDIR: no temporary folder can be written to; set it to one that can") from None
    if told and os.path.abspath(told) != found:
        os.environ["TMPDIR"] = found
        _tell(f"TMPDIR = {told}: no folder that can be written to; {found} is used")


def _shorten_rays_folder() -> None:
    """Ray keeps Unix sockets in a folder of its own below RAY_TMPDIR or TMPDIR."""
    if os.environ.get("RAY_ADDRESS"):  # a cluster that has its folder already
        return
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    folder = os.environ.get(name) or tempfile.gettempdir()
    most = SOCKET_BYTES - len(LONGEST_SOCKET)
    if len(os.fsencode(folder)) <= most:
        return
    reason = f"{name} = {folder}: longer than the {most} bytes that Ray's sockets leave"
    if name == "RAY_TMPDIR" or why_unwritable(Path(SHORT_FOLDER)):
        raise ValueError(f"{reason}; set RAY_TMPDIR to a short folder that can be written to")
    os.environ["RAY_TMPDIR"] = SHORT_FOLDER
    _tell(f"{reason}; Ray's files are kept in {SHORT_FOLDER}")


def _find_place_for_caches() -> None:
    """Caches beside the temporary files where HOME can't be written to. What can be read there still is."""
    home = Path.home() if os.path.expanduser("~") != "~" else None  # no HOME, and a user that is not known
    if home is not None and _can_have_files(home):
        return
    caches = private_folder("ddt")
    places = {"XDG_CACHE_HOME": caches, "MPLCONFIGDIR": caches / "matplotlib", "TRITON_HOME": caches}
    if home is None:
        places["HOME"] = caches
    elif (home / ".cache" / "huggingface").is_dir():
        places["HF_HOME"] = home / ".cache" / "huggingface"
    missing = {name: str(place) for name, place in places.items() if not os.environ.get(name)}
    if not missing:
        return
    os.environ.update(missing)
    if not (os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        # Ray protects a cluster that it starts with a token, which it would keep in HOME.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    _tell(f"HOME = {home or 'not set'}: can't be written to; caches are kept in {caches}")


def _can_have_files(folder: Path) -> bool:
    """Whether it can be written in, or made: who needs it makes it."""
    folder = folder.absolute()
    return why_unwritable(next(part for part in (folder, *folder.parents) if part.exists())) is None


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
