"""One MLflow database for the tests of the services: making it takes seconds."""

from pathlib import Path

import pytest

from ddt.params import Params, load_params

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    folder = tmp_path_factory.mktemp("mlflow")
    return load_params(ROOT / "params.yaml", None, [f"tracking.uri=sqlite:///{folder}/mlflow.db"])
