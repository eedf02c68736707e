"""The flow as Argo would run it: each pod's own command, one after another, and what came of it.

A pod is a process with its own `/tmp`, an empty folder there, and a disk that it can only read. It fetches
Metaflow's code package from S3, unpacks it and runs its step. All that the pods share is the S3 server and an
MLflow server with PostgreSQL. What they make has the digests of a run on this machine.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("metaflow")
pytest.importorskip("kubernetes")

from ddt.params import load_params  # noqa: E402
from ddt.yaml_file import read_yaml  # noqa: E402
from pipelines.engine.graph import STAGES  # noqa: E402
from pipelines.services import tracking  # noqa: E402
from pipelines.services.made_by import METAFLOW_RUN, PARENT  # noqa: E402
from tests.machines import needs_machines  # noqa: E402
from tests.postgres import needs_postgres, postgres  # noqa: E402, F401
from tests.processes import HANGS_AFTER_S  # noqa: E402
from tests.servers import tracking_server  # noqa: E402
from tests.test_flow import Flow  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.ray, needs_machines, needs_postgres]
ROOT = Path(__file__).resolve().parents[2]
NAME, CREATED = "proof", "2026-01-31T12:00:00Z"
STORE = "s3://test-bucket/pods"
POD = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
# $1: the folder that Argo's executor reads a pod's outputs from. $2: the pod's command.
CLEAN = """
mount -t tmpfs none /mnt && mkdir /mnt/out && mount --bind "$1" /mnt/out
mount -t tmpfs none /tmp && mount -o remount,bind,ro / && mkdir /tmp/home /tmp/work && cd /tmp/work || exit 99
exec bash -c "$2"
"""
OF_THE_POD = "pod"  # in place of what Kubernetes tells a pod of itself
PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}")
RESOURCES = {
    "cpus": 2, "object_store_mb": 200, "cpus_per_actor": 1, "gpus_per_actor": 0, "train_workers": 1,
    "train_cpus_per_worker": 1, "tokenizer_cpus_per_worker": 1, "gpus_per_worker": 0,
}  # fmt: skip


def remote_file(folder: Path, server: str) -> Path:
    """infra/kubernetes.yaml for this machine's size, and a workspace that no pod hands on."""
    values = read_yaml(ROOT / "infra" / "kubernetes.yaml")
    values |= {"environment": {"HF_HOME": "/tmp/hub"}, "tracking": {"uri": f"http://{server}"}}
    values["paths"] = {"store": STORE, "workspace": "/tmp/workspace"}
    values["resources"] |= RESOURCES
    (folder / "remote.yaml").write_text(yaml.safe_dump(values))
    return folder / "remote.yaml"


def template(folder: Path, remote: Path, endpoint: str) -> dict[str, Any]:
    """What Argo would be sent; the code package is on S3 then."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("METAFLOW_")} | {
        "METAFLOW_USER": "ann",
        "METAFLOW_HOME": str(folder),
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": f"{STORE}/metaflow",
        "METAFLOW_S3_ENDPOINT_URL": endpoint,
        "METAFLOW_KUBERNETES_NAMESPACE": "ddt-llama",
    }
    options = ("--quiet", "--config", "remote", str(remote), "--datastore", "s3")
    done = subprocess.run(
        [sys.executable, "flows/full_pipeline.py", *options, "argo-workflows", "create", "--only-json"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@dataclass
class Argo:
    """Runs a template's pods in the order of its graph; `outputs`: what each task left for those after it."""

    folder: Path
    template: dict[str, Any]
    parameters: dict[str, str]
    outputs: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        [dag] = [t["dag"] for t in self.template["spec"]["templates"] if t["name"] == "FullPipeline"]
        pods = {t["name"]: t["container"] for t in self.template["spec"]["templates"] if t.get("container")}
        for task in dag["tasks"]:
            assert all(need.removesuffix(".Succeeded") in self.outputs for need in needs(task))
            [inputs] = task["arguments"]["parameters"]
            self.outputs[task["name"]] = self.pod(task["name"], pods[task["template"]], inputs["value"])

    def pod(self, name: str, container: dict[str, Any], inputs: str) -> str:
        """The id of the task that the pod ran."""
        known = {"inputs.parameters.input-paths": self.filled(inputs, {}), "retries": "0"}
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": "/tmp/home",
            "METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1",  # the image has them
            **{n: v for n, v in os.environ.items() if n.startswith("AWS_")},  # the secret ddt-s3
            **{
                each["name"]: self.filled(each.get("value") or OF_THE_POD, known) for each in container["env"]
            },
        }
        shell, flag, command = container["command"]
        assert (shell, flag) == ("bash", "-c")
        out, log = self.folder / name, self.folder / f"{name}.log"
        out.mkdir()
        with log.open("w") as words:
            done = subprocess.run(
                [*POD, "bash", "-c", CLEAN, "pod", str(out), self.filled(command, known)],
                env=environment, stdout=words, stderr=words, timeout=HANGS_AFTER_S,
            )  # fmt: skip
        assert done.returncode == 0, f"{name}: {log.read_text()[-4000:]}"
        return (out / "task_id").read_text().strip()

    def filled(self, text: str, known: dict[str, str]) -> str:
        """With Argo's placeholders replaced."""
        known = known | {"workflow.name": NAME, "workflow.creationTimestamp": CREATED}
        for task, output in self.outputs.items():
            known[f"tasks.{task}.outputs.parameters.task-id"] = output
        for name, value in self.parameters.items():
            known[f"=toBase64(workflow.parameters['{name}'])"] = base64.b64encode(value.encode()).decode()
        return PLACEHOLDER.sub(lambda found: known[found[1]], text)


def needs(task: dict[str, Any]) -> list[str]:
    """Tasks that one waits for."""
    return task["depends"].split(" && ") if task["depends"] else []


def test_pods_make_what_this_machine_makes(
    tmp_path: Path,
    s3_endpoint: str,
    postgres: str,  # noqa: F811
) -> None:
    (tmp_path / "pods").mkdir()
    artifacts = ["--artifacts-destination", f"{STORE}/mlartifacts"]
    with tracking_server(tmp_path, artifacts, postgres) as server:
        made = template(tmp_path, remote_file(tmp_path, server), s3_endpoint)
        given = {each["name"]: each["value"] for each in made["spec"]["arguments"]["parameters"]}
        assert set(given) == {"profile", "set"}
        argo = Argo(tmp_path / "pods", made, given | {"profile": json.dumps("smoke")})
        argo.run()
        where = load_params(ROOT / "params.yaml", "smoke", [f"tracking.uri=http://{server}"]).tracking
        client = tracking.client(where)
        runs = client.search_runs([tracking.experiment_id(where, client)])
        [parent] = [run for run in runs if run.data.tags.get(METAFLOW_RUN) == f"FullPipeline/argo-{NAME}"]
        assert parent.info.status == "FINISHED"
        stages = [run for run in runs if run.data.tags.get(PARENT) == parent.info.run_id]
        digests = {run.data.tags["stage"]: run.data.tags["manifest"] for run in stages}
    flow = Flow(tmp_path / "here")
    flow.folder.mkdir()
    flow.overrides += [f"resources.{name}={value}" for name, value in RESOURCES.items()]  # as many threads
    flow.finish(flow.run())
    here = flow.digests()
    assert set(digests) == set(STAGES)
    same = set(STAGES) - {"promote"}  # its verdict names the store
    assert {stage: digests[stage] for stage in same} == {stage: here[stage] for stage in same}
