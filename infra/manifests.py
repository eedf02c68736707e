"""What kustomization.yaml lists as one file, checked against Kubernetes' published schemas: `make manifests`.

No cluster, no kubectl: the files hold whole manifests, which an overlay of yours may change. A RayCluster's
and a RayJob's pods are checked as pods; their own fields against the names of KubeRay's API that stand below.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "build" / "manifests.yaml"
SCHEMAS = kubernetes_validate.latest_version()
ALONE = "ray-jobs.yaml"  # made one by one, when it is time
# Of KubeRay's API v1; its CRDs are not to be had as a package.
KUBERAY = {
    "RayCluster": {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
        "workerGroupSpecs", "suspend", "gcsFaultToleranceOptions",
    },
    "RayJob": {
        "entrypoint", "clusterSelector", "rayClusterSpec", "runtimeEnvYAML", "submissionMode", "backoffLimit",
        "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "activeDeadlineSeconds",
        "submitterPodTemplate", "suspend",
    },
    "headGroupSpec": {"rayStartParams", "template", "serviceType", "headService"},
    "workerGroupSpecs": {
        "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template",
        "idleTimeoutSeconds",
    },
}  # fmt: skip


class Plain(yaml.SafeDumper):
    """Everything written out: no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def main() -> None:
    """Check all, write what is to be applied; exit code 2 and one line where something is wrong."""
    try:
        applied = list(rendered())
        for manifest in [*applied, *documents(ALONE)]:
            check(manifest)
    except (ValueError, OSError, yaml.YAMLError) as error:
        print(f"manifests: {error}", file=sys.stderr)
        sys.exit(2)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(yaml.dump_all(applied, Dumper=Plain, sort_keys=False))
    print(f"{len(applied)} manifests in {OUTPUT}, as Kubernetes {SCHEMAS} wants them")


def rendered() -> Iterator[dict[str, Any]]:
    """The manifests that kustomization.yaml lists."""
    for name in yaml.safe_load((HERE / "kustomization.yaml").read_text())["resources"]:
        yield from documents(name)


def documents(name: str) -> list[dict[str, Any]]:
    """The manifests of one file."""
    return list(yaml.safe_load_all((HERE / name).read_text()))


def check(manifest: dict[str, Any]) -> None:
    """ValueError naming the manifest and the field that its kind does not have."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    if not manifest["apiVersion"].startswith("ray.io/"):
        _check_schema(manifest, f"{kind} {name}")
        return
    spec = manifest["spec"]
    _check_names(spec, kind, f"{kind} {name}: spec")
    groups = [("headGroupSpec", spec["headGroupSpec"])] if "headGroupSpec" in spec else []
    groups += [("workerGroupSpecs", group) for group in spec.get("workerGroupSpecs", [])]
    for key, group in groups:
        _check_names(group, key, f"{kind} {name}: spec.{key}")
        _check_pod(group["template"], f"{kind} {name}: the pods of {group.get('groupName', 'the head')}")
    if "submitterPodTemplate" in spec:
        _check_pod(spec["submitterPodTemplate"], f"{kind} {name}: the submitter's pod")


def _check_names(values: dict[str, Any], key: str, place: str) -> None:
    unknown = sorted(values.keys() - KUBERAY[key])
    if unknown:
        raise ValueError(f"{place}.{unknown[0]}: unknown; expected one of {', '.join(sorted(KUBERAY[key]))}")


def _check_pod(template: dict[str, Any], place: str) -> None:
    metadata = {"name": "pod", **template.get("metadata", {})}
    _check_schema({"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}, place)


def _check_schema(manifest: dict[str, Any], place: str) -> None:
    """Strict: a field that the schema does not know is a mistake too."""
    try:
        kubernetes_validate.validate(manifest, SCHEMAS, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.path))
        raise ValueError(f"{place}: {where}: {error.message[:200]}") from None


if __name__ == "__main__":
    main()
