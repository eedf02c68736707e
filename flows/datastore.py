"""Where Metaflow keeps artifacts and cards: below `paths.store` where that is on S3, as everything then is.

Metaflow reads its settings when it is imported, so `follow_store` comes before; what is set otherwise, by the
environment or by Metaflow's own file, stands. A run's place is remembered beside Metaflow's `latest_run`: the
commands that come after it (`resume`, `card`, `logs`) are not told the parameters.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from ddt.clean import parse_json
from ddt.config import merge
from ddt.params import overlay
from ddt.yaml_file import read_yaml

REMEMBERED = "ddt_datastore"
# Metaflow saves a dozen small artifacts by as many processes, each of which imports boto3 first.
WORKERS = "1"
ROOTS = "METAFLOW_DATASTORE_SYSROOT_S3", "METAFLOW_DEFAULT_DATASTORE"
S3 = "s3://"


def follow_store(arguments: Sequence[str], root: Path) -> None:
    """Put Metaflow's datastore into the environment, if `paths.store` is on S3 and nothing else is said.

    What is wrong with the parameters is told later, by who reads all of them.
    """
    words = split_options(arguments)
    if "step" in words or _chosen():
        return
    is_run, files = "run" in words, config_files(words, root)
    place = None if is_run or "remote" in files else _remembered(root)
    if place is None:
        with suppress(ValueError, OSError, KeyError, TypeError, AttributeError):
            place = _below(_store(words, files, root))
    if is_run:
        _remember(root, place or "")
    if place:
        os.environ |= dict(zip(ROOTS, (place, "s3"), strict=True))
        os.environ.setdefault("METAFLOW_S3_WORKER_COUNT", WORKERS)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            os.environ.setdefault("METAFLOW_S3_ENDPOINT_URL", endpoint)  # which it hands on to pods


def split_options(arguments: Sequence[str]) -> list[str]:
    """Each `--name=value` as the two words that it stands for."""
    return list(chain.from_iterable(a.split("=", 1) if a.startswith("--") else [a] for a in arguments))


def config_files(words: Sequence[str], root: Path) -> dict[str, Path]:
    """The files of Metaflow's configs by name: `conf`, and `remote` where one is given."""
    files = {"conf": root / "params.yaml"}
    for flag, name, value in zip(words, words[1:], words[2:], strict=False):
        if flag == "--config":
            files[name] = Path(value)
    return files


def _store(words: Sequence[str], files: Mapping[str, Path], root: Path) -> str:
    """`paths.store` as this command line has it."""
    options = dict(zip(words, words[1:], strict=False))
    settings = overlay(read_yaml(files["conf"]), options.get("--profile"), [], root)
    if "remote" in files:
        settings = merge(settings, {"paths": read_yaml(files["remote"]).get("paths", {})})
    return str(overlay(settings, None, options.get("--set", "").split(), root)["paths"]["store"])


def _below(store: str) -> str:
    return f"{store.rstrip('/')}/metaflow" if store.startswith(S3) else ""


def _chosen() -> bool:
    """Whether the user has chosen Metaflow's datastore, by its environment or its file."""
    if any(os.environ.get(name) for name in ROOTS):
        return True
    home = Path(os.environ.get("METAFLOW_HOME") or "~/.metaflowconfig").expanduser()
    profile = os.environ.get("METAFLOW_PROFILE")
    file = home / (f"config_{profile}.json" if profile else "config.json")
    return file.is_file() and any(name in parse_json(file.read_bytes()) for name in ROOTS)


def _memory(root: Path) -> Path:
    return Path(os.environ.get("METAFLOW_DATASTORE_SYSROOT_LOCAL") or root) / ".metaflow" / REMEMBERED


def _remember(root: Path, place: str) -> None:
    """That this was the last run's; a folder that takes no files is told later."""
    with suppress(OSError):
        _memory(root).parent.mkdir(parents=True, exist_ok=True)
        _memory(root).write_text(place)


def _remembered(root: Path) -> str | None:
    """The last run's; None where there was none."""
    return _memory(root).read_text() if _memory(root).is_file() else None
