"""A stage's model as MLflow keeps it: a script, the library and a description; no weights, no pickles."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ddt.manifest import Manifest
from pipelines.services.tracking import api

SCRIPT = Path(__file__).with_name("registered_model.py")
LIBRARY = Path(__file__).resolve().parents[2] / "ddt"
NEEDED = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pyyaml",
    "safetensors",
    "torch",
    "tqdm",
    "transformers",
)
# 16 x 16 grey, for the example that a version carries
PIXELS = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGUlEQVR42mNsaGhgIAUwMZAIRjWMahg6GgDJTAGg"
    "54KQ4AAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True)
class Model:
    """What is registered: the model that a stage made, as it lies in the store."""

    kind: str  # "model" or "tokenizer", as registered_model.py loads it
    stage: str
    manifest: Manifest
    store: str
    key: str


def log_model(client: Any, run_id: str, name: str, model: Model) -> str:
    """The model's few files as an MLflow model of the run; its id. Nothing of it is pickled."""
    experiment = client.get_run(run_id).info.experiment_id
    made = client.create_logged_model(experiment, name, run_id, tags={"digest": model.manifest.digest})
    described = api("models").Model(
        artifact_path=made.artifact_location, run_id=run_id, model_uuid=made.model_id, model_id=made.model_id
    )
    signature, example = _interface(model.kind)
    with TemporaryDirectory() as folder:
        library, files = Path(folder, "ddt"), Path(folder, "model")
        shutil.copytree(LIBRARY, library, ignore=shutil.ignore_patterns("__pycache__", "weights"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the signature is given, so no type hints are asked for
            api("pyfunc").save_model(
                files,
                mlflow_model=described,
                python_model=str(SCRIPT),
                code_paths=[str(library)],
                signature=signature,
                input_example=example,
                pip_requirements=_requirements(model.store),
                model_config={"kind": model.kind, "store": model.store, "key": model.key},
            )
        client.log_model_artifacts(made.model_id, str(files))
    client.finalize_logged_model(made.model_id, "READY")
    client.log_outputs(run_id, [api("entities").LoggedModelOutput(made.model_id, step=0)])
    return str(made.model_id)


def _interface(kind: str) -> tuple[Any, Any]:
    """Signature and input example: rows with method, text and image, and the parameters."""
    import pandas as pd

    types = api("types")
    method = types.ColSpec("string", "method")
    text, image = (types.ColSpec("string", name, required=False) for name in ("text", "image"))
    params = [types.ParamSpec("seed", "long", 0), types.ParamSpec("cfg_scale", "double", None)]
    signature = api("models").ModelSignature(
        types.Schema([method, text, image]), types.Schema([text, image]), types.ParamSchema(params)
    )
    if kind == "tokenizer":
        rows = [["reconstruct", None, PIXELS]]
    else:
        rows = [["draw", "a red circle", None], ["answer", "What is in the picture?", PIXELS]]
    return signature, (pd.DataFrame(rows, columns=["method", "text", "image"]), {"seed": 0})


def _requirements(store: str) -> list[str]:
    packages = (*NEEDED, "boto3") if store.startswith("s3://") else NEEDED
    return [f"{package}=={installed(package).partition('+')[0]}" for package in packages]
