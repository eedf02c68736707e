"""The one-pass renderer: training by the shared loop on frozen tokens, its folder, what it refuses."""

import dataclasses

import pytest
import torch

from ddt.config import ConfigError, build
from ddt.tokenizer import DDTTokenizer, Renderer, RendererLoss, RendererSizes, psnr_db
from ddt.tokenizer.renderer import RendererConfig
from ddt.train.fit import fit
from tests.tokenizer.test_model import debug, make, train
from tests.train.test_fit import CONFIG

SIZES = RendererSizes(
    patch=4,
    depth=2,
    width=32,
    heads=2,
    activation="gelu",
    position_period=8.0,
    tail_dropout=0.0,
)


class Colours:
    """The same plain colours at every step."""

    def __init__(self, images_BCHW):
        self.images_BCHW = images_BCHW

    def batch(self, step, rank=0, world=1):
        return self.images_BCHW


def render_training(steps, tail_dropout=0.0):
    tokenizer, images, _ = train(40, batch=32, unquantized_steps=20)
    sizes = dataclasses.replace(SIZES, tail_dropout=tail_dropout)
    renderer = Renderer.of(tokenizer, sizes)
    config = dataclasses.replace(CONFIG, steps=steps, global_batch=32, lr=1e-2)
    fit(renderer, RendererLoss(tokenizer, tail_dropout), Colours(images), config, progress=False)
    return tokenizer, images, renderer.eval()


def test_renderer_learns_in_the_shared_loop_and_leaves_the_tokenizer_alone(tmp_path):
    tokenizer, images, renderer = render_training(steps=60)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert tokenizer.digest == train(40, batch=32, unquantized_steps=20)[0].digest
    drawn = tokenizer.decode(tokenizer.encode(images), renderer=renderer)
    grey = psnr_db(torch.zeros_like(images), images).mean()
    # Five seeds gave 5.9 to 16.5 dB more than grey.
    assert drawn.shape == images.shape and psnr_db(drawn, images).mean() > grey + 3
    renderer.save_pretrained(tmp_path / "renderer", metrics={"PSNR": 20.0})
    again = Renderer.from_pretrained(tmp_path / "renderer")
    loaded = DDTTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert torch.equal(loaded.decode(loaded.encode(images), renderer=again), drawn)
    assert "PSNR | 20" in (tmp_path / "renderer/README.md").read_text()
    with pytest.raises(ValueError, match="is ddt_renderer version"):
        DDTTokenizer.from_pretrained(tmp_path / "renderer")


def test_a_prefix_shows_nothing_of_what_it_hides():
    tokenizer = make()
    renderer = Renderer.of(tokenizer, SIZES).eval()
    codes = torch.arange(16).view(2, 8)
    other = torch.cat([codes[:, :3], codes.flip(1)[:, 3:]], dim=1)
    three = tokenizer.decode(codes, num_tokens=3, renderer=renderer)
    assert torch.equal(tokenizer.decode(other, num_tokens=3, renderer=renderer), three)
    assert not torch.equal(tokenizer.decode(codes, renderer=renderer), three)


def test_tail_dropout_trains_on_prefixes():
    tokenizer, images = make(), torch.zeros(64, 3, 16, 16)
    seen = []

    def model(codes_BTd, visible_BT):
        seen.append(visible_BT.sum(1))
        return images

    generator = torch.Generator().manual_seed(0)
    RendererLoss(tokenizer, 0.5)(model, images, 0, generator)
    RendererLoss(tokenizer, 0.0)(model, images, 0, generator)
    assert (seen[1] == 8).all() and 20 < (seen[0] < 8).sum() < 40


def test_a_renderer_of_another_tokenizer_is_refused():
    renderer = Renderer.of(make(), SIZES)
    other = make()
    other.quantizer.codebook_Kd.copy_(other.quantizer.codebook_Kd.roll(1, 0))
    with pytest.raises(ValueError, match="renderer: was trained on the codebook"):
        other.decode(torch.zeros(1, 8, dtype=torch.int64), renderer=renderer)


@pytest.mark.parametrize("options", [{"num_steps": 4}, {"guidance": 2.0}])
def test_steps_and_guidance_do_not_apply(options):
    tokenizer = make(condition_dropout=0.1)
    with pytest.raises(ValueError, match="neither num_steps nor guidance"):
        tokenizer.decode(
            torch.zeros(1, 8, dtype=torch.int64), renderer=Renderer.of(tokenizer, SIZES), **options
        )


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="width = 30"):
        dataclasses.replace(SIZES, width=30)
    with pytest.raises(ConfigError, match="patch = 3: does not divide"):
        sizes = dataclasses.asdict(SIZES) | {"patch": 3}
        build(RendererConfig, {"sizes": sizes, "tokenizer": debug(), "codebook_digest": ""})
