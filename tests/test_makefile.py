"""Which Python `make` takes. A machine is a folder of scripts in place of interpreters, and alone in PATH."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="no make")
# Answers as an interpreter of a version that fits or not, with Debian's python3-venv or without.
SCRIPT = """#!/bin/sh
case "$2" in
*ensurepip*) exit {no_venv} ;;
*version_info*) exit {unfit} ;;
esac
"""


def make_python(tmp_path: Path, machine: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make python` where PATH has these interpreters."""
    for name, kind in machine.items():
        script = SCRIPT.format(no_venv=int(kind == "no venv"), unfit=int(kind == "other"))
        path = tmp_path / name
        path.write_text("#!/bin/sh\nexit 127\n" if kind == "shim" else script)
        path.chmod(0o755)
    command = [str(MAKE), "-C", str(ROOT), "--no-print-directory", "python", *arguments]
    return subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("machine", "taken"),
    [
        ({"python3.11": "fits", "python3.12": "fits", "python3": "fits"}, "python3.11"),
        ({"python3.12": "fits", "python3": "other"}, "python3.12"),
        ({"python3.11": "shim", "python3.12": "fits"}, "python3.12"),
        ({"python3.11": "no venv", "python3.12": "fits"}, "python3.12"),
        ({"python3": "fits"}, "python3"),
    ],
)
def test_the_first_that_fits_is_taken(tmp_path: Path, machine: dict[str, str], taken: str) -> None:
    done = make_python(tmp_path, machine)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{taken}\n", "")


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        ({}, "no Python 3.11 or 3.12 found"),
        ({"python3.11": "shim", "python3": "other"}, "no Python 3.11 or 3.12 found"),
        ({"python3.12": "no venv", "python3": "other"}, "python3.12 has no venv module"),
    ],
)
def test_what_to_install_is_told(tmp_path: Path, machine: dict[str, str], told: str) -> None:
    done = make_python(tmp_path, machine)
    first, *rest = done.stderr.splitlines()
    assert done.returncode == 2 and first.startswith(
        f"make: {told}; install Python 3.11 or 3.12 with its venv"
    )
    assert all(line.startswith("make: ***") for line in rest)


def test_another_can_be_named(tmp_path: Path) -> None:
    machine = {"python3.11": "fits", "mine": "fits", "old": "other"}
    assert make_python(tmp_path, machine, "PYTHON=mine").stdout == "mine\n"
    done = make_python(tmp_path, machine, "PYTHON=old")
    assert done.returncode == 2 and done.stderr.startswith("make: old is no Python 3.11 or 3.12; install")


def test_the_range_is_that_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text() + (ROOT / "README.md").read_text()
    assert 'requires-python = ">=3.11,<3.13"' in text and "Python 3.11 or 3.12" in text
