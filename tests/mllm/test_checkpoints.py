"""Checkpoints in their publishers' layout (config, sharded safetensors, tokenizer.json): extended, read back.

Random tiny weights; names, special tokens, ties and soft caps are those of Llama-3 and Gemma-2.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from ddt.mllm.build import attention_kind
from ddt.mllm.vocabulary import Vocabulary, extend_tokenizer, text_ids, visual_token
from tests.mllm.mllm_tiny import CODEBOOK_SIZE, extended

LLAMA3_SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(254)),
]
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def llama3_tokenizer(text_ids: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `text_ids` entries, then Llama-3's 256 special tokens; no pad token, as published."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(alphabet)}
    vocab |= {f"Ġword{i}": i for i in range(len(alphabet), text_ids)}
    bpe = Tokenizer(models.BPE(vocab, []))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens(LLAMA3_SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=LLAMA3_SPECIAL[0], eos_token=LLAMA3_SPECIAL[1]
    )


def gemma2_tokenizer() -> PreTrainedTokenizerFast:
    """Gemma's layout: special tokens first, blanks as ▁, byte fallback."""
    letters = [chr(i) for i in range(33, 127)]
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *(f"<0x{i:02X}>" for i in range(256)), *letters]
    vocab = {token: i for i, token in enumerate(names)}
    bpe = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]  # as in Gemma's tokenizer.json
    )
    bpe.add_special_tokens(names[:4])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture(params=["llama3", "gemma2"])
def checkpoint(request, tmp_path: Path) -> Path:
    folder = tmp_path / request.param
    torch.manual_seed(0)
    if request.param == "llama3":
        tokenizer = llama3_tokenizer(300)
        config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=1, rope_theta=500_000.0, **SHAPE)
        model = LlamaForCausalLM(config)
    else:
        tokenizer = gemma2_tokenizer()
        model = Gemma2ForCausalLM(
            Gemma2Config(vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=8, **SHAPE)
        )
    model.bfloat16().save_pretrained(folder, max_shard_size="8KB")
    tokenizer.save_pretrained(folder)
    return folder


def test_the_folders_are_as_published(checkpoint):
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and all((checkpoint / name).is_file() for name in files)
    assert ("lm_head.weight" in index["weight_map"]) == ("llama3" in checkpoint.name)
    assert (checkpoint / "tokenizer.json").is_file()
    with safe_open(checkpoint / files[0], "pt") as file:
        assert file.get_tensor(file.keys()[0]).dtype == torch.bfloat16


def test_extended_checkpoints_are_ordinary_ones(checkpoint, tmp_path):
    original = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model, tokenizer, vocabulary = extended(checkpoint)
    out = tmp_path / "out"
    model.save_pretrained(out, max_shard_size="20KB")
    tokenizer.save_pretrained(out)
    again, text = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert type(again) is type(original) and len(text) == again.config.vocab_size == vocabulary.size
    assert extend_tokenizer(text, CODEBOOK_SIZE) == vocabulary
    sentence = "Two blue squares, drawn."
    (ids,) = text_ids(text, [sentence])
    assert text.decode(ids) == sentence
    assert text(sentence)["input_ids"] == AutoTokenizer.from_pretrained(checkpoint)(sentence)["input_ids"]
    # Text is scored as before, over the old ids; a visual token is known by its name.
    logits = again(torch.tensor([ids])).logits[..., : vocabulary.text_size]
    torch.testing.assert_close(logits, original(torch.tensor([ids])).logits)
    assert text.convert_tokens_to_ids(visual_token(3)) == vocabulary.text_size + 3
    assert again.config.tie_word_embeddings == original.config.tie_word_embeddings


def test_llama_3_gives_193794_ids():
    tokenizer = llama3_tokenizer(128_000)
    assert len(tokenizer) == 128_256 and tokenizer.pad_token is None
    vocabulary = extend_tokenizer(tokenizer, 65_536)
    assert vocabulary == Vocabulary(128_256, 65_536, bos=128_000, eos=128_001, pad=128_001)
    assert vocabulary.size == len(tokenizer) == 193_794
    assert tokenizer.convert_tokens_to_ids(["[BOV]", "[EOV]"]) == [193_792, 193_793]


def test_fused_attention_only_where_it_computes_the_same():
    assert attention_kind("cuda", LlamaConfig(**SHAPE)) == "sdpa"
    assert attention_kind("cpu", LlamaConfig(**SHAPE)) == "eager"
    assert attention_kind("cuda", Gemma2Config(**SHAPE)) == "eager"  # its scores are bounded
    assert attention_kind("cuda", Gemma2Config(**SHAPE, attn_logit_softcapping=None)) == "sdpa"
