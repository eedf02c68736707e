"""`ddt benchmark`: a published benchmark on its own files, generated, scored, or both."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddt.params import Params
from pipelines.models import find_model
from pipelines.use import load

if TYPE_CHECKING:
    from ddt.mllm import DDTLlama


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of the command."""
    command.add_argument("name", help="geneval, t2i_color, pope ...: see docs/benchmarks.md")
    command.add_argument("--data", nargs="+", required=True, help="its official files, unchanged")
    command.add_argument("--outputs", required=True, help="folder of outputs, in the official layout")
    command.add_argument("--images", help="folder of its images, where it asks about or edits some")
    command.add_argument("--model", help="folder or registry: first let it make what is missing in --outputs")
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
    from ddt.eval.official import evaluate, generate, open_benchmark
    from ddt.eval.scorers import Scorers

    benchmark = open_benchmark(
        arguments.name,
        [Path(path) for path in arguments.data],
        Path(arguments.images) if arguments.images else None,
        pairs("--setting", arguments.setting),
    )
    outputs = Path(arguments.outputs)
    result: dict[str, object] = {"benchmark": benchmark.name}
    if arguments.model:
        model = load(params, arguments.model)
        made = generate(benchmark, model, outputs, arguments.batch_size)
        result["generated"] = {"made": made, **_model(params, arguments.model, model)}
    elif arguments.no_score:
        raise ValueError("--no-score: nothing to do without --model")
    if not arguments.no_score:
        precomputed = pairs("--precomputed", arguments.precomputed)
        files = {kind: Path(path) for kind, path in precomputed.items()}
        scorers = Scorers(pairs("--scorer", arguments.scorer), files)
        result |= evaluate(benchmark, outputs, scorers, arguments.partial)
    print(json.dumps(result, indent=1))


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


def _model(params: Params, reference: str, model: DDTLlama) -> dict[str, object]:
    from ddt.config import to_dict
    from ddt.store import folder_digest

    return {
        "model": reference,
        "digest": folder_digest(find_model(reference, params)),
        "sampling": to_dict(model.sampling),
    }
