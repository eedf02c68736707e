"""The command line: every stage, and every use of what they made.

Results go to stdout, logs and progress to stderr. A user's mistake is one line and exit code 2.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ddt.clean import one_line
from ddt.params import Params, load_params
from pipelines.engine.graph import INPUTS, QUARANTINES, STAGES
from pipelines.engine.stopping import exit_code, last_words, sigterm_as_exception
from pipelines.services.passwords import shown
from pipelines.services.surroundings import prepare

DEFAULT_PARAMS = "params.yaml"
MODEL_HELP = (
    "folder, hub id or models:/NAME, /NAME@ALIAS or /NAME/VERSION of the registry (default: its champion, or "
    "its candidate where there is no champion yet)"
)
END_HELP = (
    "models:/NAME, /NAME@ALIAS or /NAME/VERSION, 8 or more digits of a dataset's digest, a run of MLflow or "
    "Metaflow (FullPipeline/123), the folder of a model or checkpoint, or a picture that ddt drew"
)
EXIT_MISTAKE = 2
# Of the extra `pipeline`: stages and the registry need them, a model's folder does not.
PACKAGES_OF_EXTRA = ("boto3", "great_expectations", "matplotlib", "mlflow", "pandas", "py3langid", "ray")

STAGE_HELP = {
    "ingest": "source shards to checked records",
    "recaption": "a detailed caption for each image",
    "score": "CLIP scores of native and generated captions",
    "select": "filters, duplicates, then exactly K pairs",
    "train_tokenizer": "train the DDT tokenizer",
    "tokenize_images": "images to token shards",
    "pretrain": "multimodal next-token training",
    "finetune": "instruction tuning",
    "evaluate": "the benchmarks",
    "promote": "register the model and compare it with the champion",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse `argv` and run; exits 2 with one line for a user's mistake, 130 or 143 when told to end."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    _take_any_text()
    with sigterm_as_exception():
        _run(build_parser().parse_args(argv))


def _run(arguments: argparse.Namespace) -> None:
    try:
        prepare()
        arguments.run(arguments)
    except KeyboardInterrupt as told:
        print(last_words(told), file=sys.stderr)
        sys.exit(exit_code(told))
    except BrokenPipeError:
        os._exit(0)  # the reader of our output has gone; Python would complain while flushing at exit
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in PACKAGES_OF_EXTRA:
            raise
        print(f"ddt: needs {package}: pip install 'ddt-llama[pipeline]'", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
    except (ValueError, OSError) as error:
        if os.environ.get("DDT_DEBUG"):
            raise
        print(one_line(shown(f"ddt: {error}")), file=sys.stderr)
        sys.exit(EXIT_MISTAKE)


def _take_any_text() -> None:
    """No text that comes in, and no name of a file that goes out, fails for its characters."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def build_parser() -> argparse.ArgumentParser:
    """All subcommands."""
    parser = argparse.ArgumentParser(prog="ddt", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar="command", required=True)
    for stage in STAGES:
        needs = f"; needs {', '.join(INPUTS[stage])}" if INPUTS[stage] else ""
        command = _command(commands, stage, STAGE_HELP[stage] + needs, _run_stage)
        command.set_defaults(stage=stage, dry_run=False, retry_rejects=False)
        if stage in QUARANTINES:
            command.add_argument(
                "--retry-rejects", action="store_true", help="try units again that failed and were left out"
            )
        if stage == "promote":
            command.add_argument("--dry-run", action="store_true", help="say what it would decide, and stop")
    rollback = _command(
        commands, "rollback", "give the champion's alias back to an earlier version", _rollback
    )
    rollback.add_argument("version", nargs="?", help="its number (default: the champion before this one)")
    rollback.add_argument("--why", default="", help="reason, kept in the history")
    _command(commands, "history", "which versions were the champion, since when, by whom and why", _history)
    plan = _command(commands, "plan", "what a run would do: stages, what is done, sizes of the models", _plan)
    plan.add_argument(
        "--tflops", type=float, help="that a worker reaches in training (default: 40%% of an H100's peak)"
    )
    plan.add_argument("--rows", type=int, help="samples of the source (default: as many as of the last run)")
    _add_judges(commands)
    _add_uses(commands)
    _add_benchmark(commands)
    report = _command(commands, "report", "the evaluation's page, with official results in it", _report)
    report.add_argument("--results", nargs="*", default=[], help="files with what `ddt benchmark` printed")
    report.add_argument("-o", "--output", required=True, help="HTML page to write; its numbers go beside it")
    ui = _command(commands, "ui", "open MLflow's pages in a browser on this machine", _ui)
    ui.add_argument("--port", type=int, default=5000)
    _add_lineage(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, text: str, run: object
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.add_argument(
        "--params", default=DEFAULT_PARAMS, help=f"parameter file (default: {DEFAULT_PARAMS})"
    )
    command.add_argument("--profile", help="overlay: a name under profiles/ or a YAML file")
    command.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override one key, e.g. --set train_tokenizer.fit.steps=100 (repeatable)",
    )  # fmt: skip
    command.set_defaults(run=run)
    return command


def _add_judges(commands: argparse._SubParsersAction) -> None:
    judges = _command(commands, "judges", "train the scenes' CLIP, captioner and BPE", _judges)
    judges.add_argument("--out", required=True, help="folder to write the weights to")
    judges.add_argument(
        "--which", default="bpe,captioner,clip", help="which to make (default: bpe,captioner,clip)"
    )


def _add_benchmark(commands: argparse._SubParsersAction) -> None:
    from pipelines.commands.benchmark import add_arguments

    add_arguments(_command(commands, "benchmark", "a published benchmark on its official files", _benchmark))


def _add_lineage(commands: argparse._SubParsersAction) -> None:
    trace = _command(commands, "trace", "what a model or dataset was made from, back to the sources", _trace)
    trace.add_argument("end", nargs="?", help=f"{END_HELP} (default: the champion)")
    trace.add_argument("--json", action="store_true", help="print all of it as one JSON object")
    trace.add_argument("--html", metavar="FILE", help="also draw it on a page")
    verify = _command(commands, "verify", "read again all that was made; names what has changed", _verify)
    verify.add_argument("end", nargs="?", help=f"{END_HELP} (default: what the workspace shows)")
    takedown = _command(
        commands, "takedown", "which data sets, token shards and models contain what a list names", _takedown
    )
    takedown.add_argument("list", help="file: ids of samples, sha256 of images, URL patterns, one a line")
    takedown.add_argument("--json", action="store_true", help="print all of it as one JSON object")
    takedown.add_argument(
        "--forget", action="store_true", help="remove what captioners answered about these images"
    )
    export = _command(
        commands, "export", "a selection as WebDataset tars or Parquet files with a manifest", _export
    )
    export.add_argument("end", nargs="?", help=f"{END_HELP} (default: the champion)")
    export.add_argument("-o", "--output", required=True, help="folder or s3://bucket/prefix to write to")
    export.add_argument(
        "--format", choices=("webdataset", "parquet"), default="webdataset", help="default: webdataset"
    )
    restore = _command(commands, "restore", "put what was made in the workspace, from the store", _restore)
    restore.add_argument("end", nargs="?", help=f"{END_HELP} (default: the champion)")
    gc = _command(commands, "gc", "remove from the store what nothing reaches any more", _gc)
    gc.add_argument("--dry-run", action="store_true", help="say what would go, and stop")
    gc.add_argument(
        "--keep-hours", type=float, default=24.0, help="what was written since then stays (default: 24)"
    )


def _add_uses(commands: argparse._SubParsersAction) -> None:
    def use(name: str, text: str, run: object = _use) -> argparse.ArgumentParser:
        command = _command(commands, name, text, run)
        command.set_defaults(use=name)
        command.add_argument("--model", help=MODEL_HELP)
        return command

    def drawing(command: argparse.ArgumentParser) -> None:
        command.add_argument("-o", "--output", required=True, help="PNG to write")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument(
            "--cfg-scale",
            type=float,
            help="guidance (default: as the model was saved, finetune.sampling)",
        )
        command.add_argument("--scale", type=int, default=1, help="enlarge the picture by this factor")
        command.add_argument("--num-images", type=int, default=1, help="how many (default: 1)")
        command.add_argument("--grid", type=int, metavar="N", help="pictures in a row (default: all)")
        command.add_argument(
            "--watch", action="store_true", help="write the output again and again as the picture forms"
        )

    generate = use("generate", "draw an image from a prompt")
    generate.add_argument("prompt", nargs="?")
    generate.add_argument("--class", dest="class_name", metavar="NAME", help="draw a class, not a prompt")
    drawing(generate)
    edit = use("edit", "change an image by an instruction")
    edit.add_argument("image")
    edit.add_argument("instruction")
    drawing(edit)
    caption = use("caption", "describe images")
    caption.add_argument("images", nargs="+")
    ask = use("ask", "answer a question about an image")
    ask.add_argument("image")
    ask.add_argument("question")
    chat = use("chat", "talk with the model, in text and pictures")
    chat.add_argument(
        "message",
        nargs="?",
        help="one message; without it each line of the input is one. <image FILE>: a picture",
    )
    chat.add_argument("-o", "--output", default=".", help="folder for pictures that it draws (default: .)")
    chat.add_argument("--seed", type=int, default=0)
    chat.add_argument("--scale", type=int, default=1, help="enlarge the pictures by this factor")
    reconstruct = use("reconstruct", "encode and decode images; prints PSNR")
    reconstruct.add_argument("images", nargs="+")
    reconstruct.add_argument("-o", "--output", required=True, help="PNG with originals and reconstructions")
    reconstruct.add_argument(
        "--num-tokens", default="all", help="prefix lengths to decode from, e.g. 1,4,16,all (default: all)"
    )
    reconstruct.add_argument("--steps", type=int, help="denoising steps (default: the tokenizer's)")
    reconstruct.add_argument(
        "--guidance", type=float, help="above 1: away from the picture without tokens (default: none)"
    )
    reconstruct.add_argument("--renderer", metavar="FOLDER", help="draw with this renderer, in one pass")
    reconstruct.add_argument("--scale", type=int, default=1, help="enlarge the picture by this factor")
    train_renderer = use("train-renderer", "a one-pass decoder for a tokenizer's codes", _train_renderer)
    train_renderer.add_argument("-o", "--output", required=True, help="folder to write; must not exist")
    interpolate = use("interpolate", "replace some of an image's tokens by another's")
    interpolate.add_argument("first")
    interpolate.add_argument("second")
    interpolate.add_argument("-o", "--output", required=True, help="PNG: first, decodings, second")
    interpolate.add_argument(
        "--tokens", required=True, help="slices taken from the second, a picture each, e.g. 0:8 or 0:8,8:16"
    )
    interpolate.add_argument("--steps", type=int, help="denoising steps (default: the tokenizer's)")
    interpolate.add_argument("--scale", type=int, default=1, help="enlarge the picture by this factor")


def _params(arguments: argparse.Namespace) -> Params:
    return load_params(arguments.params, arguments.profile, arguments.overrides)


def _run_stage(arguments: argparse.Namespace) -> None:
    if arguments.dry_run:
        from pipelines.commands.registry import try_promotion

        return try_promotion(_params(arguments))
    from pipelines.engine.runner import require_places, run_stage
    from pipelines.services.lock import held

    params = _params(arguments)
    with held(require_places(params)[0], f"ddt {arguments.stage}/{os.getpid()}", os.getpid()):
        report = run_stage(arguments.stage, params, retry_quarantined=arguments.retry_rejects)
    state = "nothing to do, all is there" if report.skipped else f"{report.seconds:.1f} s"
    print(f"{report.stage}: {state}, version {report.digest[:16]}")
    for name, value in sorted(report.metrics.items()):
        print(f"  {name} {value:.6g}")
    for line in report.notes:
        print(f"  {line}")


def _rollback(arguments: argparse.Namespace) -> None:
    from pipelines.commands.registry import rollback

    rollback(_params(arguments), arguments.version, arguments.why)


def _history(arguments: argparse.Namespace) -> None:
    from pipelines.commands.registry import print_history

    print_history(_params(arguments))


def _plan(arguments: argparse.Namespace) -> None:
    from pipelines.commands.plan import ASSUMED_TFLOPS, print_plan

    tflops = ASSUMED_TFLOPS if arguments.tflops is None else arguments.tflops
    if not tflops > 0:
        raise ValueError(f"--tflops {tflops:g}: expected a number > 0")
    if arguments.rows is not None and arguments.rows < 1:
        raise ValueError(f"--rows {arguments.rows}: expected a number >= 1")
    print_plan(_params(arguments), tflops, arguments.rows)


def _ui(arguments: argparse.Namespace) -> None:
    from pipelines.services.tracking import serve

    serve(_params(arguments).tracking, arguments.port)


def _judges(arguments: argparse.Namespace) -> None:
    from ddt.scenes.judges.train import make

    make(Path(arguments.out), which=tuple(arguments.which.split(",")))


def _use(arguments: argparse.Namespace) -> None:
    from pipelines.commands import use

    getattr(use, arguments.use)(_params_of_use(arguments), arguments)


def _params_of_use(arguments: argparse.Namespace) -> Params | None:
    """Settings say where the registry is; the model of a folder or hub id needs none."""
    from_registry = arguments.model is None or arguments.model.startswith("models:")
    if from_registry or arguments.params != DEFAULT_PARAMS or Path(DEFAULT_PARAMS).is_file():
        return _params(arguments)
    return None


def _train_renderer(arguments: argparse.Namespace) -> None:
    from pipelines.commands import train_renderer

    train_renderer.run(_params(arguments), arguments.model, arguments.output)


def _benchmark(arguments: argparse.Namespace) -> None:
    from pipelines.commands import benchmark

    benchmark.run(_params(arguments), arguments)


def _report(arguments: argparse.Namespace) -> None:
    from pipelines.commands import report

    print(report.make(_params(arguments), arguments.results, arguments.output))


def _trace(arguments: argparse.Namespace) -> None:
    from pipelines.commands import trace

    trace.run(_params(arguments), arguments.end, arguments.json, arguments.html)


def _verify(arguments: argparse.Namespace) -> None:
    from pipelines.commands import verify

    verify.run(_params(arguments), arguments.end)


def _export(arguments: argparse.Namespace) -> None:
    from pipelines.commands import export

    export.run(_params(arguments), arguments.end, arguments.output, arguments.format)


def _takedown(arguments: argparse.Namespace) -> None:
    from pipelines.commands import takedown

    takedown.run(_params(arguments), arguments.list, arguments.json, arguments.forget)


def _restore(arguments: argparse.Namespace) -> None:
    from pipelines.commands import restore

    restore.run(_params(arguments), arguments.end)


def _gc(arguments: argparse.Namespace) -> None:
    from pipelines.commands import gc

    gc.run(_params(arguments), arguments.keep_hours, arguments.dry_run)
