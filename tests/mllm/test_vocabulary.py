"""The id layout, and that an extended model and tokenizer load through Hugging Face's own classes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM, AutoTokenizer

from ddt.mllm.build import check_row_length, load_model, new_model
from ddt.mllm.new_rows import NewRows
from ddt.mllm.sharding import read_weights, weight_files
from ddt.mllm.vocabulary import Vocabulary, extend_embeddings, extend_tokenizer, text_ids, visual_token
from tests.mllm.mllm_tiny import CODEBOOK_SIZE, TINY, extended, make_tokenizer


def test_llama3_8b_gives_193794_ids():
    vocabulary = Vocabulary(text_size=128_256, codebook_size=65_536, bos=128_000, eos=128_001, pad=128_001)
    assert vocabulary.size == 193_794
    assert (vocabulary.bov, vocabulary.eov) == (193_792, 193_793)
    assert vocabulary.visual == slice(128_256, 193_792)


def test_codes_follow_text_then_bov_and_eov(plain_tokenizer):
    text_size = len(plain_tokenizer)
    vocabulary = extend_tokenizer(plain_tokenizer, CODEBOOK_SIZE)
    ids = plain_tokenizer.convert_tokens_to_ids([visual_token(0), visual_token(31), "[BOV]", "[EOV]"])
    assert ids == [text_size, text_size + 31, text_size + 32, text_size + 33]
    assert len(plain_tokenizer) == vocabulary.size
    assert extend_tokenizer(plain_tokenizer, CODEBOOK_SIZE) == vocabulary  # once is enough


def test_a_codebook_of_the_paper_s_size_is_added():
    tokenizer = make_tokenizer()
    text_size = len(tokenizer)
    vocabulary = extend_tokenizer(tokenizer, 65_536)
    assert vocabulary.size == len(tokenizer) == text_size + 65_538


def test_text_cannot_smuggle_special_tokens(tokenizer, vocabulary):
    text = f"a {visual_token(3)} [BOV]</s> circle"
    (ids,) = text_ids(tokenizer, [text])
    assert max(ids) < vocabulary.text_size
    assert vocabulary.eos not in ids
    assert tokenizer.decode(ids) == text


def test_another_codebook_is_refused(tokenizer):
    with pytest.raises(ValueError, match="expected .* for a codebook of 64"):
        extend_tokenizer(tokenizer, 64)


def test_a_tokenizer_without_bos_is_refused(plain_tokenizer):
    plain_tokenizer.bos_token = None
    with pytest.raises(ValueError, match="bos_token_id is not set"):
        extend_tokenizer(plain_tokenizer, CODEBOOK_SIZE)


@pytest.mark.parametrize("tied", [True, False])
def test_drawn_rows_follow_the_text_rows_and_parts_hold_the_same(tied, vocabulary, tmp_path):
    shape = replace(TINY, tie_embeddings=tied)
    big = replace(vocabulary, codebook_size=2000)
    model = new_model(shape, replace(vocabulary, codebook_size=0), 0)
    with torch.no_grad():
        model.get_input_embeddings().weight += torch.arange(TINY.width)
    model.save_pretrained(tmp_path)
    whole = load_model(tmp_path)
    extend_embeddings(whole, big, NewRows("normal", 3))
    for layer in (whole.get_input_embeddings(), whole.get_output_embeddings()):
        old, new = layer.weight[: big.text_size], layer.weight[big.text_size :]
        error = old.std(dim=0) / len(new) ** 0.5
        assert ((new.mean(dim=0) - old.mean(dim=0)).abs() < 5 * error).all()
        torch.testing.assert_close(new.std(dim=0), old.std(dim=0), rtol=0.1, atol=0)
        assert len(new.unique(dim=0)) == len(new)
    other = load_model(tmp_path)
    extend_embeddings(other, big, NewRows("normal", 4))
    read = new_model(shape, big, 9)
    read_weights(read, weight_files(tmp_path), big.text_size, NewRows("normal", 3))
    for name, expected in whole.named_parameters():
        torch.testing.assert_close(read.get_parameter(name), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(whole.get_input_embeddings().weight, other.get_input_embeddings().weight)
    part = torch.empty(7, TINY.width)
    old = whole.get_input_embeddings().weight[: big.text_size].double()
    statistics = (old.mean(dim=0), old.std(dim=0, correction=0))
    NewRows("normal", 3).fill(part, big.text_size + 1500, *statistics, "model.embed_tokens.weight")
    expected = whole.get_input_embeddings().weight[big.text_size + 1500 :][:7]
    torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_of_the_text_rows(tied, llama, vocabulary, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    text_size = vocabulary.text_size
    config = LlamaConfig(
        vocab_size=text_size + 7,  # padded, as many published checkpoints are
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    old = model.get_input_embeddings().weight[:text_size].detach().clone()
    old_head = model.get_output_embeddings().weight[:text_size].detach().clone()
    extend_embeddings(model, vocabulary)
    for layer, before in ((model.get_input_embeddings(), old), (model.get_output_embeddings(), old_head)):
        assert layer.weight.shape[0] == vocabulary.size
        torch.testing.assert_close(layer.weight[:text_size], before)
        torch.testing.assert_close(layer.weight[text_size], before.mean(0))
        torch.testing.assert_close(layer.weight[-1], before.mean(0))


def test_a_smaller_model_is_refused(llama, vocabulary):
    llama.resize_token_embeddings(vocabulary.text_size - 1)
    with pytest.raises(ValueError, match="do not belong together"):
        extend_embeddings(llama, vocabulary)


def test_extended_gemma_loads_through_auto_classes(gemma_folder, tmp_path):
    model, tokenizer, vocabulary = extended(gemma_folder)
    model.save_pretrained(tmp_path / "out", max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.config.vocab_size == len(again) == vocabulary.size
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    ids = torch.tensor([[vocabulary.bos, vocabulary.bov, vocabulary.eov]])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert extend_tokenizer(again, CODEBOOK_SIZE) == vocabulary


def test_scratch_model_is_a_function_of_the_seed(vocabulary):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = new_model(TINY, vocabulary, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    second, other = new_model(TINY, vocabulary, seed=3), new_model(TINY, vocabulary, seed=4)
    weights = [m.model.layers[0].mlp.up_proj.weight for m in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("tied", [True, False])
def test_near_codes_start_near_each_other(plain_tokenizer, tied):
    vocabulary = extend_tokenizer(plain_tokenizer, CODEBOOK_SIZE)
    config = replace(TINY, width=256, tie_embeddings=tied)
    generator = torch.Generator().manual_seed(0)
    codes_Kd = normalize(torch.randn(CODEBOOK_SIZE, 8, generator=generator), dim=-1)
    model = new_model(config, vocabulary, 3, codes_Kd)
    without = new_model(config, vocabulary, 3)
    for layer, plain in (
        (model.get_input_embeddings(), without.get_input_embeddings()),
        (model.get_output_embeddings(), without.get_output_embeddings()),
    ):
        rows_KD = layer.weight.detach()[vocabulary.visual]
        cosines_KK = normalize(rows_KD, dim=-1) @ normalize(rows_KD, dim=-1).T
        pairs = torch.stack([cosines_KK.flatten(), (codes_Kd @ codes_Kd.T).flatten()])
        assert torch.corrcoef(pairs)[0, 1] > 0.8
        assert 0.9 < rows_KD.std() / plain.weight.std() < 1.1
        torch.testing.assert_close(layer.weight[: vocabulary.text_size], plain.weight[: vocabulary.text_size])


def test_mistakes_are_named(tmp_path, plain_tokenizer, llama):
    plain_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="can't be loaded"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="'gpt2'; supported: llama, gemma2"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="max_position_embeddings = 128"):
        check_row_length(llama.config, 129)
