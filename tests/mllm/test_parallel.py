"""Sharded and split models against one process: losses, gradients, weights, checkpoints and exported folders.

Four gloo processes, FSDP2 x tensor parallel. Reference: the same `fit` in one process, on the same folder.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from ddt.mllm.export import save_model
from ddt.mllm.footprint import parameter_counts
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.packing import pack, slice_rows
from ddt.mllm.parallel_plan import check_tensor_parallel
from ddt.mllm.sharding import check_weights, load_sharded, weight_files
from ddt.mllm.vocabulary import Vocabulary, extend_tokenizer
from ddt.train.batching import rows, split
from ddt.train.checkpoint import Checkpoints
from ddt.train.distributed import mean_over_ranks, rank_and_world
from ddt.train.fit import fit
from ddt.train.parallel import clip_gradients, local, make_mesh
from tests.mllm.mllm_tiny import extended, random_documents
from tests.mllm.test_checkpoints import SHAPE, gemma2_tokenizer, llama3_tokenizer
from tests.mllm.test_training import FIT
from tests.processes import run_processes

STEPS = 10
CONFIG = dataclasses.replace(
    FIT, steps=STEPS, global_batch=8, micro_batch=2, warmup_steps=2, weight_decay=0.05, clip=0.5,
    checkpoint_every=5, keep_checkpoints=2, log_every=1,
)  # fmt: skip


class Batches:
    """Packed random documents; a function of the step."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def batch(self, step: int, rank: int = 0, world: int = 1):
        documents = random_documents(12, self.vocabulary.size, seed=step % 2)
        return slice_rows(pack(documents, 24, self.vocabulary.pad, multiple=world), rank, world)


@pytest.fixture(params=["llama", "gemma2"])
def checkpoint(request, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    shape = SHAPE | {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    if request.param == "llama":
        tokenizer = llama3_tokenizer(301)  # an odd vocabulary: shards of unequal size
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + 3, **shape))
    else:
        tokenizer = gemma2_tokenizer()
        model = Gemma2ForCausalLM(Gemma2Config(vocab_size=len(tokenizer), head_dim=8, **shape))
    model.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def train(model, loss, vocabulary: Vocabulary, steps: int, folder: Path) -> list[float]:
    """The loss of each step."""
    losses: list[float] = []

    def watch(step: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["train/loss"])

    config = dataclasses.replace(CONFIG, steps=steps)
    fit(model, loss, Batches(vocabulary), config, Checkpoints(folder), [watch], progress=False)
    return losses


def alone(base: Path, folder: Path, steps: int, z_loss: float = 0.0):
    model, _, vocabulary = extended(base)
    return model, train(model, LanguageModelLoss(vocabulary, z_loss), vocabulary, steps, folder)


def together(base: str, folder: str, steps: int, tensor: int, vocabulary: Vocabulary, options: dict):
    mesh = make_mesh(torch.device("cpu"), tensor)
    loss = LanguageModelLoss(vocabulary, options.get("z_loss", 0.0))
    model, sharded = load_sharded(base, vocabulary, loss, mesh)
    if options.get("recompute"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    losses = train(model, sharded, vocabulary, steps, Path(folder))
    save_model(model, Path(folder) / "export", max_file_bytes=20_000)
    return losses


def vocabulary_of(base: Path) -> Vocabulary:
    return extended(base)[2]


def assert_same_weights(folder: Path, model) -> None:
    exported = AutoModelForCausalLM.from_pretrained(folder)
    assert type(exported) is type(model) and len(list(folder.glob("model-*.safetensors"))) > 1
    theirs = dict(exported.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(theirs[name], parameter, rtol=1e-3, atol=2e-4, msg=name)


def gradients(base: str, vocabulary: Vocabulary, tensor: int, micro_batch: int):
    """Loss, gradient norm and whole gradients of one global batch, accumulated over micro-batches."""
    mesh = make_mesh(torch.device("cpu"), tensor)
    model, sharded = load_sharded(base, vocabulary, LanguageModelLoss(vocabulary, 1e-3), mesh)
    batch = Batches(vocabulary).batch(1, *sharded.data_rank_and_world)
    pieces = split(batch, micro_batch)
    total = torch.zeros(())
    for number, piece in enumerate(pieces):
        sharded.set_requires_gradient_sync(number == len(pieces) - 1)
        loss = sharded(piece, 0, None)[0] * rows(piece) / rows(batch)
        loss.backward()
        total += loss.detach()
    norm = clip_gradients(list(model.parameters()), 1e9)
    grads = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}
    return mean_over_ranks(total), norm, grads


@pytest.mark.parametrize(("world", "tensor"), [(2, 2), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_gradients_equal_those_of_one_process(checkpoint, world, tensor):
    model, _, vocabulary = extended(checkpoint)
    loss = LanguageModelLoss(vocabulary, 1e-3)(model, Batches(vocabulary).batch(1), 0, None)[0]
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    found, found_norm, grads = run_processes(gradients, world, str(checkpoint), vocabulary, tensor, 2)[0]
    torch.testing.assert_close(found, loss.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_norm, norm, rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def half(base: str, vocabulary: Vocabulary, tensor: int):
    """Loss and gradients of a batch with weights gathered and products computed in bfloat16."""
    mesh = make_mesh(torch.device("cpu"), tensor)
    model, sharded = load_sharded(base, vocabulary, LanguageModelLoss(vocabulary), mesh, bf16=True)
    batch = Batches(vocabulary).batch(1, *sharded.data_rank_and_world)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sharded(batch, 0, None)[0]
    loss.backward()
    grads = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}
    return mean_over_ranks(loss.detach()), grads


@pytest.mark.parametrize("tensor", [1, 2])
def test_in_bfloat16_shards_and_their_gradients_stay_in_float32(checkpoint, tensor):
    model, _, vocabulary = extended(checkpoint)
    loss = LanguageModelLoss(vocabulary)(model, Batches(vocabulary).batch(1), 0, None)[0]
    loss.backward()
    found, grads = run_processes(half, 2, str(checkpoint), vocabulary, tensor)[0]
    torch.testing.assert_close(found, loss.detach(), rtol=2e-2, atol=0)
    for name, parameter in model.named_parameters():
        assert grads[name].dtype == torch.float32
        error = (grads[name] - parameter.grad).norm() / parameter.grad.norm()
        assert error < 0.1, (name, error)


def exported(base: str, folder: str, vocabulary: Vocabulary, tensor: int) -> None:
    mesh = make_mesh(torch.device("cpu"), tensor)
    model, _ = load_sharded(base, vocabulary, LanguageModelLoss(vocabulary), mesh)
    save_model(model, Path(folder), max_file_bytes=20_000)


@pytest.mark.parametrize("tensor", [1, 2])
def test_a_model_is_exported_from_either_kind_of_layout(checkpoint, tmp_path, tensor):
    """Weights sharded only, layers split only; both at once is tested below."""
    model, _, vocabulary = extended(checkpoint)
    run_processes(exported, 2, str(checkpoint), str(tmp_path / "out"), vocabulary, tensor)
    assert_same_weights(tmp_path / "out", model)


def three(base: str, folder: str, spread: bool):
    """The loss of each step by any number of workers, each with a whole model or a shard of it."""
    model, _, vocabulary = extended(base)
    loss: Any = LanguageModelLoss(vocabulary)
    if spread:
        model, loss = load_sharded(base, vocabulary, loss, make_mesh(torch.device("cpu"), 1))
    return train(model, loss, vocabulary, 4, Path(folder))


@pytest.mark.parametrize("spread", [False, True])
def test_three_workers_share_a_batch_of_eight(checkpoint, tmp_path, spread):
    """Rows are padded to a multiple of three and the loss stays the mean over all learned tokens."""
    _, expected = alone(checkpoint, tmp_path / "one", 4)
    losses = run_processes(three, 3, str(checkpoint), str(tmp_path / "three"), spread)[0]
    assert np.abs(np.array(losses) - expected).max() < 1e-5


@pytest.mark.slow
def test_2x2_equals_one_process(checkpoint, tmp_path):
    model, expected = alone(checkpoint, tmp_path / "one", STEPS, z_loss=1e-3)
    options = {"z_loss": 1e-3, "recompute": True}
    vocabulary = vocabulary_of(checkpoint)
    results = run_processes(
        together, 4, str(checkpoint), str(tmp_path / "four"), STEPS, 2, vocabulary, options
    )
    losses = results[0]
    assert len(losses) == STEPS and expected[0] - expected[-1] > 0.05
    assert np.abs(np.array(losses) - expected).max() < 1e-4
    assert_same_weights(tmp_path / "four/export", model)

    # Its checkpoint goes on in one process, and one process's in four: the layout is not part of it.
    names = {path.name for path in (tmp_path / "four").rglob("*") if path.is_file()}
    assert {"state.json", "_COMPLETE"} <= names and not any(
        name.endswith((".pt", ".distcp")) for name in names
    )
    for run in ("one", "four"):
        for path in (tmp_path / run).rglob("step-000000010-000/_COMPLETE"):
            path.unlink()
    _, resumed = alone(checkpoint, tmp_path / "four", STEPS, z_loss=1e-3)
    again = run_processes(together, 4, str(checkpoint), str(tmp_path / "one"), STEPS, 2, vocabulary, options)[
        0
    ]
    assert np.abs(np.array(resumed) - expected[5:]).max() < 1e-4
    assert np.abs(np.array(again) - expected[5:]).max() < 1e-4


class Poisoned(Batches):
    """The loss of one batch is thirty times what it should be."""

    def batch(self, step: int, rank: int = 0, world: int = 1):
        part = super().batch(step, rank, world)
        return part._replace(scale_R=part.scale_R * 30) if step == 7 else part


def spiked(base: str, folder: str, vocabulary: Vocabulary):
    """The loss of each step, and the rewinds, of a run in which a spike is injected."""
    loss: Any = LanguageModelLoss(vocabulary)
    if rank_and_world()[1] > 1:
        model, loss = load_sharded(base, vocabulary, loss, make_mesh(torch.device("cpu"), 1))
    else:
        model = extended(base)[0]
    losses: list[float] = []
    hooks = [lambda step, metrics: losses.append(metrics["train/loss"])]
    config = dataclasses.replace(
        CONFIG, spike_factor=5.0, spike_window=4, rewind_steps=3, checkpoint_every=2, keep_checkpoints=1
    )
    result = fit(model, loss, Poisoned(vocabulary), config, Checkpoints(folder), hooks, progress=False)
    return {"losses": losses, "events": result.events, "consumed": result.consumed_samples}


def test_a_sharded_run_rewinds_as_one_process_does(checkpoint, tmp_path):
    vocabulary, base = vocabulary_of(checkpoint), str(checkpoint)
    one = spiked(base, str(tmp_path / "one"), vocabulary)
    (event,) = one["events"]
    assert (event["onset"], event["to"], event["skipped"]) == (7, 4, [6, 7])
    assert one["consumed"] == (STEPS + 2) * CONFIG.global_batch
    two = run_processes(spiked, 2, base, str(tmp_path / "two"), vocabulary)[0]
    (other,) = two["events"]
    assert {**other, "loss": 0} == {**event, "loss": 0} and abs(other["loss"] - event["loss"]) < 1e-2
    assert np.abs(np.array(two["losses"]) - one["losses"]).max() < 1e-4


class Recorded(Batches):
    """Keeps a checksum of every row that this process was given; ends the process before one batch."""

    def __init__(self, vocabulary: Vocabulary, kill_at: int | None) -> None:
        super().__init__(vocabulary)
        self.kill_at, self.rows = kill_at, {}

    def batch(self, step: int, rank: int = 0, world: int = 1):
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        part = super().batch(step, rank, world)
        self.rows[step] = [zlib.crc32(ids.numpy().tobytes()) for ids in part.ids_RL]
        return part


def go_on(base: str, folder: str, vocabulary: Vocabulary, tensor: int, kill_at: int | None):
    """Trains from the newest checkpoint in `folder` on; losses by step, and the rows of each batch."""
    loss: Any = LanguageModelLoss(vocabulary)
    if rank_and_world()[1] > 1:
        model, loss = load_sharded(base, vocabulary, loss, make_mesh(torch.device("cpu"), tensor))
    else:
        model = extended(base)[0]
    batches, losses = Recorded(vocabulary, kill_at), {}

    def watch(step: int, metrics: dict[str, float]) -> None:
        losses[step] = metrics["train/loss"]

    fit(model, loss, batches, CONFIG, Checkpoints(folder), [watch], progress=False)
    return {"losses": losses, "rows": batches.rows}


@pytest.mark.slow
@pytest.mark.parametrize(("world", "tensor"), [(1, 1), (4, 2)])
def test_a_killed_run_goes_on_with_other_workers_in_the_same_order(checkpoint, tmp_path, world, tensor):
    """Two sharded workers die before batch 7; one, or two times two, go on from the checkpoint at 5."""
    vocabulary, base = vocabulary_of(checkpoint), str(checkpoint)
    whole = go_on(base, str(tmp_path / "whole"), vocabulary, 1, None)
    run_processes(go_on, 2, base, str(tmp_path / "run"), vocabulary, 1, 7, exit_code=-signal.SIGKILL)
    if world > 1:
        parts = run_processes(go_on, world, base, str(tmp_path / "run"), vocabulary, tensor, None)
    else:
        parts = [go_on(base, str(tmp_path / "run"), vocabulary, 1, None)]
    losses = parts[0]["losses"]
    assert sorted(losses) == [6, 7, 8, 9, 10]
    for step, loss in losses.items():
        assert abs(loss - whole["losses"][step]) < 1e-4
    empty = zlib.crc32(np.full(24, vocabulary.pad, dtype=np.int64).tobytes())
    for step in range(5, STEPS):
        seen = [row for part in parts[::tensor] for row in part["rows"][step] if row != empty]
        assert sorted(seen) == sorted(whole["rows"][step])


def peak_memory(base: str, vocabulary: Vocabulary):
    """Bytes of this process's own memory that loading took at its peak, and what it holds after."""
    mesh = make_mesh(torch.device("cpu"), 2)
    before, peak, done = own_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], own_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model, _ = load_sharded(base, vocabulary, LanguageModelLoss(vocabulary), mesh)
    done.set()
    watcher.join()
    held = sum(local(p).numel() * p.element_size() for p in model.parameters())
    return {"peak": peak[0] - before, "held": held}


def own_bytes() -> int:
    """Memory of this process that no file backs: pages of a mapped checkpoint can be dropped at any time."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
    return int(line.split()[1]) * 1024


@pytest.mark.slow
def test_no_process_ever_holds_the_whole_model(tmp_path):
    """200 M parameters over 2 x 2: each process peaks at little more than its quarter."""
    tokenizer = llama3_tokenizer(16_000)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=1024, intermediate_size=2816, num_hidden_layers=13,
        num_attention_heads=16, num_key_value_heads=8,
    )  # fmt: skip
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="100MB")
    tokenizer.save_pretrained(tmp_path)
    del model
    vocabulary = extend_tokenizer(tokenizer, 8192)
    config.vocab_size = vocabulary.size
    block, outside = parameter_counts(config)
    whole = 4 * (config.num_hidden_layers * block + outside)
    assert whole > 4 * 200e6
    for found in run_processes(peak_memory, 4, str(tmp_path), vocabulary):
        print({name: f"{value / whole:.3f} of {whole / 1e6:.0f} MB" for name, value in found.items()})
        assert 0.24 < found["held"] / whole < 0.26
        assert found["peak"] / whole < 0.35


def test_weights_that_do_not_fit_are_named_before_any_is_read(checkpoint):
    model = extended(checkpoint)[0]
    files, name = weight_files(checkpoint), "model.layers.1.mlp.up_proj.weight"
    check_weights(model, files)
    with pytest.raises(ValueError, match=f"the checkpoint lacks '{name}'"):
        check_weights(model, {key: file for key, file in files.items() if key != name})
    layer = model.model.layers[1].mlp.up_proj
    layer.weight = torch.nn.Parameter(torch.zeros(33, 16))
    with pytest.raises(ValueError, match=rf"holds '{name}' of shape \[32, 16\], its config says \[33, 16\]"):
        check_weights(model, files)
    os.truncate(files[name], 100)
    with pytest.raises(ValueError, match=f"{files[name].name}: can't be read"):
        check_weights(model, files)
    files[name].unlink()
    with pytest.raises(ValueError, match=f"{files[name].name}: can't be read"):
        check_weights(model, files)
    (checkpoint / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="index.json: not an index of weights"):
        weight_files(checkpoint)


def test_a_layout_that_does_not_divide_is_named():
    with pytest.raises(
        ValueError, match="tensor_parallel = 3: expected a divisor of .*num_attention_heads = 2"
    ):
        check_tensor_parallel(LlamaConfig(**SHAPE), 3)
    with pytest.raises(ValueError, match="tensor_parallel = 2: expected a divisor of the 1 training workers"):
        make_mesh(torch.device("cpu"), 2)
    with pytest.raises(ValueError, match="num_key_value_heads = 4"):
        check_tensor_parallel(Gemma2Config(), 8)  # Gemma-2-2B has four
