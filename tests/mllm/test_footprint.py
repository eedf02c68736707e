"""The plan's memory and arithmetic against a small model that is really trained."""

from __future__ import annotations

import ctypes
import dataclasses
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from ddt.mllm.config import LoraConfig
from ddt.mllm.footprint import (
    Layout,
    Tuning,
    flops_per_token,
    footprint,
    parameter_counts,
    saved_bytes,
    trained_parameters,
)
from ddt.mllm.lora import add_lora
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.packing import pack
from ddt.mllm.sequences import Document
from ddt.mllm.vocabulary import Vocabulary
from ddt.params import load_params
from ddt.train.fit import fit
from pipelines.commands.plan import ASSUMED_TFLOPS, BASE_MODELS, plan_layouts
from tests.mllm.test_training import FIT
from tests.processes import HANGS_AFTER_S

SMALL = LlamaConfig(
    vocab_size=4098, hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6,
    num_key_value_heads=3, tie_word_embeddings=False,
)  # fmt: skip
TINY = LlamaConfig(
    vocab_size=4098, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
)
ROWS, LENGTH = 4, 256
M_MMAP_THRESHOLD = -3  # of malloc.h
VOCABULARY = Vocabulary(2048, 2048, 0, 1, 1)
LORA = LoraConfig(rank=8, alpha=16, dropout=0.0)


class FullRows:
    """Rows without padding."""

    def batch(self, step: int, rank: int = 0, world: int = 1):
        ids = torch.arange(LENGTH).numpy() % 4096
        return pack([Document(ids, ids > 0)] * ROWS, LENGTH, 0)


def measured(recompute: bool, lora: LoraConfig | None, queue) -> None:
    """Puts the peak of this process's memory during two steps, less what it had before the model."""
    torch.set_num_threads(1)
    steps(TINY, recompute, lora)  # so that libraries are in memory before we count
    libc = ctypes.CDLL(None)
    # Tensors outside the heap: freed ones are given back at once, as an accelerator's allocator counts it.
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    libc.malloc_trim(0)  # what was freed would be used again, uncounted
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    steps(SMALL, recompute, lora)
    queue.put(memory("VmHWM") - before)


def steps(config: LlamaConfig, recompute: bool, lora: LoraConfig | None) -> None:
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if lora is not None:
        add_lora(model, lora, VOCABULARY, seed=0)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    fit_config = dataclasses.replace(FIT, steps=2, global_batch=ROWS, micro_batch=None, warmup_steps=1)
    fit(model, LanguageModelLoss(VOCABULARY), FullRows(), fit_config, progress=False)


def memory(name: str) -> int:
    """Bytes of this process by a name of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line)
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("recompute", [False, True])
def test_memory_is_within_15_percent_of_a_measured_run(recompute, lora):
    if lora is not None:
        pytest.importorskip("peft")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "ddt.train.fit", "ddt.mllm.loss", "peft"])
    queue = context.Queue()
    worker = context.Process(target=measured, args=(recompute, lora, queue))
    worker.start()
    found = queue.get(timeout=HANGS_AFTER_S)
    worker.join()
    tuning = Tuning(lora, VOCABULARY.size - VOCABULARY.text_size) if lora is not None else None
    layout = Layout(1, 1, False, recompute)
    planned = footprint(SMALL, layout, ROWS, LENGTH, bf16=False, fused=False, tuning=tuning)
    print(f"measured {found / 1e6:.0f} MB, planned {planned.total / 1e6:.0f} MB: {planned}")
    assert abs(planned.total / found - 1) < 0.15


GEMMA = Gemma2Config(
    vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16,
)  # fmt: skip


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("config", [SMALL, GEMMA])
def test_arithmetic_is_what_torch_counts(config, lora):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        if lora is not None:
            pytest.importorskip("peft")
            add_lora(model, lora, Vocabulary(256, 254, 0, 1, 1), seed=0)
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.zeros(2, 64, dtype=torch.long)).logits.sum().backward()
    assert flops_per_token(config, 64, lora) == pytest.approx(counter.get_total_flops() / 128, rel=0.02)


def test_layouts_divide_the_work():
    config = LlamaConfig(**BASE_MODELS["meta-llama/Meta-Llama-3-8B"][1])
    block, outside = parameter_counts(config)
    assert 32 * block + outside == 8_030_261_248
    whole = footprint(config, Layout(1, 1, True, True), 1, 512, True, True)
    split = footprint(config, Layout(64, 8, True, True), 1, 512, True, True)
    assert whole.states == 16 * 8_030_261_248  # gradients among them, at the end of the backward pass
    assert 12 * 8_030_261_248 < 64 * split.states * 1.001 < 16 * 8_030_261_248 * 1.002
    assert whole.gathered / split.gathered == pytest.approx(8, rel=1e-3)
    _, layer = saved_bytes(config, 1, 1, 512, torch.bfloat16, True)
    _, eighth = saved_bytes(config, 8, 1, 512, torch.bfloat16, True)
    assert layer / 8 < eighth < layer  # norms and residuals are whole on every process
    table = plan_layouts(load_params(profile="paper"), config, rows=1)
    assert table[-1][:2] == ["512", "8"] and float(table[-1][6]) < 80  # the paper's layout fits an H100
    slower = plan_layouts(load_params(profile="paper"), config, rows=1, tflops=ASSUMED_TFLOPS / 10)
    assert [row[:7] for row in slower] == [row[:7] for row in table]
    assert float(slower[1][8]) == pytest.approx(10 * float(table[1][8]), rel=1e-3)  # days


def test_frozen_weights_have_no_gradients_and_moments():
    pytest.importorskip("peft")
    config = LlamaConfig(**BASE_MODELS["meta-llama/Meta-Llama-3-8B"][1])
    tuning = Tuning(dataclasses.replace(LORA, rank=64), new_rows=65_538)
    adapters = 167_772_160  # as peft prints for rank 64 on all seven matrices of Llama-3-8B
    assert trained_parameters(config, tuning) == adapters + 2 * 65_538 * 4096
    alone = Layout(1, 1, False, True)
    tuned = footprint(config, alone, 1, 512, True, True, tuning)
    trained = trained_parameters(config, tuning)
    assert 12 * trained <= tuned.states - 2 * 8_030_261_248 <= 16 * trained
    overrides = ["pretrain.lora={rank: 64, alpha: 128, dropout: 0.05}"]
    table = plan_layouts(load_params(profile="paper", overrides=overrides), config, rows=1)
    assert [row[:2] for row in table[1:]] == [["1", "1"], ["8", "1"], ["64", "1"]]
