"""A registered model as MLflow loads and serves it: draw, edit, caption, answer; of a tokenizer: reconstruct.

MLflow copies this script into each version, with ddt/ beside it, and runs it where the version is loaded. The
weights are not copied: they are fetched from the store that the version's configuration names. Where a
machine has that store elsewhere, load with `model_config={"store": ...}`.
"""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

# MLflow, which runs this script. In the project's own processes `tracking` alone imports it.
mlflow = importlib.import_module("mlflow")

Row = dict[str, Any]  # what a column lacks is None
Answer = dict[str, str | None]


class RegisteredModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """Rows of `method`, `text` and `image` (base64 of a PNG) to rows of `text` and `image`.

    | method        | text        | image | gives |
    |---------------|-------------|-------|-------|
    | `draw`        | prompt      |       | image |
    | `edit`        | instruction | yes   | image |
    | `caption`     |             | yes   | text  |
    | `answer`      | question    | yes   | text  |
    | `reconstruct` |             | yes   | image |

    Parameters: `seed`, of every row; `cfg_scale`, the guidance of draw and edit (None: as it was saved).
    """

    def load_context(self, context: Any) -> None:
        """Fetch the model's folder from the store and load it, on the GPU where there is one."""
        from ddt.baselines.kinds import load_image_tokenizer
        from ddt.data.pretrained import pick_device
        from ddt.mllm import DDTLlama
        from ddt.store import open_store

        config, device = context.model_config, pick_device(None)
        folder = open_store(config["store"]).fetch_tree(config["key"])
        if config["kind"] == "tokenizer":
            self.model: Any = load_image_tokenizer(folder).to(device)
            self.methods: dict[str, Callable[..., list[Answer]]] = {"reconstruct": self._reconstruct}
        else:
            self.model = DDTLlama.from_pretrained(folder, device)
            self.methods = {
                "draw": self._draw, "edit": self._edit, "caption": self._caption, "answer": self._answer,
            }  # fmt: skip

    def predict(self, context, model_input, params=None):  # types would be taken for the signature
        """A row of answers for each row that is asked; those of one method are done together."""
        rows = [_without_gaps(row) for row in model_input.to_dict("records")]
        for number, row in enumerate(rows):
            if row["method"] not in self.methods:
                known = ", ".join(self.methods)
                raise _refused(f"row {number}: method = {row['method']!r}: expected one of {known}")
        answers: list[Answer] = [{} for _ in rows]
        for method, run in self.methods.items():
            numbers = [number for number, row in enumerate(rows) if row["method"] == method]
            if numbers:
                asked = [{**rows[number], "number": number} for number in numbers]
                try:
                    found = run(asked, **(params or {}))
                except ValueError as error:
                    raise _refused(str(error)) from error
                for number, answer in zip(numbers, found, strict=True):
                    answers[number] = answer
        columns = {name: [answer.get(name) for answer in answers] for name in ("text", "image")}
        return pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()})

    def _draw(self, rows: Sequence[Row], seed: int = 0, cfg_scale: float | None = None) -> list[Answer]:
        return _pictures(self.model.generate_image(_texts(rows), cfg_scale, seed=seed))

    def _edit(self, rows: Sequence[Row], seed: int = 0, cfg_scale: float | None = None) -> list[Answer]:
        return _pictures(self.model.edit_image(_images(rows), _texts(rows), cfg_scale, seed=seed))

    def _caption(self, rows: Sequence[Row], seed: int = 0, **_: object) -> list[Answer]:
        return [{"text": text} for text in self.model.caption(_images(rows), seed=seed)]

    def _answer(self, rows: Sequence[Row], seed: int = 0, **_: object) -> list[Answer]:
        return [{"text": text} for text in self.model.answer(_images(rows), _texts(rows), seed=seed)]

    def _reconstruct(self, rows: Sequence[Row], seed: int = 0, **_: object) -> list[Answer]:
        import torch

        from ddt.mllm.pictures import to_images, to_pixels

        codes_BT = self.model.encode(to_pixels(_images(rows), self.model.config.image_size))
        noise = [torch.Generator().manual_seed(seed) for _ in rows]
        return _pictures(to_images(self.model.decode(codes_BT, generator=noise)))


def _texts(rows: Sequence[Row]) -> list[str]:
    from ddt.clean import text_argument

    return [text_argument(row.get("text") or "", f"row {row['number']}: text") for row in rows]


def _images(rows: Sequence[Row]) -> list[Any]:
    return [_image(row) for row in rows]


def _image(row: Row) -> Any:
    from ddt.data.decode import decode_rgb

    place = f"row {row['number']}: image"
    if not row.get("image"):
        raise ValueError(f"{place}: expected the base64 of a PNG, there is none")
    try:
        return decode_rgb(base64.b64decode(row["image"], validate=True))
    except ValueError as error:
        raise ValueError(f"{place}: expected the base64 of a PNG ({error})") from None


def _pictures(images: Sequence[Any]) -> list[Answer]:
    answers: list[Answer] = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "PNG")
        answers.append({"image": base64.b64encode(file.getvalue()).decode()})
    return answers


def _without_gaps(row: Row) -> Row:
    return {name: _none_for_gaps(value) for name, value in row.items()}


def _none_for_gaps(value: Any) -> Any:
    """pandas has NaN where a row lacks a column."""
    return None if pd.isna(value) else value


def _refused(message: str) -> Exception:
    """What a server answers with status 400."""
    return mlflow.exceptions.MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(RegisteredModel())
