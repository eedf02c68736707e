"""The job of stage `train_tokenizer` as a worker runs it, without Ray: its folder, card and pictures."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddt.manifest import commits
from ddt.params import TrainTokenizerParams
from ddt.records import RECORD_SCHEMA, write_shard
from ddt.store import open_store
from ddt.tokenizer import DDTTokenizer
from pipelines.report import Report
from pipelines.runner import StageContext
from pipelines.train_tokenizer import TokenizerJob, _picture, _plot_positions, models
from tests.data.test_images import row
from tests.pipelines.ray_support import RESOURCES
from tests.tokenizer.test_model import debug
from tests.train.test_fit import CONFIG

FIT = dataclasses.replace(CONFIG, steps=4, global_batch=8, ema_decay=0.9, log_every=2)
PARAMS = TrainTokenizerParams(init=None, model=debug(unquantized_steps=1), fit=FIT)


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


def test_checkpoints_it_starts_from_are_part_of_its_identity(tmp_path: Path) -> None:
    assert models(PARAMS) == {}
    (tmp_path / "config.json").write_text("{}")
    started = models(dataclasses.replace(PARAMS, init=str(tmp_path)))
    (tmp_path / "config.json").write_text("{ }")
    assert started != models(dataclasses.replace(PARAMS, init=str(tmp_path)))
