"""The jobs that train the tokenizer, its baseline and its renderer as a worker runs them, without Ray."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddt.baselines.config import SpatialConfig, SpatialSizes
from ddt.baselines.kinds import load_image_tokenizer
from ddt.baselines.spatial import SpatialTokenizer
from ddt.manifest import commits
from ddt.params import TrainTokenizerParams
from ddt.records import RECORD_SCHEMA, write_shard
from ddt.store import open_store
from ddt.tokenizer import DDTTokenizer, Renderer
from pipelines.report import Report
from pipelines.runner import StageContext
from pipelines.train_renderer import RendererJob
from pipelines.train_tokenizer import TokenizerJob, _picture, _plot_positions, models
from tests.data.test_images import row
from tests.pipelines.ray_support import RESOURCES
from tests.tokenizer.test_model import debug, make
from tests.train.test_fit import CONFIG

FIT = dataclasses.replace(CONFIG, steps=4, global_batch=8, ema_decay=0.9, log_every=2)
PARAMS = TrainTokenizerParams(init=None, spatial=None, model=debug(unquantized_steps=1), fit=FIT)
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
    assert "PSNR of 64 training images, 1 steps, dB" in card and "PSNR of 64 training images, 4 steps" in card

    report = Report("train_tokenizer")
    report.curves = {name: [[step, logged[step][name]] for step in sorted(logged)] for name in logged[4]}
    report.metrics = dict(logged[4])
    assert {"visible_share/0001", "position_perplexity/0008", "codes/usage"} <= report.metrics.keys()
    _plot_positions(context, report)
    _picture(context, report, folder, "records.arrow")
    # One number a token is a plot, not a metric of the run.
    assert not any(name.startswith(("visible", "position")) for name in report.metrics | report.curves)
    assert "codes/usage" in report.metrics and "codes/usage" in report.curves
    assert len(report.pictures) == 3
    for path in report.pictures.values():
        assert np.asarray(Image.open(context.workspace / path)).std() > 0


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
    _picture(context, report, folder, "records.arrow")
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


def test_checkpoints_it_starts_from_are_part_of_its_identity(tmp_path: Path) -> None:
    assert models(PARAMS) == {}
    (tmp_path / "config.json").write_text("{}")
    started = models(dataclasses.replace(PARAMS, init=str(tmp_path)))
    (tmp_path / "config.json").write_text("{ }")
    assert started != models(dataclasses.replace(PARAMS, init=str(tmp_path)))
