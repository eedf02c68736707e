"""The spatial baseline: the DDT tokenizer's interface, training by the shared loop, raster order."""

import dataclasses

import pytest
import torch

from ddt.baselines.config import SpatialConfig, SpatialSizes
from ddt.baselines.kinds import load_image_tokenizer
from ddt.baselines.spatial import SpatialLoss, SpatialTokenizer
from ddt.config import ConfigError
from ddt.mllm import DDTLlama
from ddt.mllm.build import new_model
from ddt.mllm.vocabulary import extend_tokenizer
from ddt.tokenizer import DDTTokenizer, psnr_db
from ddt.train.fit import fit
from tests.mllm.mllm_tiny import TINY, make_tokenizer
from tests.tokenizer.test_model import debug, make, pictures
from tests.train.test_fit import CONFIG

CONFIG_16 = SpatialConfig(
    image_size=16,
    num_tokens=16,
    codebook_size=32,
    code_dim=4,
    width=8,
    blocks=1,
    position_norm=False,
    code_noise=0.0,
    unquantized_steps=30,
    ema_decay=0.99,
    dead_threshold=0.2,
    commitment_weight=1.0,
    entropy_weight=0.0,
    entropy_floor=0.6,
    token_order="V_1..V_T",
)


def spatial(**changes):
    torch.manual_seed(0)
    return SpatialTokenizer(CONFIG_16.replace(**changes)).eval()


class Quadrants:
    """Pictures of four plain squares, the same at every step."""

    images = (torch.rand(32, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1).repeat_interleave(
        8, 2
    )
    images = images.repeat_interleave(8, 3)

    def batch(self, step, rank=0, world=1):
        return self.images


def test_it_learns_in_the_shared_loop():
    model, images = spatial(), Quadrants.images
    config = dataclasses.replace(CONFIG, steps=60, global_batch=32, lr=3e-3)
    result = fit(model, SpatialLoss(CONFIG_16), Quadrants(), config, progress=False)
    assert {"train/reconstruction", "codes/usage", "position_perplexity/0016"} <= result.metrics.keys()
    grey = psnr_db(torch.zeros_like(images), images).mean()
    drawn = model.decode(model.encode(images))
    assert drawn.shape == images.shape and drawn.abs().max() <= 1
    assert psnr_db(drawn, images).mean() > grey + 2  # five seeds gave 3.6 to 8.4 dB more than grey


def test_its_codes_are_learned_by_the_rules_of_the_ddt_tokenizers():
    ddt = make(
        num_tokens=16, code_noise=0.3, dead_threshold=0.1, entropy_weight=0.5,
        entropy_floor=1.0, unquantized_steps=0,
    )  # fmt: skip
    config = SpatialConfig.like(ddt.config, SpatialSizes(width=8, blocks=1))
    model = SpatialTokenizer(config).train()
    ours, theirs = (
        {name: value for name, value in vars(each.quantizer).items() if isinstance(value, float | int)}
        for each in (model, ddt)
    )
    assert ours | {"training": False} == theirs and ours["noise"] == 0.3

    def terms(seed):
        return SpatialLoss(config)(model, Quadrants.images, 0, torch.Generator().manual_seed(seed))

    loss, metrics = terms(seed=0)
    assert loss > metrics["reconstruction"] + metrics["commitment"]  # and the entropy of usage
    quantizer = model.quantizer
    quantizer.ema_decay, quantizer.dead_threshold = 1.0, 0.0  # codes stay
    assert terms(seed=0)[0] == terms(seed=0)[0] != terms(seed=1)[0]  # and the noise


def test_interface_is_the_ddt_tokenizers(tmp_path):
    model = spatial()
    codes = model.encode(pictures())
    assert codes.dtype == torch.int64 and codes.shape == (6, 16)
    assert torch.equal(codes, torch.cat([model.encode(image[None]) for image in pictures()]))
    steps = model.decode(codes, num_steps=5, num_tokens=16, generator=torch.Generator())
    assert torch.equal(model.decode(codes), steps)
    for name in (
        "num_tokens",
        "codebook_size",
        "image_size",
        "token_order",
        "decode_steps",
        "bits_per_image",
    ):
        assert hasattr(model.config, name) and hasattr(make().config, name)
    model.save_pretrained(tmp_path / "spatial", {"ingest": "abc"}, {"PSNR": 20.0})
    make().save_pretrained(tmp_path / "ddt")
    loaded = load_image_tokenizer(tmp_path / "spatial")
    assert isinstance(loaded, SpatialTokenizer) and loaded.digest == model.digest
    assert isinstance(load_image_tokenizer(tmp_path / "ddt"), DDTTokenizer)
    with pytest.raises(ValueError, match="is spatial_tokenizer version"):
        DDTTokenizer.from_pretrained(tmp_path / "spatial")


def test_a_language_model_draws_with_it(tmp_path):
    text = make_tokenizer()
    vocabulary = extend_tokenizer(text, CONFIG_16.codebook_size)
    DDTLlama(new_model(TINY, vocabulary, 0), text, spatial()).save_pretrained(tmp_path)
    loaded = DDTLlama.from_pretrained(tmp_path)
    assert isinstance(loaded.image_tokenizer, SpatialTokenizer)
    [image] = loaded.generate_image(["a red circle"], cfg_scale=1.0)
    assert image.size == (16, 16)
    assert loaded.edit_image([image], ["turn it around"], cfg_scale=1.0)[0].size == (16, 16)


def test_tokens_are_cells_in_raster_order():
    model = spatial()
    model.encoder = model.decoder = torch.nn.Identity()
    codes = torch.arange(16)[None]
    grid = torch.nn.functional.unfold(model._draw(model.quantizer.codebook_Kd[codes]), 1)
    assert torch.equal(grid[0].T, model.quantizer.codebook_Kd[:16] * 2)  # the square root of 4 dimensions
    cells = model.quantizer.codebook_Kd[:16].T.reshape(1, 4, 4, 4)
    assert torch.equal(model.quantizer.lookup(model._vectors(cells)), codes)


def test_a_prefix_hides_the_later_cells():
    model = spatial()
    codes = model.encode(pictures(2))
    other = torch.cat([codes[:, :5], codes.flip(1)[:, 5:]], dim=1)
    assert torch.equal(model.decode(codes, num_tokens=5), model.decode(other, num_tokens=5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tokens": 15}, "num_tokens = 15: expected a square number"),
        ({"num_tokens": 9}, "image_size = 16: expected 3 times a power of two"),
        ({"num_tokens": 1024}, "image_size = 16: expected 32 times"),
        ({"colour": 1}, "colour: unknown key"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        spatial(**changes)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"shape \[1, 3, 8, 8\]"):
        spatial().encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="dtype torch.uint8"):
        spatial().train()(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), step=0)
    latent = debug(num_tokens=16, space="vae", vae="nowhere", channels=4, downsample=2, encoder_patch=2)
    with pytest.raises(ValueError, match="space = vae: expected pixels with spatial"):
        SpatialConfig.like(latent, SpatialSizes(width=8, blocks=1))
    with pytest.raises(ValueError, match="from 32 to 32"):
        spatial().decode(torch.full((1, 16), 32))
