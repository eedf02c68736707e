"""The flows as Argo and Step Functions would get them, rendered against moto in the place of AWS.

`python -m tests.infra.rendering` writes the goldens in tests/infra/goldens again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = Path(__file__).resolve().parent / "goldens"
ARGO = ("argo-workflows", "create", "--only-json")
STEP_FUNCTIONS = ("step-functions", "create", "--only-json")
# Name of the golden: flow, remote file, scheduler's command.
RENDERED = {
    "full_pipeline.argo": ("full_pipeline.py", "kubernetes.yaml", ARGO),
    "retrain.argo": ("retrain.py", "kubernetes.yaml", ARGO),
    "full_pipeline.step_functions": ("full_pipeline.py", "batch.yaml", STEP_FUNCTIONS),
}
BUCKET = "ddt-llama"
SETTINGS = {
    "METAFLOW_USER": "ddt",
    "METAFLOW_DEFAULT_DATASTORE": "s3",
    "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{BUCKET}/metaflow",
    "METAFLOW_KUBERNETES_NAMESPACE": "ddt-llama",
    "METAFLOW_ARGO_EVENTS_EVENT": "ddt-llama",
    "METAFLOW_ARGO_EVENTS_EVENT_SOURCE": "ddt-llama",
    "METAFLOW_ARGO_EVENTS_EVENT_BUS": "default",
    "METAFLOW_ARGO_EVENTS_SERVICE_ACCOUNT": "ddt-events",
    "METAFLOW_SFN_IAM_ROLE": "arn:aws:iam::123456789012:role/ddt-step-functions",
    "METAFLOW_BATCH_JOB_QUEUE": "ddt-queue",
    "AWS_DEFAULT_REGION": "us-east-1",
}
MACHINE = ("METAFLOW_VERSION",)  # variables that tell of the machine and the commit
VARIABLES = re.compile(
    r"(?<=argo\.set_parameters )([a-z]{10})(.*?`pwd`/)\1"
)  # a file with a name drawn by chance
SHA = re.compile(r"\b(?:[0-9a-f]{2}/)?[0-9a-f]{40}\b")


def render(endpoint: str) -> dict[str, dict[str, Any]]:
    """What each scheduler would be sent, by the golden's name; the flows are started side by side."""
    import boto3

    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=BUCKET)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("METAFLOW_")}
    with tempfile.TemporaryDirectory() as home, batch_endpoint() as batch:
        place = {"AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT_URL_BATCH": batch}
        place |= {"METAFLOW_S3_ENDPOINT_URL": endpoint, "METAFLOW_HOME": home}
        started = {}
        for name, (flow, remote, command) in RENDERED.items():
            options = ("--quiet", "--config", "remote", f"infra/{remote}", "--datastore", "s3")
            started[name] = subprocess.Popen(
                [sys.executable, f"flows/{flow}", *options, *command],
                cwd=ROOT,
                env=inherited | SETTINGS | place,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        answers = {name: process.communicate() for name, process in started.items()}
    for name, (_, errors) in answers.items():
        assert started[name].returncode == 0, f"{name}: {errors[-2000:]}"
    return {name: json.loads(output) for name, (output, _) in answers.items()}


class Batch(BaseHTTPRequestHandler):
    """What rendering asks AWS Batch: a queue of machines, and a number for each job definition."""

    ANSWERS = {
        "/v1/describejobqueues": {
            "jobQueues": [{"computeEnvironmentOrder": [{"computeEnvironment": "ddt"}]}]
        },
        "/v1/describecomputeenvironments": {"computeEnvironments": [{"computeResources": {"type": "EC2"}}]},
        "/v1/describejobdefinitions": {"jobDefinitions": []},
    }

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        definition = f"arn:aws:batch:us-east-1:123456789012:job-definition/{asked.get('jobDefinitionName')}:1"
        answer = json.dumps(self.ANSWERS.get(self.path, {"jobDefinitionArn": definition})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def batch_endpoint() -> Iterator[str]:
    """Address of a server in this process that answers as AWS Batch would: moto's wants a whole network."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Batch)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def normal(value: Any, endpoint: str) -> Any:
    """Without what differs between machines and runs: nulls, versions, digests, addresses, chance."""
    if isinstance(value, dict):
        return {
            name: normal(item, endpoint)
            for name, item in value.items()
            if item is not None and name != "metaflow/deployment_timestamp"
        }
    if isinstance(value, list):
        return [normal(item, endpoint) for item in value if not _is_of_the_machine(item)]
    if isinstance(value, str):
        value = VARIABLES.sub(r"VARIABLES\2VARIABLES", value)
        return SHA.sub("SHA", value.replace(endpoint, "http://s3"))
    return value


def _is_of_the_machine(item: Any) -> bool:
    return isinstance(item, dict) and (item.get("name") or item.get("Name")) in MACHINE


def golden_text(rendered: dict[str, Any], endpoint: str) -> str:
    """A rendered flow as its golden has it."""
    return json.dumps(normal(rendered, endpoint), indent=1, sort_keys=True) + "\n"


def write_goldens() -> None:
    """Render again and keep the result."""
    from moto.server import ThreadedMotoServer

    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    GOLDENS.mkdir(exist_ok=True)
    for name, rendered in render(endpoint).items():
        (GOLDENS / f"{name}.json").write_text(golden_text(rendered, endpoint))
    server.stop()


if __name__ == "__main__":
    write_goldens()
