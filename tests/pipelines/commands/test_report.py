"""What the stage `evaluate` leaves: card tables, plot, pictures, page and JSON; then `ddt report` over it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddt.eval.benchmark import Score
from ddt.manifest import Commit, Manifest
from ddt.mllm import DDTLlama
from ddt.mllm.build import load_tokenizer, new_model
from ddt.mllm.vocabulary import extend_tokenizer
from ddt.params import load_params
from ddt.scenes import weights_dir
from ddt.store import open_store
from ddt.tokenizer import DDTTokenizer, presets
from pipelines import evaluate
from pipelines.commands import report as report_command
from pipelines.commands.cli import main
from pipelines.engine.graph import INPUTS
from pipelines.engine.runner import stage_context
from pipelines.reports.workspace import manifest_path, report_path
from pipelines.services.models import publish_model
from tests.mllm.mllm_tiny import TINY

OFFICIAL = {
    "benchmark": "geneval",
    "scores": {
        "geneval/overall": Score(0.25, 0.2, 0.3, 2212, floor=0.01, floor_is="shuffled images").to_dict()
    },
    "coverage": {"scored": 2212, "cases": 2212, "share": 1.0},
    "problems": {},
    "settings": {},
    "scorers": {"verdicts": "results.jsonl"},
    "data": {"evaluation_metadata.jsonl": "ab"},
    "examples": {"right": [], "wrong": []},
    "generated": {"made": 2212, "model": "m", "digest": "cd", "sampling": {"cfg_scale": 3.0}},
}


def here(ctx, worker, units, **arguments):
    """Units in this process."""
    made = worker(ctx.name, ctx.fingerprint, ctx.store.root_uri, arguments)
    return [Commit(**made(unit)) for unit in units]


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A store with an untrained tokenizer and model, as the stages before leave them."""
    monkeypatch.setattr(evaluate, "run_units", here)
    given = {
        "paths.store": tmp_path / "store", "paths.workspace": tmp_path / "workspace",
        "evaluate.benchmarks": "[reconstruct, recursion, geneval, edit, perplexity]", "evaluate.cases": 6,
        "evaluate.batch_size": 3, "evaluate.decode_steps": 1,
    }  # fmt: skip
    params = load_params("params.yaml", None, [f"{key}={value}" for key, value in given.items()])
    torch.manual_seed(0)
    tokenizer, text = DDTTokenizer(presets()["debug"]).eval(), load_tokenizer(weights_dir("bpe"))
    vocabulary = extend_tokenizer(text, tokenizer.config.codebook_size)
    model = DDTLlama(new_model(TINY, vocabulary, 0), text, tokenizer)
    store = open_store(params.paths.store)
    for stage, made in (("train_tokenizer", tokenizer), ("finetune", model)):
        made.save_pretrained(tmp_path / stage)
        commit = publish_model(store, stage, "f" * 32, tmp_path / stage, 1, {})
        save_manifest(params, stage, (commit,))
    for stage in set(INPUTS["evaluate"]) - {"train_tokenizer", "finetune"}:
        save_manifest(params, stage, ())
    return params


def save_manifest(params, stage, commits):
    path = manifest_path(Path(params.paths.workspace), stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    Manifest(stage, "f" * 32, {}, commits).save(path)


def test_the_stage_and_the_report_over_it(params, tmp_path, monkeypatch, capsys):
    ctx = stage_context("evaluate", params)
    result = evaluate.run(ctx)
    report, workspace = result.report, Path(params.paths.workspace)
    tables = [title for title in report.tables if title.startswith("Beside the paper's Table")]
    assert len(tables) == 4 and report.tables[tables[0]][1][0] == "GenEval overall"
    assert report.tables[tables[0]][1][3] == "not run" and report.tables[tables[0]][1][4] != "not run"
    assert set(report.pictures) >= {"Beside the paper", "Image editing"}
    recursion = [path for path in report.pictures.values() if "recursion_" in path]
    assert len(recursion) == 5  # over time, prefixes, what they recover, where tokens act, exchange
    assert report.tables["Scores"][0][-1] == "baseline"
    assert all((workspace / path).stat().st_size > 1000 for path in report.pictures.values())
    assert report.scores["edit/l1"]["higher_is_better"] is False
    assert report.scores["edit/l1"]["value"] == report.metrics["edit/l1"]
    assert any(note.startswith('Measured on: {"sampling"') for note in report.notes)
    page = (workspace / report.pages["Evaluation report"]).read_text()
    assert page.count("class='drawing'") == len(recursion)
    assert "scenes of 16 px" in page and ctx.inputs["finetune"].digest in page

    # As the runner ends a stage; then the page again, with an official result.
    Manifest("evaluate", ctx.fingerprint, {}, tuple(result.commits)).save(
        manifest_path(workspace, "evaluate")
    )
    report.save(report_path(workspace, "evaluate"))
    logged = []
    monkeypatch.setattr(report_command, "StageRun", lambda *_: SimpleNamespace(finish=logged.append))
    (tmp_path / "geneval.json").write_text(json.dumps(OFFICIAL))
    output = report_command.make(params, [str(tmp_path / "geneval.json")], str(tmp_path / "page.html"))
    numbers = json.loads((tmp_path / "page.json").read_text())
    first = numbers["beside_the_paper"][0]
    assert first["official"][0]["value"] == 0.25 and first["own_data"]["name"] == "geneval/overall"
    assert numbers["scores"].keys() == report.scores.keys()
    assert (
        "0.25 (0.20 to 0.30)" in output.read_text()
        and "scored by verdicts results.jsonl" in output.read_text()
    )
    assert output.read_text().count("class='drawing'") == len(recursion)
    assert logged[0].metrics == {"official/geneval/overall": 0.25} and set(logged[0].pages) >= {"Numbers"}


def test_mistakes_of_the_report_are_one_line(tmp_path, capsys):
    store = ["--set", f"paths.workspace={tmp_path / 'w'}", "--set", f"tracking.uri=sqlite:///{tmp_path}/m.db"]
    (tmp_path / "cut.json").write_text('{"benchmark": ')
    (tmp_path / "other.json").write_text('{"scores": {}}')
    page = str(tmp_path / "page.html")
    for arguments, told in (
        (
            ["--results", str(tmp_path / "cut.json"), "-o", page],
            "cut.json: no JSON; expected what `ddt benchmark`",
        ),
        (["--results", str(tmp_path / "other.json"), "-o", page], "other.json: has no benchmark, coverage"),
        (["--results", str(tmp_path / "gone.json"), "-o", page], "gone.json: can't be read"),
        (["-o", str(tmp_path / "page.pdf")], "expected a name that ends in .html"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["report", *store, *arguments])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and error.count("\n") == 1 and told in error
