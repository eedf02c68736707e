"""Sizes, texts and makers that the tests of ddt.mllm share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ddt.data.tokens import TokenDataset, TokenMeta, write_shard
from ddt.mllm.build import load_extended, load_tokenizer
from ddt.mllm.config import LanguageModelConfig
from ddt.mllm.packing import PackedBatch
from ddt.mllm.sequences import Document
from ddt.mllm.vocabulary import Vocabulary, extend_tokenizer

NUM_TOKENS = 4
CODEBOOK_SIZE = 32
META = TokenMeta("d", NUM_TOKENS, CODEBOOK_SIZE, "V_1..V_T")
TEXTS = [
    "a red circle left of two blue squares",
    "USER: a green ring Please Generate an image. ASSISTANT: yes",
    "Question: How many circles are there? Short answer: Describe the image in detail.",
]
TINY = LanguageModelConfig(
    width=32,
    layers=2,
    heads=2,
    kv_heads=1,
    mlp_width=64,
    max_length=128,
    tie_embeddings=True,
    rope_theta=10_000.0,
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def extended(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Vocabulary]:
    """A checkpoint's model and tokenizer with the visual ids, as pre-training starts from it."""
    tokenizer = load_tokenizer(folder)
    vocabulary = extend_tokenizer(tokenizer, CODEBOOK_SIZE)
    return load_extended(folder, vocabulary), tokenizer, vocabulary


def asked(number: int) -> list[dict[str, str]]:
    """Two questions about every other picture, none about the rest."""
    if number % 2:
        return []
    return [{"question": f"q{n} of {number}?", "answer": f"a{n} of {number}"} for n in range(2)]


def make_edits(folder: Path, count: int) -> TokenDataset:
    """Edits whose sources have the code of their number, and whose targets are zeros."""
    columns = {
        "sample_id": [str(n) for n in range(count)],
        "instruction": [f"edit {n}" for n in range(count)],
        "codes": np.arange(count)[:, None].repeat(NUM_TOKENS, axis=1),
        "target_codes": np.zeros((count, NUM_TOKENS), int),
    }
    write_shard(folder / "edits", columns, META, "edits")
    return TokenDataset.of_files([folder / "edits"])


def rows_of(batch: PackedBatch) -> list[bytes]:
    """The rows of a batch, ids and documents, in an order of their own."""
    return sorted(row.numpy().tobytes() for row in torch.cat([batch.ids_RL, batch.document_RL], dim=1))


def random_documents(count: int, ids: int, seed: int = 0) -> list[Document]:
    """Documents of random ids and lengths, about 70 % learned."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 20, count)
    documents = [Document(rng.integers(0, ids, n), rng.random(n) < 0.7) for n in lengths]
    for document in documents:
        document.learned[0] = False
    return documents
