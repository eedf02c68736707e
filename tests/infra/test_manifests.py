"""infra/ against Kubernetes' published schemas, Ray's own reader of RayClusters, and itself."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddt.params import load_params
from ddt.yaml_file import read_yaml

pytest.importorskip("kubernetes_validate")
ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
spec = importlib.util.spec_from_file_location("manifests", INFRA / "manifests.py")
assert spec is not None and spec.loader is not None
manifests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(manifests)
ALL = [*manifests.rendered(), *manifests.documents(manifests.ALONE)]
OF_THE_OPERATOR = {"ddt-postgres", "ddt-s3", "ddt-mlflow-client"}  # secrets that docs/clusters.md has made


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {m["metadata"]["name"]: m for m in ALL if m["kind"] == kind}


def inside(value: Any, key: str) -> Iterator[Any]:
    """Every value of `key`, however deep."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key:
                yield item
            yield from inside(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from inside(item, key)


@pytest.mark.parametrize("manifest", ALL, ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_valid(manifest: dict[str, Any]) -> None:
    manifests.check(manifest)


def broken(name: str, *path: Any, value: Any = None) -> dict[str, Any]:
    """A manifest with one field of a group or container changed; without a value its name is misspelt."""
    manifest = json.loads(json.dumps(next(m for m in ALL if m["metadata"]["name"] == name)))
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        inner[f"{path[-1]}x"] = inner.pop(path[-1])
    else:
        inner[path[-1]] = value
    return manifest


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (broken("ddt-workspace", "spec", "accessModes"), "PersistentVolumeClaim ddt-workspace: spec"),
        (
            broken("ddt-ray", "spec", "headGroupSpec", "template", "spec", "containers"),
            "the pods of the head",
        ),
        (broken("ddt-ray", "spec", "rayVersion"), "RayCluster ddt-ray: spec.rayVersionx: unknown"),
        (
            broken("ddt-ray", "spec", "workerGroupSpecs", 0, "maxReplicas"),
            "spec.workerGroupSpecs.maxReplicasx: unknown",
        ),
        (broken("ddt-ingest", "spec", "entrypoint"), "RayJob ddt-ingest: spec.entrypointx: unknown"),
        (
            broken("ddt-ingest", "spec", "submitterPodTemplate", "spec", "containers", 0, "image", value=7),
            "submitter",
        ),
    ],
)
def test_a_mistake_is_found(manifest: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manifests.check(manifest)


def test_one_command_writes_what_kustomize_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "OUTPUT", tmp_path / "build" / "manifests.yaml")
    manifests.main()
    written = list(yaml.safe_load_all((tmp_path / "build" / "manifests.yaml").read_text()))
    assert written == list(manifests.rendered())
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return
    done = subprocess.run([kubectl, "kustomize", str(INFRA)], capture_output=True, text=True, check=False)
    if done.returncode == 0:  # a stand-in of that name may know no kustomize

        def by_name(found: list[dict[str, Any]]) -> list[str]:
            return sorted(json.dumps(manifest, sort_keys=True) for manifest in found)

        assert by_name(list(yaml.safe_load_all(done.stdout))) == by_name(written)


def test_ray_reads_the_cluster_as_meant() -> None:
    """Ray's autoscaler has its own reader of the custom resource."""
    pytest.importorskip("ray")
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    config = _derive_autoscaling_config_from_ray_cr(named("RayCluster")["ddt-ray"])
    groups = {
        name: (kind["max_workers"], kind["resources"])
        for name, kind in config["available_node_types"].items()
    }
    assert groups.pop("headgroup")[1]["CPU"] == 0
    accelerators = {name: (most, found.get("GPU", 0), found["CPU"]) for name, (most, found) in groups.items()}
    assert accelerators == {"curation": (64, 0, 32), "inference": (256, 1, 8), "training": (64, 8, 64)}
    resources = load_params(ROOT / "params.yaml", "paper").resources
    most, gpus, cpus = accelerators["training"]
    assert most * gpus == resources.train_workers * resources.gpus_per_worker
    assert cpus == gpus * (resources.train_cpus_per_worker or 1)
    assert accelerators["inference"][2] >= resources.cpus_per_actor


def test_names_that_are_used_are_there() -> None:
    accounts, claims = named("ServiceAccount"), named("PersistentVolumeClaim")
    assert set(inside(ALL, "serviceAccountName")) <= set(accounts)
    assert {claim["claimName"] for claim in inside(ALL, "persistentVolumeClaim")} <= set(claims)
    assert {secret["name"] for secret in inside(ALL, "secretRef")} <= OF_THE_OPERATOR
    assert {m["metadata"].get("namespace", "ddt-llama") for m in ALL} == set(named("Namespace"))
    remote = read_yaml(INFRA / "kubernetes.yaml")
    assert remote["account"] in accounts and set(remote["volumes"]) <= set(claims)
    assert set(remote["secrets"]) <= OF_THE_OPERATOR
    images = {image for image in inside(ALL, "image") if "ddt-llama" in image}
    assert images == {remote["image"]} and remote["image"] in (INFRA / "Dockerfile").read_text()
    service = named("Service")["mlflow"]
    assert remote["tracking"]["uri"] == f"http://mlflow:{service['spec']['ports'][0]['port']}"


def test_least_rights() -> None:
    """No role for the whole cluster, no wildcard, no right on secrets; a token only where a role is bound."""
    assert not named("ClusterRole") and not named("ClusterRoleBinding")
    for role in named("Role").values():
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"secrets", "configmaps", "pods/exec"} & set(rule["resources"])
    bound = {s["name"] for binding in named("RoleBinding").values() for s in binding["subjects"]}
    for name, account in named("ServiceAccount").items():
        assert account.get("automountServiceAccountToken", True) == (name in bound), name


def test_no_container_may_more_than_it_must() -> None:
    for containers in inside(ALL, "containers"):
        for container in containers:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
    pods = [t["spec"] for key in ("template", "submitterPodTemplate") for t in inside(ALL, key)]
    assert len(pods) == 9
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True


def test_no_secret_is_in_the_files() -> None:
    assert not named("Secret")
    text = "".join(path.read_text() for path in INFRA.glob("*.yaml"))
    assert "postgresql+psycopg://mlflow:$(POSTGRES_PASSWORD)@postgres" in text
    assert "AKIA" not in text and "stringData" not in text


def test_the_command_needs_nothing_of_the_pipeline() -> None:
    """`make manifests` in a fresh clone installs three packages."""
    code = f"import runpy, sys; runpy.run_path({str(INFRA / 'manifests.py')!r}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert not {"torch", "ddt", "ray", "metaflow"} & set(done.stdout.split())
