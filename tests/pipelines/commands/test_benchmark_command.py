"""`ddt benchmark`: a real (untrained) model makes outputs, the result is JSON, mistakes are one line; killed
with SIGKILL and run again, nothing is made twice.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from ddt.eval.official import OFFICIAL
from ddt.eval.official.geneval import GenEval
from ddt.mllm import DDTLlama
from ddt.mllm.build import load_tokenizer, new_model
from ddt.mllm.vocabulary import extend_tokenizer
from ddt.scenes import weights_dir
from ddt.store import folder_digest
from ddt.tokenizer import DDTTokenizer, presets
from pipelines.commands.benchmark import pairs
from pipelines.commands.cli import main
from pipelines.engine.shared_cluster import is_alive
from tests.mllm.mllm_tiny import TINY
from tests.processes import HANGS_AFTER_S

ROOT = Path(__file__).resolve().parents[3]
PROMPTS = 200  # DrawBench's: seven units
MARK = "DDT_TEST_STARTED_BY"
LINE = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(GenEval, "published", 4)
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(json.dumps(LINE) + "\n")
    found = {f"00000/samples/{k:04d}.png": [["bench", 0, 0, 9, 9, 0.9, ""]] for k in range(4)}
    (tmp_path / "found.json").write_text(json.dumps(found))
    return path


@pytest.fixture
def model_folder(tmp_path):
    """An untrained model of the real classes."""
    torch.manual_seed(0)
    image_tokenizer = DDTTokenizer(presets()["debug"]).eval()
    text_tokenizer = load_tokenizer(weights_dir("bpe"))
    vocabulary = extend_tokenizer(text_tokenizer, image_tokenizer.config.codebook_size)
    model = DDTLlama(new_model(TINY, vocabulary, 0), text_tokenizer, image_tokenizer)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def arguments(data, *more):
    folder = data.parent
    # a store of its own: what one run of the tests made would be taken up by the next
    store = ["--set", f"paths.store={folder / 'store'}"]
    return ["benchmark", "geneval", "--data", str(data), "--outputs", str(folder / "out"), *store, *more]


@pytest.mark.ray
def test_generates_and_scores(data, model_folder, capsys):
    found = f"detections={data.parent / 'found.json'}"
    main(arguments(data, "--model", str(model_folder), "--precomputed", found, "--batch-size", "4"))
    result = json.loads(capsys.readouterr().out)
    assert result["scores"]["geneval/overall"]["value"] == 1
    assert result["generated"]["made"] == 4 and len(result["generated"]["digest"]) == 64
    assert result["generated"]["sampling"]["draw"]["cfg_scale"] == 8.0
    assert result["generated"]["tokenizer"] == folder_digest(model_folder / "image_tokenizer")
    main(arguments(data, "--model", str(model_folder), "--no-score"))
    assert json.loads(capsys.readouterr().out)["generated"]["made"] == 0


def test_the_documentation_has_every_benchmark():
    text = (ROOT / "docs/benchmarks.md").read_text()
    assert [name for name in OFFICIAL if f"`{name}`" not in text] == []


def test_mistakes_are_one_line(data, capsys):
    (data.parent / "out").mkdir()
    for more, told in (
        ((), "4 x missing image"),
        (("--no-score",), "nothing to do without --model"),
        (("--setting", "x=1"), "no setting 'x'"),
        (("--precomputed", "found.json"), "expected KEY=VALUE"),
        (("--scorer", "eyes=x"), "unknown kind 'eyes'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments(data, *more))
        captured = capsys.readouterr()
        assert stopped.value.code == 2 and captured.out == ""
        assert captured.err.count("\n") == 1 and told in captured.err
    with pytest.raises(ValueError, match="is given twice"):
        pairs("--scorer", ["clip=a", "clip=b"])


def start(tmp_path: Path, store: str, outputs: str) -> subprocess.Popen:
    """The command in a process of its own; what it prints goes to `<outputs>.json`."""
    command = [
        sys.executable, "-m", "pipelines", "benchmark", "drawbench",
        "--data", str(tmp_path / "drawbench.csv"),
        "--outputs", str(tmp_path / outputs), "--model", str(tmp_path / "model"), "--no-score",
        "--batch-size", "16", "--set", f"paths.store={tmp_path / store}",
    ]  # fmt: skip
    with (tmp_path / f"{outputs}.json").open("wb") as said:
        return subprocess.Popen(
            command, env=os.environ | {MARK: str(tmp_path)}, stdout=said, stderr=subprocess.DEVNULL
        )


def started_by(tmp_path: Path) -> list[int]:
    """The processes that `start` began and all that those began: Ray's are not children of the killed one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended, or is another user's
            if f"{MARK}={tmp_path}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return [pid for pid in found if is_alive(pid)]


def commit_files(store: Path) -> dict[str, tuple[int, int, str]]:
    """Every unit's record: its inode, time and digest, so that one written again is seen."""
    found = {}
    for path in (store / "units").rglob("*.json"):
        status, digest = path.stat(), hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(store))] = (status.st_ino, status.st_mtime_ns, digest)
    return found


def pictures(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.png")}


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
def test_killed_and_run_again_makes_nothing_twice(tmp_path, model_folder):
    rows = "".join(f"a photo of {number} dogs,Counting\n" for number in range(PROMPTS))
    (tmp_path / "drawbench.csv").write_text("Prompts,Category\n" + rows)

    killed = start(tmp_path, "store", "out")
    limit = time.monotonic() + HANGS_AFTER_S
    while not commit_files(tmp_path / "store"):
        assert killed.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    while started_by(tmp_path):  # what Ray's own processes still finish is committed as well
        assert time.monotonic() < limit
        time.sleep(0.05)
    before = commit_files(tmp_path / "store")
    assert 1 <= len(before) < 7

    again = start(tmp_path, "store", "out")
    assert again.wait(HANGS_AFTER_S) == 0
    made = json.loads((tmp_path / "out.json").read_text())["generated"]["made"]
    after = commit_files(tmp_path / "store")
    assert {path: after[path] for path in before} == before and len(after) == 7
    units = [32] * 6 + [8]
    assert made in {PROMPTS - sum(units[: len(before)]), PROMPTS - sum(units[: len(before) - 1]) - 8}

    whole = start(tmp_path, "other", "whole")
    assert whole.wait(HANGS_AFTER_S) == 0
    assert len(pictures(tmp_path / "out")) == PROMPTS
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")
    assert {k: v[2] for k, v in after.items()} == {
        k: v[2] for k, v in commit_files(tmp_path / "other").items()
    }
