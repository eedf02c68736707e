"""The agreements between parts: one name a stage everywhere, imports that go one way, one owner a service."""

import ast
import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ddt.params import Params
from pipelines.engine.graph import INPUTS, STAGES

ROOT = Path(__file__).resolve().parent.parent
OWNERS = {
    "mlflow": "pipelines/services/tracking.py",
    "great_expectations": "pipelines/services/expectations.py",
}


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules(folder: str) -> Iterator[Path]:
    return (ROOT / folder).rglob("*.py")


def flow_steps() -> list[str]:
    tree = ast.parse((ROOT / "flows" / "full_pipeline.py").read_text())
    [flow] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return [node.name for node in flow.body if isinstance(node, ast.FunctionDef)]


def dvc_stages() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_five_names_agree() -> None:
    sections = [
        f.name
        for f in dataclasses.fields(Params)
        if f.name not in ("paths", "resources", "tracking", "notify")
    ]
    assert tuple(sections) == STAGES
    assert tuple(dvc_stages()) == STAGES
    assert [step for step in flow_steps() if step not in ("start", "end")] == list(STAGES)
    for stage in STAGES:
        assert (ROOT / "pipelines" / f"{stage}.py").is_file()
        assert dvc_stages()[stage]["cmd"] == f"python -m pipelines {stage}"
        assert dvc_stages()[stage]["params"] == [stage]


def test_dvc_and_flow_follow_the_graph() -> None:
    for stage, inputs in INPUTS.items():
        manifests = [d for d in dvc_stages()[stage]["deps"] if d.endswith(".json")]
        assert manifests == [f"data/workspace/manifests/{name}.json" for name in inputs]
        for name in inputs:
            assert flow_steps().index(name) < flow_steps().index(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_depends_on_the_code_that_makes_a_stage_stale(stage: str) -> None:
    for name in importlib.import_module(f"pipelines.{stage}").MODULES:
        path = Path(name.replace(".", "/"))
        covering = {path.as_posix(), f"{path}.py", *(parent.as_posix() for parent in path.parents)}
        assert covering & set(dvc_stages()[stage]["deps"]), name


def test_dvc_dependencies_exist() -> None:
    for stage in dvc_stages().values():
        for dependency in stage["deps"]:
            assert dependency.startswith("data/") or (ROOT / dependency).exists(), dependency


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("ddt", {"metaflow", "ray", "mlflow", "dvc", "great_expectations", "pipelines", "flows"}),
        ("pipelines", {"metaflow", "flows"}),
    ],
)
def test_imports_go_one_way(folder: str, forbidden: set[str]) -> None:
    for path in modules(folder):
        roots = {name.split(".")[0] for name in imports_of(path)}
        assert not roots & forbidden, f"{path.relative_to(ROOT)} imports {roots & forbidden}"


@pytest.mark.parametrize("service", OWNERS)
def test_one_module_imports_each_service(service: str) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for folder in ("ddt", "pipelines", "flows")
        for path in modules(folder)
        if service in {name.split(".")[0] for name in imports_of(path)}
    }
    assert users == {OWNERS[service]}


def test_one_module_starts_ray() -> None:
    starters = {
        path.relative_to(ROOT).as_posix()
        for folder in ("ddt", "pipelines", "flows")
        for path in modules(folder)
        if "ray.init(" in path.read_text()
    }
    assert starters == {"pipelines/engine/cluster.py"}


def test_one_module_opens_pictures() -> None:
    """Every stage, card and command sees what training sees: nobody decodes by another way."""
    openers = re.compile(r"Image\.open\(|ImageFile\(|exif_transpose|getexif|\.convert\(\"RGB\"\)|cv2|imageio")
    users = {
        path.relative_to(ROOT).as_posix()
        for folder in ("ddt", "pipelines", "flows")
        for path in modules(folder)
        if openers.search(path.read_text())
    }
    assert users == {"ddt/data/decode.py", "ddt/scenes/photo.py"}  # a scene is no picture from outside


def test_nothing_unpickles_or_trusts_remote_code() -> None:
    for folder in ("ddt", "pipelines", "flows"):
        for path in modules(folder):
            text = path.read_text()
            assert not {"pickle", "dill", "cloudpickle"} & {n.split(".")[0] for n in imports_of(path)}, path
            assert "torch.load(" not in text, path
            assert "trust_remote_code=True" not in text, path
            assert "shell=True" not in text, path


WITHOUT_WEIGHTS = {"AutoConfig", "AutoTokenizer", "PreTrainedTokenizerFast"}
OURS = {"DDTTokenizer", "SpatialTokenizer", "DDTLlama", "Renderer"}  # they read safetensors themselves


def test_weights_of_others_are_asked_for_as_safetensors() -> None:
    """`load` hands on what its callers say: those that want weights go through `load_model`."""
    found = []
    for path in (*modules("ddt"), *modules("pipelines")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                kind = ast.unparse(node.func).removesuffix(".from_pretrained")
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if kind not in WITHOUT_WEIGHTS | OURS:
                    found.append(kind)
                    assert said.get("use_safetensors") == "True" or None in said, f"{path}: {kind}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "load" and len(node.args) == 2:
                assert not re.search(r"Model$|For[A-Z]", ast.unparse(node.args[0])), path
    assert sorted(found) == ["AutoModelForCausalLM", "loader", "wanted"]


def test_reading_parameters_stays_light() -> None:
    """The flow reads params.yaml in every step: that must not import torch (1.5 s)."""
    import subprocess
    import sys

    code = "import sys; import ddt.params, pipelines.engine.graph; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
