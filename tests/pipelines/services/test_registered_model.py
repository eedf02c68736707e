"""A registered version by MLflow's own means: loaded in this process and in fresh ones, and served."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pandas as pd
import pytest
from PIL import Image

from ddt.mllm import DDTLlama
from ddt.mllm.pictures import to_images, to_pixels
from ddt.params import Params
from pipelines import promote
from pipelines.services import registry, tracking
from tests.pipelines.promotion import Promotion
from tests.pipelines.tiny_model import save_model
from tests.processes import HANGS_AFTER_S
from tests.servers import clean, free_port, mlflow, tracking_server

GREEN = Image.new("RGB", (16, 16), "green")


def encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(text))).tobytes()


ROWS = pd.DataFrame(
    [
        ["answer", "what is it?", encoded(GREEN)],
        ["draw", "a red circle", None],
        ["edit", "make it blue", encoded(GREEN)],
        ["caption", None, encoded(GREEN)],
        ["draw", "two rings", None],
    ],
    columns=["method", "text", "image"],
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("registered") / "model")


def promoted(place: Path, uri: str, folder: Path) -> Promotion:
    made = Promotion(place, uri, "team")
    promote.run(made.context("a", model=folder))
    return made


@pytest.fixture(scope="module")
def registered(params: Params, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Promotion:
    return promoted(tmp_path_factory.mktemp("place"), params.tracking.uri, folder)


@pytest.fixture(scope="module")
def loaded(registered: Promotion) -> Iterator[Any]:
    import mlflow

    path = list(sys.path)
    tracking.client(registered.params.tracking)  # points MLflow to the database
    yield mlflow.pyfunc.load_model("models:/team@champion")
    sys.path[:] = path  # the version's own copy of the library comes first there


def test_its_methods_are_the_models(loaded: Any, folder: Path) -> None:
    model = DDTLlama.from_pretrained(folder)
    answers = loaded.predict(ROWS, params={"seed": 3, "cfg_scale": 4.0})
    drawn = model.generate_image(["a red circle", "two rings"], 4.0, seed=3)
    [changed] = model.edit_image([GREEN], ["make it blue"], 4.0, seed=3)
    pictures = [drawn[0].tobytes(), changed.tobytes(), drawn[1].tobytes()]
    assert [decoded(answers.image[row]) for row in (1, 2, 4)] == pictures
    assert answers.text[0] == model.answer([GREEN], ["what is it?"])[0]
    assert answers.text[3] == model.caption([GREEN])[0]
    assert [answers.image[row] for row in (0, 3)] == [None, None] and answers.text[1] is None
    other = loaded.predict(ROWS[1:2], params={"seed": 4})
    assert decoded(other.image[0]) != pictures[0]
    unset = loaded.predict(ROWS[1:2])  # guidance as the model was saved
    assert decoded(unset.image[0]) == model.generate_image(["a red circle"])[0].tobytes()


def test_its_description_has_a_signature_an_example_and_its_run(registered: Promotion, loaded: Any) -> None:
    about = loaded.metadata
    assert about.signature.inputs.input_names() == ["method", "text", "image"]
    assert about.signature.outputs.input_names() == ["text", "image"]
    assert {param.name: param.default for param in about.signature.params} == {"seed": 0, "cfg_scale": None}
    version = registry.find_version(registered.params.tracking, "team", "1")
    assert version is not None and about.run_id == version.run_id is not None
    files = tracking.client(registered.params.tracking).list_artifacts
    import mlflow

    local = Path(mlflow.artifacts.download_artifacts("models:/team/1"))
    names = {path.name for path in local.rglob("*")}
    assert {"MLmodel", "input_example.json", "registered_model.py"} <= names and files
    assert not {path for path in names if Path(path).suffix in {".pkl", ".pt", ".safetensors"}}
    example = json.loads((local / "serving_input_example.json").read_text())
    assert [row[0] for row in example["dataframe_split"]["data"]] == ["draw", "answer"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["paint", "a", None], "row 1: method = 'paint': expected one of draw, edit, caption, answer"),
        (["draw", None, None], "row 1: text: expected some text, got ''"),
        (["edit", "a", None], "row 1: image: expected the base64 of a PNG, there is none"),
        (["caption", None, "%%"], "row 1: image: expected the base64 of a PNG \\("),
        (["caption", None, "aGVsbG8="], "row 1: image: expected the base64 of a PNG \\("),
    ],
)
def test_a_row_that_cannot_be_answered_is_named(loaded: Any, row: list[str | None], message: str) -> None:
    from mlflow.exceptions import MlflowException

    asked = pd.DataFrame([["caption", None, encoded(GREEN)], row], columns=["method", "text", "image"])
    with pytest.raises(MlflowException, match=message) as error:
        loaded.predict(asked)
    assert error.value.get_http_status_code() == 400


def test_a_tokenizer_reconstructs(registered: Promotion, folder: Path) -> None:
    import mlflow

    path = list(sys.path)
    tokenizer = mlflow.pyfunc.load_model("models:/team-tokenizer@champion")
    sys.path[:] = path
    [text] = tokenizer.predict(
        pd.DataFrame([["reconstruct", encoded(GREEN)]], columns=["method", "image"])
    ).image
    image_tokenizer = DDTLlama.from_pretrained(folder).image_tokenizer
    codes = image_tokenizer.encode(to_pixels([GREEN], 16))
    import torch

    noise = [torch.Generator().manual_seed(0)]
    assert decoded(text) == to_images(image_tokenizer.decode(codes, generator=noise))[0].tobytes()


# By itself: neither this repository nor its folder is there, only MLflow's address.
ALONE = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/team@champion")
import ddt
assert "/code/ddt/" in ddt.__file__, ddt.__file__
print(model.predict(pandas.DataFrame(json.load(sys.stdin)), params={"seed": 3}).to_json())
"""


def alone(uri: str, folder: Path) -> dict[str, dict[str, str]]:
    """What a fresh process in `folder` answers to ROWS."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        input=json.dumps(ROWS.to_dict("list")),
        env=clean(uri),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def expected(folder: Path) -> list[bytes]:
    return [
        image.tobytes() for image in DDTLlama.from_pretrained(folder).generate_image(["a red circle"], seed=3)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("proxied", [True, False], ids=["proxied", "direct"])
def test_on_a_server(proxied: bool, folder: Path, tmp_path: Path) -> None:
    """`promote` with a folder store and a tracking server, which takes the artifacts itself or does not."""
    artifacts = tmp_path / "artifacts"
    where = ["--artifacts-destination", str(artifacts)] if proxied else ["--no-serve-artifacts"]
    where += [] if proxied else ["--default-artifact-root", artifacts.as_uri()]
    with tracking_server(tmp_path, where) as server:
        uri = f"http://{server}"
        made = promoted(tmp_path, uri, folder)
        version = registry.find_version(made.params.tracking, "team", registry.CHAMPION)
        assert version is not None and version.run_id
        assert list(artifacts.rglob("MLmodel"))
        answers = alone(uri, tmp_path)
        assert [decoded(answers["image"]["1"])] == expected(folder)


@pytest.mark.slow
def test_mlflow_serves_it(registered: Promotion, folder: Path, tmp_path: Path) -> None:
    port, uri = free_port(), registered.params.tracking.uri
    command = ["models", "serve", "-m", "models:/team@champion", "-p", str(port), "--env-manager", "local"]

    def ask(row: dict[str, str]) -> Any:
        body = json.dumps({"dataframe_records": [row], "params": {"seed": 3}}).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"http://127.0.0.1:{port}/invocations", body, headers)) as answer:
            return json.load(answer)["predictions"]

    with mlflow(command, f"http://127.0.0.1:{port}/ping", clean(uri), tmp_path):
        [drawn] = ask({"method": "draw", "text": "a red circle"})
        assert [decoded(drawn["image"])] == expected(folder) and drawn["text"] is None
        [said] = ask({"method": "caption", "image": encoded(GREEN)})
        assert said["text"] == DDTLlama.from_pretrained(folder).caption([GREEN], seed=3)[0]
        with pytest.raises(HTTPError) as refused:
            ask({"method": "paint"})
        assert refused.value.code == 400
        assert "row 0: method = 'paint': expected one of" in refused.value.read().decode()
