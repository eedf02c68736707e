"""Decoding options: the separate token stream and its cache, guidance."""

import pytest
import torch

from ddt.config import ConfigError
from tests.tokenizer.test_model import debug, make, pictures, train

SEPARATE = {"token_stream": "separate", "hidden_tokens": "mask"}


def codes_of(model, batch=3):
    return model.encode(pictures(batch))


def test_tokens_read_once_draw_what_tokens_read_at_each_step_draw():
    model = make(**SEPARATE)
    codes, decoder = codes_of(model), model.decoder
    once = model.decode(codes, num_steps=6)
    vectors, calls = model.quantizer.codebook_Kd[codes], []
    cached = decoder.read_tokens(vectors)
    for t in (1.0, 0.55, 0.2, 0.0):
        times = torch.full((3,), t)
        visible = model.schedule.visible(times)
        again = decoder(pictures(3, seed=1), times, vectors, visible)
        assert torch.equal(again, decoder(pictures(3, seed=1), times, vectors, visible, cached))
    read = decoder.read_tokens
    decoder.read_tokens = lambda given: calls.append(1) or read(given)
    assert torch.equal(model.decode(codes, num_steps=6), once) and len(calls) == 1
    decoder.forward = without_cache(decoder.forward)
    assert torch.equal(model.decode(codes, num_steps=6), once) and len(calls) == 2 + 6


def without_cache(forward):
    return lambda x, t, codes, visible, tokens: forward(x, t, codes, visible)


def test_a_separate_stream_hides_tokens_and_depends_on_the_visible_ones():
    model = make(**SEPARATE)
    codes = torch.arange(16).view(2, 8)
    drawn = [model.decode(codes, num_steps=1, num_tokens=n) for n in range(9)]
    assert all(not torch.equal(a, b) for a, b in zip(drawn, drawn[1:], strict=False))
    other = torch.cat([codes[:, :3], codes.flip(1)[:, 3:]], dim=1)
    assert torch.equal(model.decode(other, num_steps=1, num_tokens=3), drawn[3])
    changed = codes.clone()
    changed[:, 0] += 1
    assert not torch.equal(model.decode(changed, num_steps=1, num_tokens=3), drawn[3])


def test_a_separate_stream_trains():
    _, _, losses = train(60, batch=32, unquantized_steps=30, **SEPARATE)
    first, last = (torch.stack([m["flow"] for m in part]).mean() for part in (losses[:5], losses[-5:]))
    assert last < 0.4 * first


def test_a_separate_stream_needs_masked_tokens():
    with pytest.raises(ConfigError, match="hidden_tokens = 'zero': expected 'mask'"):
        debug(token_stream="separate")


@pytest.mark.parametrize("options", [{}, SEPARATE])
@pytest.mark.parametrize("target", ["x0", "velocity"])
def test_guidance_extrapolates_from_no_tokens(options, target):
    model = make(condition_dropout=0.1, target=target, **options)
    for parameter in model.decoder.project.parameters():
        parameter.data *= 1e-3  # so that no prediction is clipped
    codes = codes_of(model)
    plain, guided = (model.decode(codes, num_steps=1, guidance=g) for g in (1.0, 3.0))
    without = model.decode(codes, num_steps=1, num_tokens=0)
    if target == "velocity":  # one step from the same noise: x_0 is linear in the prediction, up to clipping
        inside = (plain.abs() < 1) & (guided.abs() < 1) & (without.abs() < 1)
        plain, guided, without = plain[inside], guided[inside], without[inside]
        assert len(plain) > 100
    torch.testing.assert_close(guided, without + 3 * (plain - without), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(guided, plain)


@pytest.mark.parametrize(
    ("dropout", "guidance", "message"),
    [
        (0.0, 2.0, "guidance = 2.0: expected 1, .* condition_dropout = 0"),
        (0.1, 0.5, "guidance = 0.5: expected a number of at least 1"),
        (0.1, float("nan"), "guidance = nan"),
        (0.1, "3", "guidance = '3': expected a number"),
        (0.1, None, "guidance = None: expected a number"),
    ],
)
def test_guidance_out_of_range_is_refused(dropout, guidance, message):
    model = make(condition_dropout=dropout)
    with pytest.raises(ValueError, match=message):
        model.decode(codes_of(model), guidance=guidance)
