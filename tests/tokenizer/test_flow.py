"""Rectified flow and the sampler, against closed forms."""

import pytest
import torch

from ddt.tokenizer import flow
from ddt.tokenizer.sampler import sample
from ddt.tokenizer.schedule import TokenSchedule


def pair(batch=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, batch, 3, 4, 4, generator=generator)


def test_noise_is_linear_between_image_and_noise():
    x0, noise = pair()
    x = flow.add_noise(x0, noise, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(x[0], x0[0])
    torch.testing.assert_close(x[1], 0.75 * x0[1] + 0.25 * noise[1])
    torch.testing.assert_close(x[2], noise[2])


@pytest.mark.parametrize("target", ["x0", "velocity"])
def test_a_perfect_prediction_gives_back_the_image(target):
    x0, noise = pair()
    t = torch.tensor([0.1, 0.5, 1.0])
    prediction = flow.training_target(x0, noise, target)
    torch.testing.assert_close(flow.predicted_x0(prediction, flow.add_noise(x0, noise, t), t, target), x0)
    assert flow.squared_error_per_image(prediction, prediction).tolist() == [0, 0, 0]


def test_euler_step_follows_the_straight_line():
    x0, noise = pair()
    x = flow.add_noise(x0, noise, torch.full((3,), 0.6))
    velocity = (x - x0) / 0.6
    torch.testing.assert_close(flow.step(x, x0, 0.6, 0.2), x - 0.4 * velocity)


def test_power_sampling_is_denser_near_noise():
    draw = lambda kind, power: flow.sample_times(  # noqa: E731
        20_000, kind, power, torch.Generator().manual_seed(0), torch.device("cpu")
    )
    assert draw("uniform", 3.0).mean() == pytest.approx(1 / 2, abs=0.01)
    assert draw("power", 3.0).mean() == pytest.approx(3 / 4, abs=0.01)  # density 3·t²


@pytest.mark.parametrize("target", ["x0", "velocity"])
@pytest.mark.parametrize("num_steps", [1, 3, 16])
def test_sampling_towards_one_image_ends_there_and_shows_the_prefix(target, num_steps):
    x0, noise = pair()
    seen = []

    def predict(x, t, visible):
        seen.append((t[0].item(), int(visible[0].sum())))
        return x0 if target == "x0" else (x - x0) / t[:, None, None, None]

    drawn = sample(predict, noise, TokenSchedule(16), num_steps, target)
    torch.testing.assert_close(drawn, x0)
    times = [i / num_steps for i in range(num_steps, 0, -1)]
    assert [t for t, _ in seen] == pytest.approx(times)
    assert seen[0][1] == 16
    if num_steps == 16:
        assert [k for _, k in seen] == list(range(16, 0, -1))  # the paper: at step t the first t tokens


def test_sampling_clips_the_predicted_image_and_cuts_the_prefix():
    _, noise = pair()
    counts = []

    def predict(x, t, visible):
        counts.append(int(visible[0].sum()))
        return torch.full_like(x, 3.0)

    drawn = sample(predict, noise, TokenSchedule(16), 4, "x0", num_tokens=6, clip=1.0)
    torch.testing.assert_close(drawn, torch.ones_like(drawn))
    assert counts == [6, 6, 6, 4]


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 1.0])
def test_what_is_seen_of_x_t_is_as_large_as_its_correlation_with_x_0_says(t):
    std, generator = 0.55, torch.Generator().manual_seed(1)
    x0 = std * torch.randn(20_000, 1, 2, 2, generator=generator)
    times = torch.full((len(x0),), t)
    x = flow.add_noise(x0, torch.randn(x0.shape, generator=generator), times)
    correlation = (x * x0).mean() / (x.std() * x0.std())
    expected = std * correlation.clamp(min=0).sqrt().item()
    assert flow.faded(x, times, std).std().item() == pytest.approx(expected, abs=0.01 + 0.05 * (t == 1))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 1.0])
def test_best_guess_is_the_least_squares_estimate(t):
    std, generator = 0.55, torch.Generator().manual_seed(1)
    x0 = std * torch.randn(20_000, 1, 2, 2, generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    times = torch.full((len(x0),), t)
    x = flow.add_noise(x0, noise, times)
    slope = (x * x0).mean() / (x * x).mean()
    guess = flow.best_guess(x, times, std)
    torch.testing.assert_close(guess, slope * x, atol=0.02, rtol=0)
    error = (guess - x0).square().mean().sqrt()
    assert flow.guess_error(times, std)[0].item() == pytest.approx(error.item(), abs=0.01)
