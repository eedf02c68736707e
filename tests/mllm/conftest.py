"""A small byte-level BPE and models of a few thousand parameters, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from ddt.data.tokens import TokenDataset, write_shard
from ddt.mllm.build import new_model
from ddt.mllm.sequences import SequenceBuilder
from ddt.mllm.vocabulary import Vocabulary, extend_tokenizer
from tests.mllm.mllm_tiny import CODEBOOK_SIZE, META, NUM_TOKENS, TINY, asked, make_edits, make_tokenizer


@pytest.fixture
def plain_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def tokenizer(plain_tokenizer) -> PreTrainedTokenizerFast:
    extend_tokenizer(plain_tokenizer, CODEBOOK_SIZE)
    return plain_tokenizer


@pytest.fixture
def vocabulary(tokenizer) -> Vocabulary:
    return extend_tokenizer(tokenizer, CODEBOOK_SIZE)


@pytest.fixture
def builder(tokenizer, vocabulary) -> SequenceBuilder:
    return SequenceBuilder(tokenizer, vocabulary, NUM_TOKENS, "V_1..V_T")


@pytest.fixture
def llama(vocabulary):
    return new_model(TINY, vocabulary, seed=0)


@pytest.fixture
def gemma_folder(tmp_path: Path, plain_tokenizer) -> Path:
    """A tiny random Gemma-2 checkpoint as its publishers lay it out: config, safetensors, tokenizer.json."""
    folder = tmp_path / "gemma"
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(plain_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        sliding_window=64,
    )
    Gemma2ForCausalLM(config).save_pretrained(folder)
    plain_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "sample_id": [str(n) for n in range(50)],
        "short": [f"short {n}" for n in range(50)],
        "long": [f"a much longer caption {n}" for n in range(50)],
        "questions": [asked(n) for n in range(50)],
        "codes": rng.integers(0, CODEBOOK_SIZE, (50, NUM_TOKENS)),
    }
    write_shard(tmp_path / "pairs", columns, META, "pairs")
    return TokenDataset.of_files([tmp_path / "pairs"])


@pytest.fixture
def edits(tmp_path):
    return make_edits(tmp_path, 16)
