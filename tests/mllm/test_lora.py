"""LoRA: nothing changes at first, only adapters and new rows are trained, a merge gives the same model."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from ddt.data.text import DrawnText
from ddt.mllm.batches import PretrainBatches, PretrainMix
from ddt.mllm.build import load_model, new_model
from ddt.mllm.config import LoraConfig
from ddt.mllm.lora import add_lora, merge_lora
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.vocabulary import extend_embeddings
from ddt.train.checkpoint import Checkpoints
from ddt.train.fit import fit
from ddt.train.state import model_tensors
from tests.mllm.mllm_tiny import TINY
from tests.mllm.test_training import FIT

pytest.importorskip("peft")
CONFIG = LoraConfig(rank=2, alpha=4, dropout=0.0)
TEXTS = DrawnText(lambda rng: f"text {rng.integers(9)}", 50, 0)


@pytest.fixture(params=["tied", "untied", "gemma"])
def plain(request, vocabulary):
    """A checkpoint's model extended by the visual rows, on the disk as its publishers leave it."""
    if request.param == "gemma":
        model = load_model(request.getfixturevalue("gemma_folder"))
        extend_embeddings(model, vocabulary)
        return model
    shape = dataclasses.replace(TINY, tie_embeddings=request.param == "tied")
    return new_model(shape, vocabulary, 0)


def train(model, batches, vocabulary, checkpoints=None, hooks=()):
    config = dataclasses.replace(FIT, steps=6, warmup_steps=1, checkpoint_every=2, log_every=1)
    return fit(model, LanguageModelLoss(vocabulary), batches, config, checkpoints, hooks, progress=False)


@pytest.fixture
def batches(pairs, builder):
    return PretrainBatches(pairs, TEXTS, builder, PretrainMix(), FIT.global_batch, 64, 0)


def test_training_moves_adapters_and_new_rows_and_a_merge_keeps_the_function(
    plain, batches, vocabulary, tmp_path
):
    ids = torch.randint(0, vocabulary.size, (2, 9), generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    logits = plain.eval()(ids).logits
    add_lora(plain, CONFIG, vocabulary, seed=0)
    torch.testing.assert_close(plain(ids).logits, logits)
    trained = model_tensors(plain)
    new_rows = vocabulary.size - vocabulary.text_size
    assert {len(t) for name, t in trained.items() if "lora" not in name} == {new_rows}
    assert sum("lora" in name for name in trained) == 2 * 7 * plain.config.num_hidden_layers

    first = train(plain, batches, vocabulary)
    assert first.metrics["train/loss"] < 6
    adapted = plain.eval()(ids).logits
    assert not torch.allclose(adapted, logits, atol=1e-2)
    merge_lora(plain)
    torch.testing.assert_close(plain(ids).logits, adapted, rtol=1e-4, atol=1e-4)
    plain.save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(ids).logits, adapted, rtol=1e-4, atol=1e-4)
    assert merged.state_dict().keys() == before.keys() and all(p.requires_grad for p in plain.parameters())
    for name, tensor in merged.state_dict().items():
        if "norm" in name:
            assert torch.equal(tensor, before[name])
        elif "embed_tokens" in name or "lm_head" in name:
            assert torch.equal(tensor[: vocabulary.text_size], before[name][: vocabulary.text_size])
            assert not torch.equal(tensor[vocabulary.text_size :], before[name][vocabulary.text_size :])
        else:
            assert torch.linalg.matrix_rank(tensor - before[name], rtol=1e-4) <= CONFIG.rank


def test_a_run_goes_on_from_its_small_checkpoint(batches, vocabulary, tmp_path):
    def fresh():
        model = new_model(TINY, vocabulary, 0)
        add_lora(model, dataclasses.replace(CONFIG, dropout=0.1), vocabulary, seed=0)
        return model

    def stop(step, metrics):
        if step == 3:
            raise KeyboardInterrupt

    whole, again = fresh(), fresh()
    train(whole, batches, vocabulary)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), batches, vocabulary, Checkpoints(str(tmp_path)), [stop])
    assert train(again, batches, vocabulary, Checkpoints(str(tmp_path))).resumed_from == 2
    for (name, a), b in zip(model_tensors(whole).items(), model_tensors(again).values(), strict=True):
        assert torch.equal(a, b), name
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    trained = sum(t.numel() for t in model_tensors(again).values())
    assert size < 4 * 4 * trained * 2  # two checkpoints of weights and two moments, and nothing frozen


def test_frozen_weights_may_be_in_half_precision(vocabulary):
    model = new_model(TINY, vocabulary, 0).to(torch.bfloat16)
    add_lora(model, CONFIG, vocabulary, seed=0)
    assert {t.dtype for t in model_tensors(model).values()} == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    merge_lora(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_missing_package_is_named(vocabulary, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"lora: needs peft: pip install 'ddt-llama\[peft\]'"):
        add_lora(new_model(TINY, vocabulary, 0), CONFIG, vocabulary, 0)
