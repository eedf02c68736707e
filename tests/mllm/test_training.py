"""A tiny model learns by heart: from each caption its image's codes, and from each image its answer."""

from __future__ import annotations

import numpy as np
import pytest

from ddt.data.tokens import TokenDataset, TokenMeta, write_shard
from ddt.mllm import sequences as S
from ddt.mllm.batches import FinetuneBatches, FinetuneMix
from ddt.mllm.build import new_model
from ddt.mllm.config import TextSampling, VisualSampling
from ddt.mllm.generate import generate_codes, generate_text
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.sequences import SequenceBuilder
from ddt.train.config import FitConfig
from ddt.train.fit import fit
from tests.mllm.mllm_tiny import CODEBOOK_SIZE, NUM_TOKENS, TINY

FIT = FitConfig(
    steps=90,
    global_batch=12,
    micro_batch=3,
    optimizer="adamw",
    lr=1e-2,
    min_lr_ratio=0.1,
    warmup_steps=5,
    weight_decay=0.0,
    betas=(0.9, 0.95),
    eps=1e-6,
    clip=1.0,
    ema_decay=None,
    bf16=False,
    checkpoint_every=1000,
    keep_checkpoints=1,
    log_every=20,
    spike_factor=None,
    spike_window=10,
    rewind_steps=0,
    seed=0,
)


@pytest.mark.parametrize("token_order", ["V_1..V_T", "V_T..V_1"])
def test_captions_and_answers_are_learnt_by_heart(tmp_path, tokenizer, vocabulary, token_order):
    captions = ["red circle", "blue ring", "green square"]
    codes = np.random.default_rng(0).integers(0, CODEBOOK_SIZE, (3, NUM_TOKENS))
    meta = TokenMeta("d", NUM_TOKENS, CODEBOOK_SIZE, token_order)
    write_shard(
        tmp_path / "pairs",
        {
            "sample_id": captions,
            "short": captions,
            "long": captions,
            "questions": [[{"question": "What?", "answer": caption}] for caption in captions],
            "codes": codes,
        },
        meta,
        "pairs",
    )
    builder = SequenceBuilder(tokenizer, vocabulary, NUM_TOKENS, token_order)
    batches = FinetuneBatches(
        TokenDataset.of_files([tmp_path / "pairs"], "d"),
        None,
        builder,
        FinetuneMix({"text_to_image": 1.0, "vqa": 1.0}, caption_drop_rate=0.0),
        FIT.global_batch,
        row_length=72,
        seed=0,
    )
    model = new_model(TINY, vocabulary, seed=0)
    result = fit(model, LanguageModelLoss(vocabulary), batches, FIT, progress=False)
    assert result.metrics["train/visual_ce"] < 0.1 and result.metrics["train/text_ce"] < 0.1

    model.eval()
    drawing = builder.prompts([(S.TEXT_TO_IMAGE, {"caption": caption}) for caption in captions])
    greedy = VisualSampling(cfg_scale=1.0, temperature=0.0)
    ids = generate_codes(model, vocabulary, drawing, drawing, NUM_TOKENS, greedy, [0, 0, 0])
    assert builder.codes(ids.numpy()).tolist() == codes.tolist()
    reading = builder.prompts([(S.ANSWER, {"image": image, "instruction": "What?"}) for image in codes])
    answers = generate_text(
        model, vocabulary, reading, TextSampling(temperature=0.0, max_new_tokens=16), [0, 0, 0]
    )
    assert [tokenizer.decode(answer).strip() for answer in answers] == captions
