"""Cross-entropy of pictures with their own captions and with others': alike until captions are read."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from ddt.data.tokens import TokenDataset, write_shard
from ddt.mllm.batches import PretrainBatches, PretrainMix
from ddt.mllm.build import new_model
from ddt.mllm.held_out import held_out_metrics
from ddt.mllm.loss import LanguageModelLoss
from ddt.train.fit import fit
from tests.mllm.mllm_tiny import CODEBOOK_SIZE, META, NUM_TOKENS, TINY
from tests.mllm.test_training import FIT

CAPTIONS = ["red circle", "blue ring", "green square", "white cross"]


@pytest.fixture
def learnt(tmp_path):
    """Four pictures of four codes each, no code in two of them; and a picture without a caption."""
    codes = np.arange(20).reshape(5, NUM_TOKENS)
    columns = {"sample_id": list("abcde"), "short": [*CAPTIONS, ""], "long": [None] * 5, "codes": codes}
    write_shard(tmp_path / "learnt", columns, META, "pairs")
    return TokenDataset.of_files([tmp_path / "learnt"])


def test_only_a_model_that_reads_captions_tells_them_apart(learnt, builder, vocabulary):
    model, loss = new_model(TINY, vocabulary, seed=0), LanguageModelLoss(vocabulary)
    fresh = held_out_metrics(model, loss, learnt, builder, 64, bf16=False)
    assert fresh["held_out/unigram_entropy"] == pytest.approx(math.log(16))  # 16 codes, each once
    # Four codes are drawn among all ids, by a model that knows nothing.
    assert fresh["held_out/visual_ce"] == pytest.approx(math.log(vocabulary.size), rel=0.1)
    assert fresh["held_out/visual_ce"] == pytest.approx(fresh["held_out/visual_ce_shuffled"], rel=0.1)

    mix = PretrainMix(long_caption_rate=0.0, caption_drop_rate=0.0, text_rate=0.0)
    batches = PretrainBatches(learnt, None, builder, mix, FIT.global_batch, 64, seed=0)
    fit(model, loss, batches, dataclasses.replace(FIT, steps=60), progress=False)
    model.train()
    found = held_out_metrics(model, loss, learnt, builder, 64, bf16=False)
    assert model.training
    assert found["held_out/visual_ce"] < 0.2 * found["held_out/unigram_entropy"]
    # The first code of another caption's picture is never guessed; those after it follow from it.
    assert found["held_out/visual_ce_shuffled"] > found["held_out/visual_ce"] + 0.5


def test_every_picture_counts_once_whatever_the_batches(builder, vocabulary, tmp_path, monkeypatch):
    count = 7
    codes = np.random.default_rng(0).integers(0, CODEBOOK_SIZE, (count, NUM_TOKENS))
    texts = [f"picture {n}" for n in range(count)]
    columns = {"sample_id": texts, "short": texts, "long": texts, "codes": codes}
    write_shard(tmp_path / "some", columns, META, "pairs")
    pairs = TokenDataset.of_files([tmp_path / "some"])
    model, loss = new_model(TINY, vocabulary, seed=0), LanguageModelLoss(vocabulary)
    whole = held_out_metrics(model, loss, pairs, builder, 64, bf16=False)
    monkeypatch.setattr("ddt.mllm.held_out.PAIRS_AT_ONCE", 3)
    assert held_out_metrics(model, loss, pairs, builder, 64, bf16=False) == pytest.approx(whole, rel=1e-5)
    ids = builder.documents([("[BOS] {caption} [BOV] {image} [EOV] [EOS]", {"caption": t, "image": c})
                             for t, c in zip(texts, codes, strict=True)])  # fmt: skip
    losses = []
    for document in ids:
        tokens = torch.from_numpy(document.ids)
        with torch.no_grad():
            logits = model.eval()(tokens[None]).logits[0]
        each = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="none")
        losses.append(each[vocabulary.is_visual(tokens[1:])])
    assert whole["held_out/visual_ce"] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)


def test_nothing_is_measured_without_captions(builder, vocabulary, tmp_path):
    columns = {"sample_id": ["a", "b"], "short": ["", "one"], "long": ["x", "y"], "codes": [[0] * 4] * 2}
    write_shard(tmp_path / "bare", columns, META, "pairs")
    model, loss = new_model(TINY, vocabulary, seed=0), LanguageModelLoss(vocabulary)
    assert (
        held_out_metrics(model, loss, TokenDataset.of_files([tmp_path / "bare"]), builder, 64, bf16=False)
        == {}
    )
