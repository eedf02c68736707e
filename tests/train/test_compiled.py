"""Compiled blocks against the same blocks as they are written.

Tracing is tested on the CPU, with a backend that needs no compiler; the kernels on CUDA.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ddt.tokenizer import DDTTokenizer, Renderer, TokenizerLoss
from ddt.train import compiled
from ddt.train.compiled import COMPILE_FROM_STEPS, can_compile, compiled_blocks, repeated_blocks
from ddt.train.fit import fit
from tests.tokenizer.test_model import debug, pictures
from tests.tokenizer.test_renderer import SIZES
from tests.train.test_fit import CONFIG

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
MASKED = {"hidden_tokens": "mask", "qk_norm": True, "unquantized_steps": 2}


def new(device=CPU, **changes):
    """A tokenizer in which no gate is shut, so that every path counts."""
    torch.manual_seed(0)
    model = DDTTokenizer(debug(**MASKED, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.to(device)


def gradients(model, dtype):
    """The loss of one batch and the gradient of each parameter."""
    images = pictures(8).to(model.device)
    generator = torch.Generator(model.device).manual_seed(0)
    with torch.autocast(model.device.type, dtype, enabled=dtype is not torch.float32):
        loss, _ = TokenizerLoss(model.config)(model, images, 0, generator)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_near(found, expected, tolerance):
    """Each gradient within that share of its length: in bf16 sums are rounded in another order."""
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        length = expected[name].norm().clamp(min=1e-6)
        assert (gradient - expected[name]).norm() < tolerance * length, name


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    yield
    torch.compiler.reset()


# The faster backend traces as well; it leaves out only what becomes of a graph after that.
@pytest.mark.parametrize(("dtype", "backend"), [(torch.float32, "aot_eager"), (torch.bfloat16, "eager")])
def test_a_block_is_one_graph_and_computes_the_same(dtype, backend):
    eager, traced = new(), new()
    blocks = repeated_blocks(traced)
    assert len(blocks) == traced.config.encoder_depth + traced.config.decoder_depth
    for block in blocks:
        block.compile(dynamic=False, fullgraph=True, backend=backend)  # raises where a graph would break
    (loss, expected), (traced_loss, found) = gradients(eager, dtype), gradients(traced, dtype)
    torch.testing.assert_close(traced_loss, loss)
    assert_near(found, expected, 1e-5 if dtype is torch.float32 else 1e-2)


def test_blocks_of_one_kind_share_a_compilation():
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    for depth in (3, 6):
        model = new(encoder_depth=depth, decoder_depth=depth)
        for block in repeated_blocks(model):
            block.compile(dynamic=False, fullgraph=True, backend=backend)
        gradients(model, torch.float32)
    # First, middle and last block of the encoder at most, and as many of the decoder, at any depth.
    assert 4 <= len(graphs) <= 6


def test_a_renderer_s_blocks_are_found_and_its_tokenizer_s_are_not():
    renderer = Renderer.of(new(), SIZES)
    assert repeated_blocks(renderer) == list(renderer.blocks)


@pytest.mark.parametrize(
    ("device", "steps", "tools", "expected"),
    [(CUDA, COMPILE_FROM_STEPS, True, True), (CUDA, COMPILE_FROM_STEPS, False, False),
     (CUDA, COMPILE_FROM_STEPS - 1, True, False), (CPU, COMPILE_FROM_STEPS, True, False)],
)  # fmt: skip
def test_compiled_on_cuda_in_a_long_training_and_no_longer(device, steps, tools, expected, monkeypatch):
    monkeypatch.setattr(compiled, "can_compile", lambda: tools)
    model = new()
    names, blocks = list(model.state_dict()), repeated_blocks(model)
    with pytest.raises(KeyboardInterrupt), compiled_blocks(model, device, steps) as count:
        assert count == (len(blocks) if expected else 0)
        assert all((block._compiled_call_impl is not None) == expected for block in blocks)
        assert list(model.state_dict()) == names
        raise KeyboardInterrupt
    assert all(block._compiled_call_impl is None for block in blocks)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_compute_the_same(dtype):
    if not can_compile():
        pytest.skip("nothing to compile with")
    eager, fast = new(CUDA), new(CUDA)
    loss, expected = gradients(eager, dtype)
    with compiled_blocks(fast, CUDA, COMPILE_FROM_STEPS) as count:
        assert count
        fast_loss, found = gradients(fast, dtype)
    # Compiled, bf16 is rounded less often: on a CPU, gradients of this model then differ by up to 4 %.
    tolerance = 1e-3 if dtype is torch.float32 else 0.1
    torch.testing.assert_close(fast_loss, loss, rtol=tolerance, atol=tolerance)
    assert_near(found, expected, tolerance)


@pytest.mark.gpu
def test_steps_do_not_wait_for_the_device():
    """Losses and metrics are read at other steps, and whether codes have been placed only when they were."""
    model, images = new(CUDA), pictures(32)
    config = dataclasses.replace(CONFIG, steps=10, global_batch=32, log_every=10, ema_decay=0.9, bf16=True)
    waits = []

    class Images:
        def batch(self, step, rank=0, world=1):
            torch.cuda.set_sync_debug_mode("error" if 4 <= step < 7 else "default")
            waits.append(step)
            return images

    try:
        fit(model, TokenizerLoss(model.config), Images(), config, progress=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits == list(range(10))
