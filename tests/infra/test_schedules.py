"""The flows rendered for Argo and Step Functions: against their goldens and against the published schemas.

`python -m tests.infra.rendering` writes the goldens again.
"""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("metaflow")
pytest.importorskip("kubernetes")

from tests.infra import rendering  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FLOWS = ("full_pipeline.argo", "retrain.argo")


@pytest.fixture(scope="module")
def rendered(s3_endpoint: str) -> dict[str, dict[str, Any]]:
    return rendering.render(s3_endpoint)


@pytest.mark.parametrize("name", rendering.RENDERED)
def test_golden(name: str, rendered: dict[str, dict[str, Any]], s3_endpoint: str) -> None:
    again = rendering.golden_text(rendered[name], s3_endpoint)
    assert again.splitlines() == (rendering.GOLDENS / f"{name}.json").read_text().splitlines()


def known(model: Any, value: Any, place: str) -> list[str]:
    """Fields of `value` that its parsed model does not have: pydantic drops what it does not know."""
    if isinstance(value, dict) and isinstance(model, dict):
        lost = [f"{place}.{name}" for name, item in value.items() if item is not None and name not in model]
        inner = (known(model[n], item, f"{place}.{n}") for n, item in value.items() if n in model)
        return lost + [found for part in inner for found in part]
    if isinstance(value, list) and isinstance(model, list):
        pairs = enumerate(zip(model, value, strict=True))
        return [found for i, (m, v) in pairs for found in known(m, v, f"{place}[{i}]")]
    return []


@pytest.mark.parametrize("name", FLOWS)
def test_argo_knows_every_field(name: str, rendered: dict[str, dict[str, Any]]) -> None:
    """hera's models are generated from Argo's published OpenAPI document."""
    models = pytest.importorskip("hera.workflows.models")
    model = models.WorkflowTemplate.model_validate(rendered[name])
    parsed = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
    assert known(parsed, rendered[name], "template") == []
    misspelt = json.loads(json.dumps(rendered[name]).replace('"serviceAccountName"', '"serviceAccount_"'))
    parsed = json.loads(models.WorkflowTemplate.model_validate(misspelt).model_dump_json(by_alias=True))
    assert known(parsed, misspelt, "template") != []


def test_step_functions_schema(rendered: dict[str, dict[str, Any]]) -> None:
    """cfn-lint carries the schema of state machines; its rule follows the transitions too."""
    schemas = pytest.importorskip("cfnlint.data.schemas.other.step_functions")
    from jsonschema import Draft7Validator

    folder = Path(schemas.__file__).parent
    validator = Draft7Validator(json.loads((folder / "statemachine.json").read_text()))
    machine = rendered["full_pipeline.step_functions"]
    assert [error.message for error in validator.iter_errors(machine)] == []
    assert list(validator.iter_errors({"States": machine["States"]})) != []


def templates(workflow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {t["name"]: t for t in workflow["spec"]["templates"] if t.get("container")}


@pytest.mark.parametrize("name", FLOWS)
def test_pods_are_what_the_remote_file_says(name: str, rendered: dict[str, dict[str, Any]]) -> None:
    pods = templates(rendered[name])
    for step in ("ingest", "recaption", "train-tokenizer", "pretrain", "promote"):
        assert pods[step]["container"]["image"] == "registry.example.org/ddt-llama:0.1.0"
        assert pods[step]["serviceAccountName"] == "ddt-steps"
    resources = pods["pretrain"]["container"]["resources"]
    assert resources["requests"]["cpu"] == "64" and resources["limits"]["nvidia.com/gpu"] == "8"
    assert "nvidia.com/gpu" not in (pods["ingest"]["container"]["resources"]["limits"] or {})
    assert pods["pretrain"]["retryStrategy"]["backoff"] == {"duration": "5m"}
    assert "retryStrategy" not in pods["start"]


def test_a_schedule_an_event_and_an_end_at_once(rendered: dict[str, dict[str, Any]]) -> None:
    retrain = rendered["retrain.argo"]
    annotations = retrain["metadata"]["annotations"]
    assert annotations["metaflow/cron"]
    assert "ddt-llama-shards" in json.dumps(annotations)
    assert "metaflow/cron" not in rendered["full_pipeline.argo"]["metadata"]["annotations"]
    # Where nothing is new `ingest` is left out, and `end` comes next.
    [dag] = [t["dag"] for t in retrain["spec"]["templates"] if t.get("dag") and t["name"] == "Retrain"]
    tasks = {task["name"]: task for task in dag["tasks"]}
    assert "ingest" in tasks["ingest"]["when"]
