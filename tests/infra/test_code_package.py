"""Metaflow's code package, unpacked into an empty folder: the steps find all that they import and read."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("metaflow")
ROOT = Path(__file__).resolve().parents[2]
READS = """
import ddt, flows, pipelines
from ddt.data.refs import resolve
from ddt.params import load_params
from ddt.weights import check_safetensors
from pathlib import Path
for profile in (None, "smoke", "photos", "overnight", "h200", "paper"):
    params = load_params("params.yaml", profile)
for judge in ("clip", "captioner", "bpe"):
    assert (Path(resolve(f"scenes:{judge}")) / "tokenizer.json").is_file(), judge
assert list(Path(resolve("scenes:clip")).glob("*.safetensors"))
print(*(Path(module.__file__).parents[1] for module in (ddt, flows, pipelines)))
"""


DIGESTS = """
from ddt.data.refs import model_digest
print(*(model_digest(f"scenes:{judge}") for judge in ("clip", "captioner", "bpe")))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a pod has it: in a folder below the image's own copy of the repository, with other code in it."""
    image = tmp_path_factory.mktemp("app")
    for name in ("pipelines", "ddt", "flows"):
        (image / name).mkdir()
        (image / name / "__init__.py").write_text("raise ImportError('of the image')")
    archive = image / "job.tar"
    ours("flows/full_pipeline.py", "package", "save", str(archive), cwd=ROOT)
    folder = image / "metaflow"
    with tarfile.open(archive) as package:
        package.extractall(folder, filter="data")
    return folder


def ours(*command: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "PYTHONDONTWRITEBYTECODE": "1"
    }
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_what_the_stages_read_is_in_it(unpacked: Path) -> None:
    assert ours("-c", READS, cwd=unpacked).split() == [str(unpacked)] * 3


def test_a_pod_and_this_machine_do_the_same_work_once(unpacked: Path) -> None:
    """The models that stages start from have one identity, which is part of their fingerprints."""
    assert ours("-c", DIGESTS, cwd=unpacked) == ours("-c", DIGESTS, cwd=ROOT)


def test_the_flow_is_read_from_there(unpacked: Path) -> None:
    """As Metaflow calls it: the flow's file is at the package's root. It imports stages."""
    assert "Step train_tokenizer" in ours("full_pipeline.py", "show", cwd=unpacked)
    code = "import retrain, flows.support as s; print(s.ROOT, retrain.HERE)"
    assert ours("-c", code, cwd=unpacked).split() == [str(unpacked)] * 2


def test_plan_runs_there(unpacked: Path) -> None:
    told = ours("-m", "pipelines", "plan", "--profile", "smoke", cwd=unpacked)
    assert "train_tokenizer" in told and "language model parameters" in told


def test_nothing_else_is_in_it(unpacked: Path) -> None:
    suffixes = {path.suffix for path in unpacked.rglob("*") if path.is_file() and ".mf_" not in str(path)}
    assert suffixes == {".py", ".yaml", ".json", ".safetensors", ".md"}
    assert not (unpacked / "tests").exists() and not (unpacked / ".git").exists()
