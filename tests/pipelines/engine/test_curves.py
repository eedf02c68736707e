"""What a training stage's report reads from the log of its metrics."""

import json
import math

import pytest

from pipelines.engine.training import read_curves


def test_curves_of_a_log_with_a_restart_and_a_cut_line(tmp_path):
    lines = [
        {"step": 10, "train/loss": 3.0, "train/text_ce": 2.0},
        {"step": 20, "train/loss": 9.0, "train/text_ce": 9.0},  # lost with its worker, and trained again
        {"step": 20, "train/loss": 2.0, "train/text_ce": 1.0},
    ]
    log = tmp_path / "pretrain.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "train/lo')
    curves = read_curves(log)
    assert curves["train/loss"] == [[10, 3.0], [20, 2.0]]
    perplexities = [value for _, value in curves["train/text_perplexity"]]
    assert perplexities == pytest.approx([math.e**2, math.e])


def test_a_training_without_text_has_no_perplexity(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    assert read_curves(tmp_path / "log.jsonl").keys() == {"train/loss"}
    assert read_curves(tmp_path / "missing.jsonl") == {}
