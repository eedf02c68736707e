"""What training draws: the paper's shares over 100,000 samples, and one order for any number of workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddt.data.text import DrawnText
from ddt.data.tokens import TokenDataset, write_shard
from ddt.mllm import sequences as S
from ddt.mllm.batches import (
    TASKS,
    FinetuneBatches,
    FinetuneMix,
    PretrainBatches,
    PretrainMix,
    caption_columns,
)
from ddt.mllm.instructions import LONG_CAPTION, SHORT_CAPTION
from tests.mllm.mllm_tiny import META, NUM_TOKENS, make_edits, rows_of

TEXTS = DrawnText(lambda rng: f"only text {rng.integers(100)}", size=20, seed=0)


def pretrain(pairs, builder, mix=None, seed=0, samples=12, row_length=64):
    return PretrainBatches(pairs, TEXTS, builder, mix or PretrainMix(), samples, row_length, seed)


def test_shares_of_the_paper_over_1e5_draws(pairs, builder):
    examples = pretrain(pairs, builder).examples(np.arange(100_000))
    with_image = [values["caption"] for template, values in examples if template == S.PRETRAIN]
    assert abs(1 - len(with_image) / len(examples) - 0.10) < 0.004
    dropped = sum(caption == "" for caption in with_image) / len(with_image)
    long = sum("longer" in caption for caption in with_image) / sum(caption != "" for caption in with_image)
    assert abs(dropped - 0.10) < 0.004 and abs(long - 0.60) < 0.007


def test_every_pair_is_seen_once_an_epoch(pairs, builder):
    mix = PretrainMix(long_caption_rate=0.0, caption_drop_rate=0.0, text_rate=0.0)
    captions = [v["caption"] for _, v in pretrain(pairs, builder, mix).examples(np.arange(100))]
    assert sorted(captions[:50]) == sorted(captions[50:]) == sorted(f"short {n}" for n in range(50))
    assert captions[:50] != captions[50:]


def test_a_share_of_the_pairs_has_its_caption_after_the_picture(pairs, builder):
    mix = PretrainMix(caption_drop_rate=0.5, text_rate=0.0, image_first_rate=0.3)
    examples = pretrain(pairs, builder, mix).examples(np.arange(20_000))
    first = [values for template, values in examples if template == S.IMAGE_FIRST]
    assert abs(len(first) / len(examples) - 0.3) < 0.01
    assert all(values["caption"] for values in first)
    own = [
        values["image"].tolist() == pairs.codes(int(values["caption"].split()[-1])).tolist()
        for values in first
    ]
    assert all(own)
    (document,) = builder.documents([(S.IMAGE_FIRST, first[0])])
    vocabulary = builder.vocabulary
    assert (
        document.ids[:2].tolist() == [vocabulary.bos, vocabulary.bov] and document.ids[-1] == vocabulary.eos
    )
    assert document.learned.tolist() == [False] + [True] * (len(document) - 1)


def edits_of(batch, vocabulary):
    """The first code of the source of each edit in a batch: documents of two pictures."""
    found = []
    for ids, documents in zip(batch.ids_RL.numpy(), batch.document_RL.numpy(), strict=True):
        for number in range(1, documents.max() + 1):
            own = ids[documents == number]
            pictures = np.flatnonzero(own == vocabulary.bov)
            if len(pictures) == 2:
                found.append(int(own[pictures[0] + 1]) - vocabulary.text_size)
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_rare_task_sees_each_of_its_rows_once_a_pass(pairs, builder, tmp_path, world):
    mix = FinetuneMix({"text_to_image": 0.6, "edit": 0.1, "caption": 0.3})

    def seen(steps):
        batches = FinetuneBatches(pairs, make_edits(tmp_path, 16), builder, mix, 20, 96, seed=1)
        every = [batches.batch(step, rank, world) for step in steps for rank in range(world)]
        return sorted(edit for batch in every for edit in edits_of(batch, builder.vocabulary))

    each = list(range(16))
    assert seen(range(8)) == seen(range(8, 16)) == each  # eight steps of 20, a tenth of them edits
    assert seen(range(3)) != seen(range(8, 11))  # another order in the second pass
    assert sorted(seen(range(3)) + seen(range(3, 8))) == each  # resumed in the middle


def test_text_leaves_no_gap_in_the_pairs(pairs, builder):
    mix = PretrainMix(long_caption_rate=0.0, caption_drop_rate=0.0, text_rate=0.3)
    batches = pretrain(pairs, builder, mix)
    examples = batches.examples(np.arange(200))
    captions = [values["caption"] for template, values in examples if template == S.PRETRAIN]
    texts = [values["text"] for template, values in examples if template == S.TEXT_ONLY]
    every = sorted(f"short {n}" for n in range(50))
    assert sorted(captions[:50]) == sorted(captions[50:100]) == every and captions[:50] != captions[50:100]
    assert sorted(texts[:20]) == sorted(texts[20:40]) == sorted(TEXTS[n] for n in range(20))


def test_tasks_come_in_their_weights(pairs, edits, builder):
    weights = {"text_to_image": 5.0, "edit": 2.0, "caption": 1.0, "vqa": 2.0}
    batches = FinetuneBatches(pairs, edits, builder, FinetuneMix(weights), 8, 96, seed=1)
    for first in (0, 32, 3200):  # of every batch, not only in the long run
        counts = np.bincount(batches.tasks(np.arange(first, first + 32))[0], minlength=4)
        assert np.abs(counts - np.array([16, 6.4, 3.2, 6.4])).max() < 2
    numbers = np.arange(200)
    tasks = batches.tasks(numbers)[0]
    by_task = {TASKS[t]: e for t, e in zip(tasks, batches.examples(numbers), strict=True)}
    assert by_task["text_to_image"][0] == S.TEXT_TO_IMAGE
    assert by_task["edit"][0] == S.EDIT and by_task["edit"][1]["image"].tolist() == [0] * NUM_TOKENS
    assert by_task["caption"][0] == S.ANSWER


def test_an_instruction_asks_for_the_caption_that_the_picture_has(pairs, builder):
    batches = FinetuneBatches(pairs, None, builder, FinetuneMix({"caption": 1.0}), 8, 96, seed=1)
    asked = [values for _, values in batches.examples(np.arange(100))]
    for values in asked:
        kind = "a much longer caption" if values["instruction"] in LONG_CAPTION else "short"
        number = int(values["answer"].removeprefix(f"{kind} "))
        assert values["image"].tolist() == pairs.codes(number).tolist()
    assert {values["instruction"] for values in asked} == {*LONG_CAPTION, *SHORT_CAPTION}


def test_all_questions_of_a_picture_are_one_conversation_about_it(pairs, builder):
    """Each of the 25 pictures with questions once a pass, and any of its questions may come first."""
    mix = FinetuneMix({"vqa": 1.0})
    batches = FinetuneBatches(pairs, None, builder, mix, 8, 96, seed=1)
    examples = batches.examples(np.arange(100))
    first = set()
    for _, values in examples:
        number = int(values["answer0"].split()[-1])
        assert values["image"].tolist() == pairs.codes(number).tolist()
        order = [0, 1] if values["answer0"] == f"a0 of {number}" else [1, 0]
        for turn, n in enumerate(order):
            assert f"q{n} of {number}?" in values[f"question{turn}"]
            assert values[f"answer{turn}"] == f"a{n} of {number}"
        first.add((number, order[0]))
    numbers = [int(values["answer0"].split()[-1]) for _, values in examples]
    assert [sorted(numbers[n : n + 25]) for n in range(0, 100, 25)] == [list(range(0, 50, 2))] * 4
    assert len(first) > 40  # of 50


@pytest.mark.parametrize("world", [2, 4])
def test_workers_share_one_global_batch(pairs, builder, world):
    batches = pretrain(pairs, builder)
    whole = batches.batch(3)
    parts = [pretrain(pairs, builder).batch(3, rank, world) for rank in range(world)]
    assert len({len(part.ids_RL) for part in parts}) == 1
    found = sorted(row for part in parts for row in rows_of(part))
    empty = len(found) - len(whole.ids_RL)
    assert 0 <= empty < world
    padding = [row for row in found if row not in rows_of(whole)]
    assert len(padding) == empty and len(set(padding)) <= 1
    assert rows_of(batches.batch(3)) == rows_of(whole) != rows_of(batches.batch(4))


def test_a_long_text_is_cut_but_an_image_is_not(pairs, builder):
    long = DrawnText(lambda rng: "word " * 100, size=1, seed=0)
    mix = PretrainMix(text_rate=1.0)
    batch = PretrainBatches(pairs, long, builder, mix, 2, 32, 0).batch(0)
    assert batch.ids_RL.shape == (2, 32)
    with pytest.raises(ValueError, match="does not fit row_length = 6"):
        pretrain(pairs, builder, PretrainMix(text_rate=0.0), row_length=6).batch(0)


def test_missing_captions_fall_back(tmp_path, builder):
    columns = {
        "sample_id": ["a"],
        "short": ["short one"],
        "long": [None],
        "codes": np.zeros((1, NUM_TOKENS), int),
    }
    write_shard(tmp_path / "p", columns, META, "pairs")
    mix = PretrainMix(long_caption_rate=1.0, caption_drop_rate=0.0, text_rate=0.0)
    data = TokenDataset.of_files([tmp_path / "p"])
    assert pretrain(data, builder, mix).examples(np.arange(1))[0][1]["caption"] == "short one"
    assert caption_columns(0, np.arange(3), 1.0) == ["long"] * 3


def without_questions(folder):
    columns = {"sample_id": ["a"], "short": ["s"], "long": ["l"], "codes": np.zeros((1, NUM_TOKENS), int)}
    write_shard(folder / "unasked", columns, META, "pairs")
    return TokenDataset.of_files([folder / "unasked"])


def test_mistakes_are_named(pairs, builder, tmp_path):
    with pytest.raises(ValueError, match="positive weight"):
        FinetuneMix({"edit": 0.0})
    with pytest.raises(ValueError, match="mix.edit = 1.0: there are no edits in the data"):
        FinetuneBatches(pairs, None, builder, FinetuneMix({"edit": 1.0}), 4, 64, 0)
    with pytest.raises(ValueError, match="mix.vqa = 1.0: there are no questions in the data"):
        FinetuneBatches(without_questions(tmp_path), None, builder, FinetuneMix({"vqa": 1.0}), 4, 64, 0)
    with pytest.raises(ValueError, match="text_rate = 0.1: there is no text"):
        PretrainBatches(pairs, None, builder, PretrainMix(), 4, 64, 0)


def test_a_step_is_the_same_whatever_is_drawn_with_it(pairs, edits, builder, monkeypatch):
    def made():
        weights = {"text_to_image": 1.0, "edit": 1.0, "caption": 1.0, "vqa": 1.0}
        tuning = FinetuneBatches(pairs, edits, builder, FinetuneMix(weights), 12, 96, seed=1)
        return pretrain(pairs, builder), tuning

    many = made()
    monkeypatch.setattr("ddt.mllm.batches.DRAWN_AT_ONCE", 1)
    for one, other in zip(made(), many, strict=True):
        for step in (84, 85, 0, 200, 1):  # 85 steps of 12 are drawn at once
            for a, b in zip(one.batch(step), other.batch(step), strict=True):
                assert torch.equal(a, b)
