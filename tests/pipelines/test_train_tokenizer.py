"""The jobs that train the tokenizer, its baseline and its renderer as a worker runs them, without Ray."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddt.baselines.config import SpatialConfig, SpatialSizes
from ddt.baselines.kinds import ImageTokenizer, load_image_tokenizer
from ddt.baselines.spatial import SpatialTokenizer
from ddt.manifest import Commit, Manifest, commits
from ddt.records import RECORD_SCHEMA, write_shard
from ddt.sections.tokenizer import TrainTokenizerParams
from ddt.store import mark_complete, open_store
from ddt.tokenizer import DDTTokenizer, Renderer
from pipelines.commands import train_renderer
from pipelines.commands.cli import main
from pipelines.commands.train_renderer import RendererJob
from pipelines.engine.runner import StageContext
from pipelines.engine.training import Job
from pipelines.reports import samples
from pipelines.reports.report import Report
from pipelines.reports.samples import row_of, samples_prefix
from pipelines.reports.workspace import manifest_path
from pipelines.train_tokenizer import (
    TokenizerJob,
    _picture,
    _picture_learning,
    _plot_positions,
    check_codebook,
    models,
    run,
)
from tests.data.test_images import row
from tests.pipelines.ray_support import RESOURCES
from tests.tokenizer.test_model import debug, make
from tests.train.test_fit import CONFIG

PARAMS_FILE = str(Path(__file__).resolve().parents[2] / "params.yaml")
FIT = dataclasses.replace(CONFIG, steps=4, global_batch=8, ema_decay=0.9, log_every=2)
PARAMS = TrainTokenizerParams(init=None, source=None, spatial=None, model=debug(unquantized_steps=1), fit=FIT)
BASELINE = dataclasses.replace(
    PARAMS, spatial=SpatialSizes(width=8, blocks=1), model=debug(unquantized_steps=1, num_tokens=16)
)


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    """A store with one shard of 40 small pictures."""
    store = open_store(str(tmp_path / "store"))
    write_shard(tmp_path / "records.arrow", (row(i) for i in range(40)), RECORD_SCHEMA)
    store.put_file("records.arrow", tmp_path / "records.arrow")
    return StageContext("train_tokenizer", None, PARAMS, store, tmp_path / "workspace", "f" * 64, {})


def test_job_publishes_a_tokenizer_with_its_card_and_the_report_shows_it(context: StageContext) -> None:
    logged: dict[int, dict[str, float]] = {}
    job = TokenizerJob("train_tokenizer", "f" * 64, context.store.root_uri, RESOURCES, [logged.__setitem__])
    job.run(PARAMS, [("records.arrow", 40)])
    [commit] = commits(context.store, "train_tokenizer", "f" * 64).values()
    folder = context.store.fetch_tree(commit.key.rpartition("/")[0])
    assert DDTTokenizer.from_pretrained(folder).config == PARAMS.model
    card = (folder / "README.md").read_text()
    assert "PSNR of 64 training images, 1 step, dB" in card and "PSNR of 64 training images, 4 steps" in card

    report = Report("train_tokenizer")
    report.curves = {name: [[step, logged[step][name]] for step in sorted(logged)] for name in logged[4]}
    report.metrics = dict(logged[4])
    assert {"visible_share/0001", "position_perplexity/0008", "codes/usage"} <= report.metrics.keys()
    _plot_positions(context, report)
    _picture(context, report)
    _picture_learning(context, report, "records.arrow")
    # One number a token is a plot, not a metric of the run.
    assert not any(name.startswith(("visible", "position")) for name in report.metrics | report.curves)
    assert "codes/usage" in report.metrics and "codes/usage" in report.curves
    assert len(report.pictures) == 4
    for path in report.pictures.values():
        assert np.asarray(Image.open(context.workspace / path)).std() > 0


def train_one(context: StageContext, fingerprint: str, params: TrainTokenizerParams) -> ImageTokenizer:
    """What the job publishes under a fingerprint of its own."""
    TokenizerJob("train_tokenizer", fingerprint, context.store.root_uri, RESOURCES, []).run(
        params, [("records.arrow", 40)]
    )
    [commit] = commits(context.store, "train_tokenizer", fingerprint).values()
    return load_image_tokenizer(context.store.fetch_tree(commit.key.rpartition("/")[0]))


@pytest.mark.parametrize("params", [PARAMS, BASELINE], ids=["ddt", "spatial"])
def test_samples_are_drawn_as_training_goes_and_change_nothing_in_it(context, monkeypatch, params) -> None:
    drawn = train_one(context, "a" * 64, params)
    prefix = samples_prefix("train_tokenizer", "a" * 64)
    first, last = context.store.list(prefix)
    assert (first, last) == (f"{prefix}000000002.png", f"{prefix}000000004.png")
    assert context.store.get_bytes(first) != context.store.get_bytes(last)
    report = Report("train_tokenizer")
    _picture_learning(dataclasses.replace(context, fingerprint="a" * 64), report, "records.arrow")
    ((title, path),) = report.pictures.items()
    assert title == "Original, then drawn after 2, 4 steps"
    with Image.open(context.workspace / path) as grid:
        row = row_of(torch.zeros(samples.PICTURED, 3, 16, 16))
        assert grid.size == (row.width, 3 * row.height)

    monkeypatch.setattr(samples, "MOMENTS", 0)
    assert train_one(context, "b" * 64, params).digest == drawn.digest
    assert not context.store.list(samples_prefix("train_tokenizer", "b" * 64))


def test_no_sample_is_drawn_before_there_are_codes(context: StageContext) -> None:
    train_one(context, "a" * 64, dataclasses.replace(PARAMS, model=debug(unquantized_steps=3)))
    prefix = samples_prefix("train_tokenizer", "a" * 64)
    assert context.store.list(prefix) == [f"{prefix}000000004.png"]


def test_training_starts_from_sd3(context: StageContext, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tests.tokenizer.test_sd3 import tiny_sd3

    sd3 = tiny_sd3(
        patch_size=4,
        in_channels=3,
        out_channels=3,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
    )
    sd3.save_pretrained(tmp_path / "sd3")
    still = dataclasses.replace(FIT, lr=0.0, ema_decay=None)
    model = debug(unquantized_steps=1, decoder_positions="stored")
    params = TrainTokenizerParams(
        init=str(tmp_path / "sd3"), source=None, spatial=None, model=model, fit=still
    )
    decoder = train_one(context, "a" * 64, params).decoder
    assert torch.equal(decoder.embed.weight, sd3.pos_embed.proj.weight.flatten(1))
    with pytest.raises(ValueError, match="init = .*: does not fit the tokenizer: decoder_positions"):
        misfit = dataclasses.replace(params, model=debug(unquantized_steps=1))
        train_one(context, "b" * 64, misfit)


def test_the_baseline_is_trained_by_the_same_job(context: StageContext) -> None:
    logged: dict[int, dict[str, float]] = {}
    job = TokenizerJob("train_tokenizer", "f" * 64, context.store.root_uri, RESOURCES, [logged.__setitem__])
    job.run(BASELINE, [("records.arrow", 40)])
    [commit] = commits(context.store, "train_tokenizer", "f" * 64).values()
    folder = context.store.fetch_tree(commit.key.rpartition("/")[0])
    trained = load_image_tokenizer(folder)
    assert isinstance(trained, SpatialTokenizer) and trained.config == BASELINE.image_tokenizer
    assert {"train/reconstruction", "codes/usage"} <= logged[4].keys()
    report = Report("train_tokenizer")
    _picture(context, report)
    assert len(report.pictures) == 2


def test_the_baseline_has_the_tokens_and_codes_of_the_tokenizer() -> None:
    ours, theirs = BASELINE.model, BASELINE.image_tokenizer
    assert isinstance(theirs, SpatialConfig) and theirs.width == 8
    for name in ("num_tokens", "codebook_size", "code_dim", "ema_decay", "image_size", "bits_per_image"):
        assert getattr(theirs, name) == getattr(ours, name)
    assert theirs.token_order == "V_1..V_T"  # raster order, whatever the DDT tokenizer's is


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": debug()}, "num_tokens = 8: expected a square number"),
        ({"init": "some/sd3"}, "init = 'some/sd3': expected null with spatial"),
    ],
)
def test_a_baseline_that_does_not_fit_is_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BASELINE, **changes)


@pytest.mark.parametrize(
    ("model", "fit", "message"),
    [
        ({"unquantized_steps": 4}, {}, r"unquantized_steps = 4: expected fewer than .*fit.steps = 4:"),
        ({"codebook_size": 65}, {}, r"codebook_size = 65: expected at most .* = 64, the vectors"),
        ({"codebook_size": 64}, {"global_batch": 7}, r"codebook_size = 64: expected at most .* = 56, the"),
    ],
)
def test_training_that_would_leave_no_codes_is_refused(context, model, fit, message) -> None:
    params = dataclasses.replace(
        PARAMS, model=PARAMS.model.replace(**model), fit=dataclasses.replace(FIT, **fit)
    )
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(context, section=params))
    check_codebook(dataclasses.replace(params, model=PARAMS.model, fit=FIT))


def test_renderer_job_publishes_a_renderer_of_the_tokenizer(context: StageContext, tmp_path: Path) -> None:
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    context.store.put_tree("tokenizer", tmp_path / "tokenizer")
    logged: dict[int, dict[str, float]] = {}
    job = RendererJob("train_renderer", "f" * 64, context.store.root_uri, RESOURCES, [logged.__setitem__])
    job.run("tokenizer", FIT, [("records.arrow", 40)])
    [commit] = commits(context.store, "train_renderer", "f" * 64).values()
    folder = context.store.fetch_tree(commit.key.rpartition("/")[0])
    renderer = Renderer.from_pretrained(folder)
    assert renderer.config.sizes.width == tokenizer.config.decoder_width
    assert logged[4]["train/loss"] > 0
    assert "PSNR of 64 training images, dB" in (folder / "README.md").read_text()
    codes = torch.zeros(2, 8, dtype=torch.int64)
    assert tokenizer.decode(codes, renderer=renderer).shape == (2, 3, 16, 16)


def in_this_process(ctx: StageContext, job: type[Job], **arguments: Any) -> tuple[Commit, Report]:
    """`run_training` without Ray."""
    if not commits(ctx.store, ctx.name, ctx.fingerprint):
        job(ctx.name, ctx.fingerprint, ctx.store.root_uri, RESOURCES, []).run(**arguments)
    [commit] = commits(ctx.store, ctx.name, ctx.fingerprint).values()
    return commit, Report(ctx.name)


def test_train_renderer_makes_a_folder_that_reconstruct_takes(context, tmp_path, monkeypatch, capsys) -> None:
    make().save_pretrained(tmp_path / "tokenizer")
    mark_complete(tmp_path / "tokenizer")
    records = Commit("0" * 32, "records.arrow", 40, 1, "0" * 64, stats={"role": "pairs"})
    Manifest("ingest", "f" * 64, {}, (records,)).save(manifest_path(context.workspace, "ingest"))
    monkeypatch.setattr(train_renderer, "run_training", in_this_process)
    fit = {"steps": 4, "global_batch": 8, "warmup_steps": 1, "log_every": 2}
    places = {"paths.store": context.store.root_uri, "paths.workspace": context.workspace}
    settings = {**places, **{f"train_tokenizer.fit.{name}": value for name, value in fit.items()}}
    shared = ["--params", PARAMS_FILE, "--model", str(tmp_path / "tokenizer")]

    def train(output: str) -> None:
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        main(["train-renderer", *shared, "-o", str(tmp_path / output), *sets])

    train("renderer")
    assert capsys.readouterr().out.strip().endswith("renderer")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    drawn = ["-o", str(tmp_path / "out.png"), "--renderer", str(tmp_path / "renderer")]
    main(["reconstruct", str(tmp_path / "a.png"), *shared, *drawn])
    assert capsys.readouterr().out.count(" dB\n") == 1

    monkeypatch.setattr(train_renderer.RendererJob, "run", None)  # what is finished is only copied
    train("again")
    first, again = (Renderer.from_pretrained(tmp_path / name) for name in ("renderer", "again"))
    assert first.digest == again.digest
    with pytest.raises(SystemExit) as stopped:
        train("again")
    assert stopped.value.code == 2 and "expected a folder that does not exist" in capsys.readouterr().err


def test_checkpoints_it_starts_from_are_part_of_its_identity(tmp_path: Path) -> None:
    assert models(PARAMS) == {}
    (tmp_path / "config.json").write_text("{}")
    started = models(dataclasses.replace(PARAMS, init=str(tmp_path)))
    (tmp_path / "config.json").write_text("{ }")
    assert started != models(dataclasses.replace(PARAMS, init=str(tmp_path)))
