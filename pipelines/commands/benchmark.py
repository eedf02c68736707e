"""`ddt benchmark`: a published benchmark on its own files, generated, scored, or both."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddt.params import Params
from pipelines.services.models import find_model

if TYPE_CHECKING:
    from ddt.eval.official import Case
    from ddt.eval.official.recursion import Recursion


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of the command."""
    command.add_argument("name", help="geneval, t2i_color, pope ...: see docs/benchmarks.md")
    command.add_argument("--data", nargs="+", required=True, help="its official files, unchanged")
    command.add_argument("--outputs", required=True, help="folder of outputs, in the official layout")
    command.add_argument("--images", help="folder of its images, where it asks about or edits some")
    command.add_argument(
        "--model",
        help="folder, hub id or models:/NAME of the registry: it first makes what is missing in --outputs",
    )
    command.add_argument("--batch-size", type=int, default=32, help="of generation (default: 32)")
    command.add_argument("--no-score", action="store_true", help="only generate")
    command.add_argument(
        "--setting", action="append", default=[], metavar="KEY=VALUE",
        help="what the paper leaves open, see docs/benchmarks.md (repeatable)",
    )  # fmt: skip
    command.add_argument(
        "--scorer", action="append", default=[], metavar="KIND=MODEL",
        help="clip, blip, detector, phrases or lpips: a folder or hub id (repeatable)",
    )  # fmt: skip
    command.add_argument(
        "--precomputed", action="append", default=[], metavar="KIND=FILE",
        help="results of official scorers run elsewhere: detections, verdicts, attribute, spatial, action, "
        "phrases (repeatable)",
    )  # fmt: skip
    command.add_argument(
        "--partial", action="store_true", help="score what is there; the result tells the coverage"
    )


def run(params: Params, arguments: argparse.Namespace) -> None:
    """Generate where a model is given, then score; the result is JSON on stdout."""
    from ddt.eval.official import evaluate
    from ddt.eval.official.recursion import Recursion
    from ddt.eval.scorers import Scorers
    from pipelines.commands.generation import Request, generate_on_ray, signature

    model = find_model(arguments.model, params) if arguments.model else None
    if model is None and arguments.no_score:
        raise ValueError("--no-score: nothing to do without --model")
    outputs = Path(arguments.outputs)
    request = Request(
        arguments.name, tuple(_absolute(path) for path in arguments.data),
        _absolute(arguments.images) if arguments.images else None, pairs("--setting", arguments.setting),
        str(model.resolve()) if model else "", _absolute(outputs), arguments.batch_size,
    )  # fmt: skip
    benchmark = request.open()
    precomputed = pairs("--precomputed", arguments.precomputed)
    files = {kind: Path(path) for kind, path in precomputed.items()}
    scorers = Scorers(pairs("--scorer", arguments.scorer), files)
    result: dict[str, object] = {"benchmark": benchmark.name}
    made = 0
    if model is not None:

        def look(case: Case) -> None:
            """Scoring goes on while the rest is generated."""
            if case.output and not arguments.no_score:
                benchmark.measure(case, Path(request.outputs) / case.output, scorers)

        made = generate_on_ray(params, request, benchmark, look)
    if not arguments.no_score:
        result |= evaluate(benchmark, outputs, scorers, arguments.partial)
        if isinstance(benchmark, Recursion):
            write_plots(benchmark, outputs)
    maker = signature(outputs)
    result["generated"] = None if maker is None else {"made": made, **maker}
    print(json.dumps(result, indent=1, allow_nan=False))


def write_plots(benchmark: Recursion, outputs: Path) -> None:
    """The plots and strips of `recursion` as PNGs in its outputs' folder."""
    from ddt.eval.official.problems import Problems
    from pipelines.reports.recursion import recursion_pictures

    pictures = recursion_pictures(benchmark.rows(benchmark.found(outputs, Problems())))
    for i, image in enumerate(pictures.values()):
        image.save(outputs / f"recursion_{i}.png")


def _absolute(path: str | Path) -> str:
    """A path that means the same in every worker."""
    return str(Path(path).resolve())


def pairs(option: str, items: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` items as a dict; ValueError for any other form or a key given twice."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals and value):
            raise ValueError(f"{option} {item}: expected KEY=VALUE")
        if key in found:
            raise ValueError(f"{option} {item}: {key} is given twice")
        found[key] = value
    return found
