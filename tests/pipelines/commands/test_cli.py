"""A user's mistakes at the command line: exit code 2 and one line that names what is wrong; interrupts."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddt.manifest import Manifest, write_unit
from ddt.params import load_params
from ddt.store import open_store
from pipelines.commands.cli import main
from pipelines.commands.use import parse_prefixes, write
from pipelines.engine.runner import is_finished, stage_context
from pipelines.reports.workspace import manifest_path
from tests.processes import HANGS_AFTER_S

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Arguments that keep a run inside tmp_path."""
    return [
        f"--params={ROOT / 'params.yaml'}",
        "--set",
        f"paths.store={tmp_path}/store",
        "--set",
        f"paths.workspace={tmp_path}/workspace",
        "--set",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
    ]


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that must exit with 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "--set", "ingest.sauce=1"], "ingest.sauce: unknown key"),
        (["recaption", "--set", "recaption.model=/no/model"], "recaption.model = /no/model: no such folder"),
        (["score", "--set", "score.model=scenes:clap"], "scenes:clap: no such weights, allowed are"),
        (["ingest", "--set", "ingest.min_side_px=big"], "ingest.min_side_px = 'big': expected a whole"),
        (["ingest", "--profile", "nope"], "profile 'nope' not found; there are:"),
        (["score"], "manifests/ingest.json, which is not there: run `python -m pipelines ingest` first"),
        (["ingest", "--set", "ingest.source=/no/such/folder"], "ingest.source: /no/such/folder"),
        (["ingest", "--set", "paths.workspace=/proc/none"], "paths.workspace = /proc/none: can't be written"),
        (["generate", "a red circle", "-o", "x.jpg"], "--output x.jpg: expected a name that ends in .png"),
        (["generate", "a red circle", "-o", "/no/x.png"], "no such folder as /no"),
        (
            ["train-renderer", "-o", "/no/such/folder"],
            "--output /no/such/folder: expected a folder that does",
        ),
        (["caption", "/no/such.png"], "/no/such.png: no such file"),
        (["generate", "x", "-o", "x.png", "--model", "models:/ddt-llama@champion"], "no such alias"),
        (["generate", "x", "-o", "x.png"], "ddt-llama: neither champion nor candidate in sqlite:"),
        (["trace", "models:/other"], "other: neither champion nor candidate in sqlite:"),
        (
            ["generate", "x", "-o", "x.png", "--model", "models:a@b"],
            "expected models:/<name>, models:/<name>@",
        ),
        (["generate", "x", "-o", "x.png", "--scale", "100000"], "--scale 100000: expected 1 to 64"),
        (["generate", "x", "-o", "x.png", "--seed", "-1"], "--seed -1: expected 0 to 4294967295"),
        (["reconstruct", "a.png", "-o", "x.png", "--scale", "0"], "--scale 0: expected 1 to 64"),
        (
            ["interpolate", "a.png", "b.png", "-o", "x.png", "--tokens", "0:1", "--scale", "0"],
            "--scale 0: expected 1 to 64",
        ),
        (["chat", "hello", "--scale", "0"], "--scale 0: expected 1 to 64"),
        (["verify"], "workspace: no manifests in it; has the pipeline been run?"),
        (["plan", "--tflops", "0"], "--tflops 0: expected a number > 0"),
        (
            ["ingest", "--set", "tracking.uri=http://ann:s3cret@127.0.0.1:9"],
            "tracking.uri = http://ann:***@127.0.0.1:9: Connection refused",
        ),
        (
            ["ingest", "--set", "tracking=http://ann:s3cret@host"],
            "tracking = 'http://ann:***@host': expected a",
        ),
        (["ingest", "--set", "tracking.model_name=a/b"], "tracking.model_name = 'a/b': expected none of /"),
    ],
)
def test_one_line(
    arguments: list[str], message: str, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in mistake(capsys, arguments[0], *places, *arguments[1:])


def test_verify_reads_all_that_was_made_again(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, path = open_store(tmp_path / "store"), tmp_path / "rows.arrow"
    path.write_bytes(b"rows")
    made = write_unit(store, "ingest", "f" * 64, "a" * 32, path, 1)
    Manifest("ingest", "f" * 64, {}, (made,)).save(manifest_path(tmp_path / "workspace", "ingest"))
    main(["verify", *places])
    assert capsys.readouterr().out.split()[-4:] == ["1", "units,", "0", "faults"]
    store.put_bytes(made.key, b"other")
    assert mistake(capsys, "verify", *places) == (
        "ddt: 1 shards or models are missing or have changed; delete these, run again"
    )


def test_a_cluster_that_is_gone_is_named_before_the_work(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    line = mistake(capsys, "ingest", *places)
    assert line.startswith("ddt: RAY_ADDRESS = 127.0.0.1:9: no cluster there (Connection refused); start it")
    assert not (tmp_path / "store" / "raw").exists() and not (tmp_path / "store" / "units").exists()


def test_an_empty_source_is_named(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    line = mistake(capsys, "ingest", *places, "--set", f"ingest.source={tmp_path}/empty")
    assert "ingest.source: no .tar or .parquet file" in line


def test_a_model_that_would_be_unpickled_is_named_before_any_work(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip").mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / "clip" / name).touch()
    line = mistake(capsys, "score", *places, "--set", f"score.model={tmp_path}/clip")
    assert line.startswith(
        f"ddt: score.model = {tmp_path}/clip: holds pytorch_model.bin, no safetensors; nothing is unpickled"
    )


def test_a_store_that_cannot_be_written_is_named(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    line = mistake(capsys, "ingest", *places, "--set", f"paths.store={tmp_path}/file")
    assert f"paths.store: {tmp_path}/file: exists and is not a folder" in line
    line = mistake(capsys, "ingest", *places, "--set", "paths.store=/proc/none")
    assert "paths.store: /proc/none: no folder can be made here" in line


def test_a_tracking_database_that_is_none_is_named(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").write_text("not a database at all")
    for uri, message in (
        (f"sqlite:///{tmp_path}/notes", "the file is no SQLite database"),
        (f"sqlite:///{tmp_path}/notes/mlflow.db", f"File exists ({tmp_path}/notes)"),
        (f"sqlite:///{tmp_path}", f"Is a directory ({tmp_path})"),
    ):
        for command in (["ingest"], ["generate", "x", "-o", str(tmp_path / "x.png")]):
            line = mistake(capsys, *command, *places, "--set", f"tracking.uri={uri}")
            assert line == f"ddt: tracking.uri = {uri}: {message}"
    assert not (tmp_path / "store" / "units").exists()


def test_a_picture_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.png").mkdir()
    line = mistake(capsys, "generate", "x", "-o", str(tmp_path / "folder.png"), *places)
    assert "folder.png: is a folder, expected a file" in line

    def full(self: Image.Image, path: Path, *_: object, **__: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    assert [path.name for path in tmp_path.glob("*a.png*")] == []


def test_a_file_that_is_no_image_is_named(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.png").write_bytes(b"not an image")
    assert "not a readable image" in mistake(capsys, "caption", str(tmp_path / "notes.png"), *places)


def test_an_incomplete_model_folder_is_refused(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "model").mkdir()
    line = mistake(capsys, "caption", str(tmp_path / "a.png"), "--model", str(tmp_path / "model"), *places)
    assert "no _COMPLETE" in line


def test_a_cut_manifest_is_made_again_by_its_stage_and_named_by_others(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("manifests", "reports"):
        (tmp_path / "workspace" / folder).mkdir(parents=True)
        (tmp_path / "workspace" / folder / "ingest.json").write_text('{"stage": "ing')
    assert "manifests/ingest.json: not a manifest" in mistake(capsys, "score", *places)
    params = load_params(ROOT / "params.yaml", None, places[2::2])
    assert not is_finished(stage_context("ingest", params))


def test_an_occupied_port_is_named(places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"--port {port}: Address already in use" in mistake(capsys, "ui", *places, "--port", port)


def test_prefixes() -> None:
    assert parse_prefixes("1,4,all", 16) == [1, 4, 16]
    for wrong in ("17", "x", "1,,2", "-1"):
        with pytest.raises(ValueError, match="expected numbers from 0 to 16 or all"):
            parse_prefixes(wrong, 16)


@pytest.mark.ray
def test_a_corrupt_tar_is_counted_and_stops_the_stage(
    tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "0.tar").write_bytes(os.urandom(2000))
    with pytest.raises(SystemExit) as ended:
        main(["ingest", *places, "--set", f"ingest.source={tmp_path}/source"])
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(
        "ddt: ingest: pairs of ingest.source: 1 of 1 samples lost (corrupt_archive 1), more"
    )
    assert "the first: 0.tar: corrupt_archive, unreadable from its beginning" in last
    assert not (tmp_path / "workspace" / "manifests" / "ingest.json").exists()


@pytest.mark.ray
@pytest.mark.parametrize(("number", "code", "name"), [
    (signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM"),
])  # fmt: skip
def test_an_interrupt_ends_in_one_line(
    tmp_path: Path, places: list[str], number: int, code: int, name: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "ingest", *places],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # A test run in the background may have inherited an ignored SIGINT.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    limit = time.monotonic() + HANGS_AFTER_S
    while not list((tmp_path / "store").glob("units/ingest/*/*.json")) and time.monotonic() < limit:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=HANGS_AFTER_S)
    assert process.returncode == code
    last = errors.strip().splitlines()[-1]
    assert last == f"ddt: ended by {name}; what was finished is kept, run the same command to go on"
    assert not (tmp_path / "workspace" / "manifests" / "ingest.json").exists()


def test_who_calls_a_command_keeps_the_handler_of_sigterm(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        main(["trace", "--params", "/absent.yaml"])
    assert "absent.yaml" in capsys.readouterr().err and signal.getsignal(signal.SIGTERM) is before
