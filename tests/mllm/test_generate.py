"""Generation: T visual tokens, batch equals alone, cache equals none, sampling equals its definition."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddt.mllm import sequences as S
from ddt.mllm.config import TextSampling, VisualSampling
from ddt.mllm.decoder import has_fixed_steps
from ddt.mllm.generate import generate_codes, generate_text
from ddt.mllm.sampling import draw, guided, uniforms
from tests.mllm.mllm_tiny import NUM_TOKENS, extended

CAPTIONS = ["a red circle", "two blue squares left of a green ring", "a", "How many circles are there in it"]


@pytest.fixture(params=["llama", "llama-fused", "gemma"])
def model(request):
    if request.param.startswith("llama"):
        llama = request.getfixturevalue("llama").eval()
        llama.set_attn_implementation("sdpa" if request.param == "llama-fused" else "eager")
        return llama
    folder = request.getfixturevalue("gemma_folder")
    return extended(folder)[0].eval()


def draw_codes(model, builder, captions, seeds, sampling, num_tokens=NUM_TOKENS, **kwargs):
    prompts = builder.prompts([(S.TEXT_TO_IMAGE, {"caption": c}) for c in captions])
    empty = builder.prompts([(S.TEXT_TO_IMAGE, {"caption": ""}) for _ in captions])
    return generate_codes(model, builder.vocabulary, prompts, empty, num_tokens, sampling, seeds, **kwargs)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_batch_gives_what_each_prompt_gives_alone(model, builder, scale):
    sampling = VisualSampling(cfg_scale=scale, top_k=20)
    together = draw_codes(model, builder, CAPTIONS, [4, 5, 6, 7], sampling)
    alone = [
        draw_codes(model, builder, [c], [s], sampling)[0] for c, s in zip(CAPTIONS, [4, 5, 6, 7], strict=True)
    ]
    assert torch.equal(together, torch.stack(alone))
    assert together.shape == (4, NUM_TOKENS) and builder.vocabulary.is_visual(together).all()
    assert torch.equal(together, draw_codes(model, builder, CAPTIONS, [4, 5, 6, 7], sampling))
    assert not torch.equal(together, draw_codes(model, builder, CAPTIONS, [8, 9, 10, 11], sampling))


def test_greedy_guidance_equals_a_loop_without_cache(model, builder):
    sampling = VisualSampling(cfg_scale=2.5, temperature=0.0)
    seen = []
    got = draw_codes(model, builder, CAPTIONS[:1], [0], sampling, on_token=lambda ids: seen.append(ids.shape))
    visual = builder.vocabulary.visual
    ids = [builder.prompts([(S.TEXT_TO_IMAGE, {"caption": c})])[0].tolist() for c in (CAPTIONS[0], "")]
    for place in range(NUM_TOKENS):
        logits = [model(torch.tensor([i])).logits[0, -1, visual] for i in ids]
        best = int((logits[1] + 2.5 * (logits[0] - logits[1])).argmax()) + visual.start
        assert got[0, place] == best
        ids = [[*i, best] for i in ids]
    assert seen == [(1, t) for t in range(1, NUM_TOKENS + 1)]


class NoWaiting(TorchDispatchMode):
    """Refuses what waits for a device: values read by the host, shapes that depend on values."""

    WAITS = ("item", "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket.__name__ not in self.WAITS, function
        if function.overloadpacket.__name__.startswith("index"):
            assert not any(getattr(i, "dtype", None) == torch.bool for i in tree_leaves(args[1:])), function
        return function(*args, **(kwargs or {}))


class Again:
    """In the place of `Replayed` where there is no CUDA: what would be captured, run each time.

    Tensors that were there before must be there after: a replayed step reads and writes the same addresses.
    """

    def __init__(self, step, device) -> None:
        self.step, self.seen = step, []

    def __call__(self) -> None:
        decoder = self.step.__self__._decoder
        with NoWaiting() if self.seen else nullcontext():
            self.step()
        held = [decoder._next_BP, decoder._position_BP, decoder._mask, decoder._fixed.slots_P]
        held += [tensor for layer in decoder._fixed._stored for tensor in layer]
        self.seen.append([(tensor.data_ptr(), tensor.shape) for tensor in held])
        assert self.seen[-1] == self.seen[0]


@pytest.fixture
def fixed(monkeypatch):
    """Drawing as on CUDA, but for the graph."""
    monkeypatch.setattr("ddt.mllm.generate.replays", has_fixed_steps)
    monkeypatch.setattr("ddt.mllm.generate.Replayed", Again)


@pytest.mark.parametrize("sampling", [
    VisualSampling(cfg_scale=1.0, top_k=20),
    VisualSampling(cfg_scale=3.0, top_k=20, top_p=0.9),
    VisualSampling(cfg_scale=3.0, temperature=0.0),
])  # fmt: skip
def test_steps_in_fixed_tensors_draw_the_same(model, builder, sampling, request):
    seeds, seen = [4, 5, 6, 7], []
    wanted = draw_codes(model, builder, CAPTIONS, seeds, sampling)
    request.getfixturevalue("fixed")
    got = draw_codes(model, builder, CAPTIONS, seeds, sampling, on_token=seen.append)
    assert torch.equal(got, wanted)
    assert all(torch.equal(ids, wanted[:, : ids.shape[1]]) for ids in seen) and len(seen) == NUM_TOKENS
    alone = [draw_codes(model, builder, [c], [s], sampling)[0] for c, s in zip(CAPTIONS, seeds, strict=True)]
    assert torch.equal(got, torch.stack(alone))


def test_where_steps_can_not_be_fixed(llama, request, builder):
    prompts = builder.prompts([(S.TEXT_TO_IMAGE, {"caption": c}) for c in CAPTIONS])
    longest = max(map(len, prompts))
    assert has_fixed_steps(llama, prompts, 1000)
    llama.config.rope_parameters["rope_type"] = "dynamic"
    assert not has_fixed_steps(llama, prompts, 1)
    folder = request.getfixturevalue("gemma_folder")
    gemma = extended(folder)[0]
    assert has_fixed_steps(gemma, prompts, 64 - longest)
    assert not has_fixed_steps(gemma, prompts, 65 - longest)


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_replayed_steps_draw_the_same(model, builder, scale, monkeypatch):
    """In float32, where the order of sums does not decide; longer than a picture, for many replays."""
    monkeypatch.setattr("ddt.mllm.generate._autocast", lambda model: nullcontext())
    model, sampling, seen = model.to("cuda"), VisualSampling(cfg_scale=scale, top_k=20), []
    arguments = [model, builder, CAPTIONS, [4, 5, 6, 7], sampling]
    replayed = draw_codes(*arguments, num_tokens=24, on_token=seen.append)
    assert torch.equal(replayed, draw_codes(*arguments, num_tokens=24))
    assert all(torch.equal(ids, replayed[:, : ids.shape[1]]) for ids in seen)
    monkeypatch.setattr("ddt.mllm.generate.Replayed", Again)
    assert torch.equal(replayed, draw_codes(*arguments, num_tokens=24))
    monkeypatch.setattr("ddt.mllm.generate.replays", lambda *_: False)
    assert torch.equal(replayed, draw_codes(*arguments, num_tokens=24))


@pytest.mark.gpu
def test_replayed_steps_under_autocast_are_the_ordinary_ones(model, builder, monkeypatch):
    model, sampling = model.to("cuda"), VisualSampling(cfg_scale=3.0, top_k=20, top_p=0.9)
    arguments = [model, builder, CAPTIONS, [4, 5, 6, 7], sampling]
    replayed = [draw_codes(*arguments, num_tokens=24) for _ in range(3)]
    monkeypatch.setattr("ddt.mllm.generate.Replayed", Again)
    wanted = draw_codes(*arguments, num_tokens=24)
    assert all(torch.equal(ids, wanted) for ids in replayed)


@pytest.mark.gpu
def test_drawing_leaves_no_memory_behind(model, builder):
    model, sampling, taken = model.to("cuda"), VisualSampling(cfg_scale=3.0), []
    for _ in range(4):
        draw_codes(model, builder, CAPTIONS, [4, 5, 6, 7], sampling, num_tokens=24)
        taken.append(torch.cuda.memory_allocated())
    assert taken[1:] == taken[1:2] * 3


def test_text_equals_a_loop_without_cache_and_holds_no_visual_id(model, builder):
    vocabulary = builder.vocabulary
    image = np.arange(NUM_TOKENS)
    examples = [(S.ANSWER, {"image": image, "instruction": c}) for c in CAPTIONS]
    prompts = builder.prompts(examples)
    texts = generate_text(
        model, vocabulary, prompts, TextSampling(temperature=0.0, max_new_tokens=6), [0] * len(CAPTIONS)
    )
    for prompt, text in zip(prompts, texts, strict=True):
        ids = prompt.tolist()
        for wanted in text:
            logits = model(torch.tensor([ids])).logits[0, -1, : vocabulary.text_size]
            assert int(logits.argmax()) == wanted
            ids.append(wanted)
        assert (
            len(text) == 6
            or int(model(torch.tensor([ids])).logits[0, -1, : vocabulary.text_size].argmax())
            == vocabulary.eos
        )


def test_text_ends_at_eos(llama, builder):
    vocabulary = builder.vocabulary
    prompts = builder.prompts([(S.ANSWER, {"image": np.arange(NUM_TOKENS), "instruction": "a"})] * 8)
    sampling = TextSampling(top_k=400, max_new_tokens=40)
    with torch.no_grad():  # a head that likes EOS ends some sequences early
        llama.get_output_embeddings().weight[vocabulary.eos] *= 20
    texts = generate_text(llama.eval(), vocabulary, prompts, sampling, list(range(8)))
    assert len({len(text) for text in texts}) > 1
    assert not any(vocabulary.eos in text for text in texts)


def test_sampling_follows_the_filtered_distribution():
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0, 0.5]])
    count = 40_000
    uniform = uniforms([3], count)[0]
    drawn = draw(logits.expand(count, -1), uniform, temperature=1.0, top_k=4, top_p=0.85)
    # top-k leaves 0, 2, 4, 1; the first three already hold 0.56 + 0.21 + 0.13 = 0.90 >= 0.85 of it.
    kept = torch.softmax(logits[0, [0, 2, 4]], dim=0)
    found = torch.bincount(drawn, minlength=5) / count
    torch.testing.assert_close(found[[0, 2, 4]], kept, atol=0.01, rtol=0)
    assert found[1] == found[3] == 0


def test_sampling_limits():
    logits = torch.randn(64, 9, generator=torch.Generator().manual_seed(0))
    best = logits.argmax(dim=1)
    almost_one = torch.full((64,), 1 - 2.0**-53, dtype=torch.float64)
    assert torch.equal(draw(logits, almost_one, 0.0, 9, 1.0), best)
    assert torch.equal(draw(logits, almost_one, 1.0, 1, 1.0), best)
    assert torch.equal(draw(logits, almost_one, 1.0, 9, 0.0), best)
    assert torch.equal(draw(logits, almost_one, 1.0, 4096, 1.0), logits.argmin(dim=1))


def test_guidance_formula():
    cond, uncond = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert guided(cond, uncond, 3.0).tolist() == [[3.0, -2.0]]
    assert torch.equal(guided(cond, uncond, 1.0), cond) and torch.equal(guided(cond, uncond, 0.0), uncond)


def test_uniforms_are_a_function_of_each_seed():
    together = uniforms([1, 2], 5)
    assert torch.equal(together[1], uniforms([2], 5)[0]) and not torch.equal(together[0], together[1])
