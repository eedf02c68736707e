"""Which container each step gets from a remote file, and that without one a step has none."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("metaflow")

from ddt.config import ConfigError  # noqa: E402
from ddt.yaml_file import read_yaml  # noqa: E402
from flows.remote import Size, decorators, overlays, parse_remote, size_of  # noqa: E402
from flows.support import check_command_line, read_settings  # noqa: E402
from pipelines.engine.graph import STAGES  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CONF = read_yaml(ROOT / "params.yaml")


def remote(name: str = "kubernetes", **changes: Any):
    values = read_yaml(ROOT / "infra" / f"{name}.yaml")
    for key, value in changes.items():
        section, _, inner = key.partition("__")
        values[section] = {**values[section], inner: value} if inner else value
    return parse_remote(values, CONF)


def test_sizes_follow_the_resources() -> None:
    where = remote(resources__cpus=64, resources__cpus_per_actor=16, resources__train_workers=8)
    # 64 cores have room for four actors of 16, each with an accelerator; ingest, select use none.
    expected = dict.fromkeys(STAGES, Size(64, 4)) | {"ingest": Size(64, 0), "select": Size(64, 0)}
    expected |= dict.fromkeys(("train_tokenizer", "pretrain", "finetune"), Size(64, 8))
    expected["promote"] = Size(where.driver_cpus, 0)
    assert {stage: size_of(stage, where) for stage in STAGES} == expected
    assert size_of("start", where) == size_of("end", where) == Size(where.driver_cpus, 0)


def test_workers_of_a_stage_of_their_own_count() -> None:
    where = remote(resources__finetune_workers=2, resources__tokenizer_workers=1)
    assert size_of("finetune", where).gpus == 2
    assert size_of("train_tokenizer", where).gpus == 1
    assert size_of("pretrain", where).gpus == 8


def test_with_a_cluster_of_rays_own_the_steps_are_drivers() -> None:
    where = remote(ray_address="ddt-ray-head-svc:6379", resources__cpus=None)
    assert {size_of(stage, where) for stage in STAGES} == {Size(where.driver_cpus, 0)}
    attached = decorators("pretrain", True, where)
    assert attached["environment"]["vars"]["RAY_ADDRESS"] == "ddt-ray-head-svc:6379"


def test_decorators_of_a_pod() -> None:
    attached = decorators("pretrain", True, remote())
    assert set(attached) == {"kubernetes", "timeout", "environment", "retry"}
    pod = attached["kubernetes"]
    assert (pod["cpu"], pod["memory"], pod["gpu"]) == (64, 64 * 8 * 1024, 8)
    assert pod["image"] == "registry.example.org/ddt-llama:0.1.0" and pod["service_account"] == "ddt-steps"
    assert pod["secrets"] == ["ddt-s3", "ddt-mlflow-client"]
    assert pod["persistent_volume_claims"] == {"ddt-workspace": "/workspace"}
    assert pod["security_context"]["run_as_non_root"] is True
    assert attached["timeout"] == {"seconds": 120 * 3600}
    assert attached["retry"] == {"times": 3, "minutes_between_retries": 5}
    start = decorators("start", False, remote())
    assert "retry" not in start and "gpu" not in start["kubernetes"]
    assert start["timeout"] == {"seconds": 2 * 3600}


def test_decorators_of_a_batch_job() -> None:
    attached = decorators("score", True, remote("batch"))
    assert set(attached) == {"batch", "timeout", "environment", "retry", "secrets"}
    assert attached["batch"]["efs_volumes"] == {"fs-0123456789abcdef0": "/workspace"}
    assert not {"service_account", "disk", "secrets"} & set(attached["batch"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"service": "nomad"}, "remote.service = 'nomad': expected one of kubernetes, batch"),
        ({"hours": {"other": 1, "pretrian": 3}}, "hours.pretrian: expected a stage or other"),
        ({"hours": {"ingest": 1}}, "hours.other: missing"),
        ({"resources__cpus": None}, "resources.cpus = null: expected the cores of a container"),
        ({"resources__cpus": 32}, "resources.cpus = 32: expected at least the 64 cores of train_tokenizer's"),
        ({"memory": 3}, "remote.memory: unknown key"),
    ],
)
def test_mistakes_name_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        remote(**changes)
    assert message in str(error.value)


def test_places_are_laid_over_the_profile_and_under_single_keys() -> None:
    values = read_yaml(ROOT / "infra" / "kubernetes.yaml")
    settings = read_settings(CONF, "paper", "paths.workspace=/elsewhere", values)
    assert settings["paths"] == {"store": "s3://ddt-llama/store", "workspace": "/elsewhere"}
    assert settings["tracking"]["uri"] == "http://mlflow:5000"
    assert settings["resources"]["train_workers"] == 8  # the paper's 512 are not in one pod
    assert settings["pretrain"]["init"] == "meta-llama/Meta-Llama-3-8B"
    assert set(overlays(values | {"notify": {}})) == {"paths", "resources", "tracking", "notify"}
    assert read_settings(CONF, "", "", {}) == CONF


def test_a_remote_run_is_checked_before_it_begins(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Neither the pods' workspace nor their MLflow is here: that is no mistake."""
    right = str(ROOT / "infra" / "kubernetes.yaml")
    check_command_line(["--config", "remote", right, "run"])
    check_command_line(["--config", "remote", right, "argo-workflows", "create"], "retrain")
    assert capsys.readouterr().err == ""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(Path(right).read_text().replace("image:", "picture:"))
    with pytest.raises(SystemExit) as ended:
        check_command_line(["--config", "remote", str(wrong), "argo-workflows", "create"], "retrain")
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("retrain: remote.picture: unknown key")
