"""A store of each kind for the tests; S3 is a real HTTP server from moto, in a thread of this process."""

import os

import pytest
import torch
from hypothesis import settings

from ddt.store import Store, open_store

settings.register_profile("any machine", deadline=None)  # nothing is judged by how long it takes
settings.load_profile("any machine")

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(1)  # models of a few thousand numbers are slower on more


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, for several workers; tests marked gpu are skipped where there is none."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def s3_endpoint():
    import boto3  # here: only the tests on S3 pay for it
    from moto.server import ThreadedMotoServer

    patch = pytest.MonkeyPatch()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        patch.delenv(name, raising=False)
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="test-bucket")
    yield f"http://{host}:{port}"
    server.stop()
    patch.undo()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path) -> Store:
    if request.param == "folder":
        return open_store(tmp_path / "store")
    request.getfixturevalue("s3_endpoint")
    return open_store(f"s3://test-bucket/{tmp_path.name}", cache_dir=tmp_path / "cache")
