"""Outputs of a published benchmark on Ray: blocks of its cases as units, kept in the store by their content.

Each unit's commit names its cases and what was made for them: texts, or the keys of pictures under
`images/`. The driver puts them into the official layout as they come and lets the scorers look at them
meanwhile. A run that was killed first lays out what is committed, so nothing committed is made twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddt.eval.benchmark import batches
from ddt.eval.official import Case, Official, open_benchmark
from ddt.eval.official.case import Answered, Made
from ddt.eval.official.files import digest_of as file_digest
from ddt.eval.official.files import write_whole
from ddt.eval.official.run import COMPLETE_FILES
from ddt.manifest import commits, fingerprint
from ddt.params import Params
from ddt.store import Store, folder_digest, open_store
from pipelines.engine.actors import map_units
from pipelines.engine.cluster import connect
from pipelines.engine.units import Output, UnitWorker, digest_of
from pipelines.services.models import image_tokenizer_folder

STAGE = "benchmark"
MODULES = ("ddt.eval", "ddt.mllm", "ddt.tokenizer", "ddt.baselines", "pipelines.commands.generation")
UNIT_CASES = 32  # what a kill can lose in each actor; generation takes --batch-size of them at a time
MADE_BY = "made_by.json"
Mapper = Callable[..., Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Request:
    """A published benchmark to be generated: how it is opened, by which model, into which folder."""

    name: str
    files: tuple[str, ...]
    images: str | None
    settings: dict[str, str]
    model: str
    outputs: str
    batch_size: int

    def open(self) -> Official:
        """The benchmark, read from its files."""
        images = Path(self.images) if self.images else None
        return open_benchmark(self.name, [Path(path) for path in self.files], images, self.settings)


class GenerationWorker(UnitWorker):
    """Lets the model make the outputs of a block of cases."""

    def setup(self, request: Request) -> None:  # type: ignore[override]
        self.request, self.benchmark = request, request.open()
        self.cases = {case.id: case for case in self.benchmark.cases}
        self.model = load_model(Path(request.model), self.benchmark.uses_tokenizer)

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        outputs = Path(self.request.outputs)
        made: dict[str, Any] = {}
        for batch in batches([self.cases[key] for key in unit["cases"]], self.request.batch_size):
            results = self.benchmark.make(self.model, batch, outputs)
            made |= {case.id: self._kept(result) for case, result in zip(batch, results, strict=True)}
        path = folder / "outputs.json"
        path.write_text(json.dumps(made))
        return Output(path, len(made))

    def _kept(self, result: Made) -> dict[str, Any]:
        if isinstance(result, Answered):
            return asdict(result)
        digest = hashlib.sha256(result).hexdigest()
        key = f"images/{digest[:2]}/{digest}.png"
        self.store.put_if_absent(key, result)
        return {"image": key}


def load_model(folder: Path, tokenizer_only: bool) -> Any:
    """The model of a folder, or its image tokenizer, on the GPU where there is one."""
    import torch

    from ddt.baselines.kinds import load_image_tokenizer
    from ddt.mllm import DDTLlama

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not tokenizer_only:
        return DDTLlama.from_pretrained(folder, device)
    return load_image_tokenizer(image_tokenizer_folder(folder)).to(device).eval()


def generate_on_ray(
    params: Params,
    request: Request,
    benchmark: Official,
    look: Callable[[Case], None],
    mapper: Mapper = map_units,
) -> int:
    """Make what is missing of `request.outputs`; returns how many were made now.

    `benchmark` is the request's, opened; `look` is called for each case as soon as its output is in place.
    Raises ValueError where the folder holds outputs of another model, IncompleteError where the data files,
    or the pictures they name, are not complete.
    """
    benchmark.with_inputs().refuse(COMPLETE_FILES)
    store, outputs = open_store(params.paths.store), Path(request.outputs)
    digest = folder_digest(Path(request.model))
    maker = {
        "model": request.model, "digest": digest, "sampling": _sampling(Path(request.model)),
        "tokenizer": folder_digest(image_tokenizer_folder(Path(request.model))),
    }  # fmt: skip
    sign(outputs, maker)
    inputs = {Path(path).name: file_digest(Path(path)) for path in request.files}
    made_from = fingerprint({"name": request.name, **benchmark.settings}, inputs | {"model": digest}, MODULES)
    absent = {case.id: case for case in benchmark.missing(outputs)}
    for done in commits(store, STAGE, made_from).values():
        _lay_out(store, benchmark, outputs, done.key, absent)
    made = 0
    with connect(params.resources):
        for part in benchmark.rounds():
            missing = [case.id for case in part if case.id in absent]
            blocks = [list(block) for block in batches(missing, UNIT_CASES)]
            units = [
                {
                    "unit": digest_of([made_from, block])[:32],
                    "name": f"case {block[0]} and {len(block) - 1} more",
                    "cases": block,
                }
                for block in blocks
            ]
            worker = {
                "stage": STAGE, "fingerprint": made_from, "store_uri": store.root_uri,
                "arguments": {"request": request},
            }  # fmt: skip
            for result in mapper(units, GenerationWorker, worker, params.resources, desc=benchmark.name):
                new = _lay_out(store, benchmark, outputs, result["key"], absent)
                made += len(new)
                for case in new:
                    look(case)
    benchmark.finish(outputs)
    return made


def _lay_out(
    store: Store, benchmark: Official, outputs: Path, key: str, absent: dict[str, Case]
) -> list[Case]:
    """Put those of a unit's outputs in place that are absent, and take them out of `absent`."""
    stored = json.loads(store.get_bytes(key))
    made: dict[str, Made] = {
        name: Answered(**found) if "text" in found else store.get_bytes(found["image"])
        for name, found in stored.items()
        if name in absent
    }
    benchmark.place(outputs, made)
    return [absent.pop(name) for name in made]


def sign(outputs: Path, maker: dict[str, Any]) -> None:
    """Write who makes the outputs beside them; ValueError where another model made some."""
    before = signature(outputs)
    if before is not None and (before["digest"], before["sampling"]) != (maker["digest"], maker["sampling"]):
        raise ValueError(
            f"{outputs}: holds outputs of another model or sampling ({before['model']}, "
            f"{before['digest'][:16]}); name another folder"
        )
    write_whole(outputs / MADE_BY, json.dumps(maker, indent=1) + "\n")


def signature(outputs: Path) -> dict[str, Any] | None:
    """The model that made the outputs; None where that is not known."""
    path = outputs / MADE_BY
    return json.loads(path.read_text()) if path.is_file() else None


def _sampling(model: Path) -> dict[str, Any]:
    from ddt.mllm.folder import SETTINGS, read_settings

    # A tokenizer alone has none.
    return read_settings(model)["sampling"] if (model / SETTINGS).is_file() else {}
