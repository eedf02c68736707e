"""The tokenizer as a whole: masks, determinism, folders, the paper's sizes, and what it refuses."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml

from ddt.config import ConfigError
from ddt.tokenizer import DDTConfig, DDTTokenizer, TokenizerLoss, flow, presets, psnr_db, reconstruction_grid


def debug(**changes):
    return presets()["debug"].replace(**changes)


def make(seed=0, **changes):
    """A debug tokenizer with weights that are random everywhere (no zero gates, so every path counts)."""
    torch.manual_seed(seed)
    model = DDTTokenizer(debug(**changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def pictures(batch=6, seed=0):
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("hidden_tokens", ["zero", "mask"])
def test_hidden_tokens_do_not_influence_the_decoder(hidden_tokens):
    model = make(hidden_tokens=hidden_tokens)
    x, t = pictures(2), torch.tensor([0.5, 0.5])
    visible = model.schedule.visible(t)
    codes = model.quantizer.codebook_Kd[torch.arange(16).view(2, 8)]
    changed = torch.where(visible[..., None], codes, codes.flip(1))
    assert torch.equal(model.decoder(x, t, codes, visible), model.decoder(x, t, changed, visible))
    shown = torch.ones_like(visible)
    assert not torch.allclose(model.decoder(x, t, codes, shown), model.decoder(x, t, changed, shown))


def test_no_visible_token_is_still_finite_when_hidden_ones_are_masked():
    model = make(hidden_tokens="mask")
    none = torch.zeros(2, 8, dtype=torch.bool)
    assert model.decoder(pictures(2), torch.zeros(2), torch.randn(2, 8, 4), none).isfinite().all()


def test_every_prefix_length_changes_the_picture_and_none_reads_what_it_hides():
    model, codes = make(), torch.arange(16).view(2, 8)
    drawn = [model.decode(codes, num_steps=1, num_tokens=n) for n in range(9)]
    assert all(not torch.equal(a, b) for a, b in zip(drawn, drawn[1:], strict=False))
    other = torch.cat([codes[:, :3], codes.flip(1)[:, 3:]], dim=1)
    assert torch.equal(model.decode(other, num_steps=1, num_tokens=3), drawn[3])
    assert torch.equal(drawn[8], model.decode(codes, num_steps=1))


@pytest.mark.parametrize("position_norm", [False, True])
def test_encode_is_deterministic_and_independent_of_the_batch_and_of_training_mode(position_norm):
    model, images = make(position_norm=position_norm), pictures()
    model.train()(images, step=2)  # places the codes, gives position norm its averages
    codes = model.encode(images)
    assert codes.dtype == torch.int64 and codes.shape == (6, 8)
    assert torch.equal(codes, model.eval().encode(images))
    assert torch.equal(codes, torch.cat([model.encode(image[None]) for image in images]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codes, model.encode(images))
    assert len(codes.unique()) > 1


def test_decode_is_deterministic_and_follows_its_generator():
    model, codes = make(), make().encode(pictures())
    assert torch.equal(model.decode(codes), model.decode(codes))
    drawn = model.decode(codes, num_steps=3, generator=torch.Generator().manual_seed(1))
    assert drawn.shape == (6, 3, 16, 16) and drawn.dtype == torch.float32 and drawn.abs().max() <= 1
    assert not torch.equal(drawn, model.decode(codes, num_steps=3))


def test_folder_round_trip_is_bit_equal(tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "tokenizer", made_from={"ingest": "abc"})
    loaded = DDTTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert loaded.config == model.config and loaded.digest == model.digest
    for (name, tensor), (other, again) in zip(
        sorted(model.state_dict().items()), sorted(loaded.state_dict().items()), strict=True
    ):
        assert name == other and torch.equal(tensor, again)
    described = json.loads((tmp_path / "tokenizer/config.json").read_text())
    assert described["made_from"] == {"ingest": "abc"} and described["digest"] == model.digest
    assert make(seed=1).digest != model.digest


def test_model_card_has_metadata_and_the_numbers_there_are(tmp_path):
    model = make()
    model.save_pretrained(tmp_path, {"ingest": "abc"}, {"PSNR, dB": 21.345})
    card = (tmp_path / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["library_name"] == "ddt-llama" and "image-tokenizer" in metadata["tags"]
    decoder = sum(p.numel() for p in model.decoder.parameters())
    for row in ("PSNR, dB | 21.34", "bits an image | 40", f"{decoder:,}", model.digest, "ingest | abc"):
        assert row in card
    model.save_pretrained(tmp_path)
    assert "Measured" not in (tmp_path / "README.md").read_text()
    assert DDTTokenizer.from_pretrained(tmp_path).digest == model.digest


def test_digest_covers_the_token_order():
    torch.manual_seed(0)
    model = make()
    turned = make(token_order="V_T..V_1")
    turned.load_state_dict(model.state_dict())
    assert turned.digest != model.digest


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "_COMPLETE").unlink(), "_COMPLETE"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: cannot be read"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
            "model.safetensors: cannot be read",
        ),
        (lambda folder: (folder / "config.json").write_text("[1]"), "config.json: is a list"),
        (lambda folder: _edit(folder, config=None), "config = None: expected a mapping"),
        (lambda folder: _edit(folder, drop="digest"), "config.json: lacks digest"),
        (lambda folder: _edit(folder, format_version=1), "version 1, expected ddt_tokenizer version 7"),
        (lambda folder: _edit(folder, model_type="llama"), "is llama"),
        (lambda folder: _edit(folder, digest="0" * 64), "do not have the digest"),
    ],
)
def test_spoiled_folders_are_refused(tmp_path, spoil, message):
    make().save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        DDTTokenizer.from_pretrained(tmp_path)


def _edit(folder, drop="", **changes):
    path = folder / "config.json"
    described = {**json.loads(path.read_text()), **changes}
    described.pop(drop, None)
    path.write_text(json.dumps(described))


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder; expected one that save_pretrained wrote"):
        DDTTokenizer.from_pretrained(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: is a file, expected a folder to write"):
        make().save_pretrained(tmp_path / "file")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([[0.0]], "images are a list"),
        (torch.zeros(3, 16, 16), r"shape \[3, 16, 16\]"),
        (torch.zeros(1, 1, 16, 16), r"shape \[1, 1, 16, 16\]"),
        (torch.zeros(1, 3, 32, 32), r"shape \[1, 3, 32, 32\]: expected float images \[batch, 3, 16, 16\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "dtype torch.uint8"),
        (torch.full((1, 3, 16, 16), 255.0), "values from 255 to 255"),
        (torch.full((1, 3, 16, 16), torch.nan), "values from nan to nan"),
        (torch.full((1, 3, 16, 16), torch.inf), "values from inf to inf"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.complex64), "dtype torch.complex64"),
    ],
)
def test_bad_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        make().encode(images)
    if not message.startswith("values"):  # training does not wait for the device to tell the range
        with pytest.raises(ValueError, match=message):
            make().train()(images, step=0)


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        (torch.zeros(1, 7, dtype=torch.int64), {}, r"shape \[1, 7\]"),
        (torch.zeros(1, 8), {}, "dtype torch.float32"),
        (torch.full((1, 8), 32), {}, r"from 32 to 32: expected whole numbers \[batch, 8\] in 0..31"),
        (torch.full((1, 8), -1), {}, "from -1 to -1"),
        ([[0] * 8], {}, "codes are a list"),
        (torch.zeros(8, dtype=torch.int64), {}, r"shape \[8\]"),
        (torch.zeros(1, 8, dtype=torch.bool), {}, "dtype torch.bool"),
        (torch.zeros(1, 8, dtype=torch.int64), {"num_steps": 0}, "num_steps = 0"),
        (
            torch.zeros(1, 8, dtype=torch.int64),
            {"num_steps": 2.0},
            "num_steps = 2.0: expected a whole",
        ),
        (
            torch.zeros(2, 8, dtype=torch.int64),
            {"generator": [torch.Generator()]},
            "a list of 1 for 2 images",
        ),
        (torch.zeros(1, 8, dtype=torch.int64), {"num_tokens": 9}, "num_tokens = 9: .* 0..8"),
        (torch.zeros(1, 8, dtype=torch.int64), {"generator": 42}, "generator is a int: expected a torch.Gen"),
        (torch.zeros(1, 8, dtype=torch.int64), {"renderer": "x"}, "renderer is a str: expected a Renderer"),
    ],
)
def test_bad_codes_are_refused(codes, options, message):
    with pytest.raises(ValueError, match=message):
        make().decode(codes, **options)


def test_whole_numbers_of_numpy_count():
    model, codes = make(), torch.zeros(1, 8, dtype=torch.int64)
    steps, tokens = np.int64(3), np.int32(5)
    drawn = model.decode(codes, num_steps=steps, num_tokens=tokens)
    assert torch.equal(drawn, model.decode(codes, num_steps=3, num_tokens=5))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_codes_of_any_integer_type_mean_the_same(dtype):
    model, codes = make(), torch.arange(16).view(2, 8)
    assert torch.equal(model.decode(codes.to(dtype)), model.decode(codes))


def test_no_images_no_codes():
    model = make()
    codes = model.encode(torch.zeros(0, 3, 16, 16))
    assert codes.shape == (0, 8) and model.decode(codes).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_patch": 3}, "encoder_patch = 3"),
        ({"decoder_heads": 3}, "decoder_width = 32"),
        ({"channels": 4}, "channels = 4"),
        ({"vae": "some/vae"}, "vae = 'some/vae': expected null in pixel space"),
        ({"space": "vae", "channels": 4, "downsample": 2}, "vae = null: expected a Diffusers AutoencoderKL"),
        ({"tail_dropout": 0.6, "condition_dropout": 0.5}, "shares of samples that add up to 1 at most"),
        ({"target": "noise"}, "target = 'noise'"),
        ({"ema_decay": 1.5}, "ema_decay = 1.5"),
        ({"schedule": "stages"}, "stage_ends"),
        (
            {"schedule": "stages", "stage_ends": (0.5, 1.0), "stage_tokens": (4, 5)},
            "add up to num_tokens = 8",
        ),
        ({"stage_ends": (1.0,)}, "schedule = linear"),
        ({"colour": 1}, "colour: unknown key"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        debug(**changes)


@pytest.mark.parametrize(
    ("name", "image_tokens", "num_tokens"), [("paper", 1024, 480), ("selftok", 256, 512)]
)
def test_presets_have_the_papers_sizes(name, image_tokens, num_tokens):
    config = presets()[name]
    with torch.device("meta"):
        model = DDTTokenizer(config)
    assert config.encoder_image_tokens == image_tokens and config.grid_side == 32
    assert len(model.encoder.blocks) == 20 and model.encoder.queries.shape == (num_tokens, 256)
    assert model.encoder.image_positions.shape == (image_tokens, 256)
    assert model.encoder.to_code.weight.shape == (16, 256)
    assert model.quantizer.codebook_Kd.shape == (65_536, 16)
    assert len(model.decoder.blocks) == 24 and model.decoder.embed_token.weight.shape == (1536, 16)
    latents = torch.zeros(2, 16, 32, 32, device="meta")
    z = model.encoder(latents)
    assert z.shape == (2, num_tokens, 16)
    visible = torch.zeros(2, num_tokens, dtype=torch.bool, device="meta")
    assert model.decoder(latents, torch.zeros(2, device="meta"), z, visible).shape == latents.shape


@pytest.mark.parametrize(
    ("option", "paper", "selftok"),
    [
        ("space", "vae", "vae"),
        ("encoder_image_tokens", 1024, 256),
        ("schedule", "linear", "stages"),
        ("stage_ends", (), (0.2, 0.4, 0.6, 0.8, 1.0)),
        ("stage_tokens", (), (192, 184, 72, 48, 16)),
        ("prefix", "ceil", "inclusive"),
        ("hidden_tokens", "zero", "mask"),
        ("target", "x0", "velocity"),
        ("time_sampling", "uniform", "uniform"),
        ("ema_decay", 0.99, 0.99),
        ("dead_threshold", 0.2, 0.2),
        ("commitment_weight", 1.0, 1.0),
        ("entropy_weight", 0.0, 0.5),
        ("token_order", "V_1..V_T", "V_T..V_1"),
    ],
)
def test_presets_settle_what_the_paper_leaves_open(option, paper, selftok):
    assert getattr(presets()["paper"], option) == paper
    assert getattr(presets()["selftok"], option) == selftok


def test_parameter_counts_follow_from_the_sizes():
    with torch.device("meta"):
        model = DDTTokenizer(presets()["paper"])
    width, depth = 256, 20
    stream = 12 * width**2 + 13 * width  # qkv, projection, MLP of ratio 4, two norms
    unused = 9 * width**2 + 8 * width  # what the last image stream has no need of
    edges = 16 * width + width + 480 * width + 2 * width + width * 16 + 16
    assert sum(p.numel() for p in model.encoder.parameters()) == 2 * depth * stream - unused + edges
    width, depth = 1536, 24
    stream = 18 * width**2 + 15 * width  # as above without norms, and adaLN of 6 vectors
    unused = 13 * width**2 + 10 * width  # the last token stream ends at attention, with 2 vectors
    edges = (64 + 1) * width + (16 + 1) * width + (256 + 1 + width + 1) * width
    edges += 2 * width**2 + 2 * width + 64 * width + 64
    assert sum(p.numel() for p in model.decoder.parameters()) == 2 * depth * stream - unused + edges


def test_latent_space_of_a_diffusers_vae(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=1.5,
        shift_factor=0.1,
    )
    vae.save_pretrained(tmp_path)
    latent = {"space": "vae", "vae": str(tmp_path), "channels": 4, "downsample": 2, "encoder_patch": 2}
    model = make(**latent)
    images = pictures(2)
    expected = (vae.eval().encode(images).latent_dist.mode() - 0.1) * 1.5
    torch.testing.assert_close(model.space.from_images(images), expected)
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        torch.testing.assert_close(model.space.from_images(images), expected)
        assert model.space.to_images(expected).dtype == torch.float32
    assert model.decode(model.encode(images)).shape == images.shape
    assert [name for name in model.state_dict() if "vae" in name] == ["vae_digest"]
    model.save_pretrained(tmp_path / "tokenizer")
    assert torch.equal(
        DDTTokenizer.from_pretrained(tmp_path / "tokenizer").encode(images), model.encode(images)
    )
    with pytest.raises(ValueError, match="has 4 latent channels and downsamples by 2"):
        make(**{**latent, "downsample": 4}).encode(images)
    with pytest.raises(ValueError, match="cannot be loaded"):
        make(**{**latent, "vae": str(tmp_path / "nowhere")}).encode(images)
    torch.nn.init.ones_(vae.quant_conv.bias)
    vae.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="digest .*, this tokenizer was trained with those of"):
        DDTTokenizer.from_pretrained(tmp_path / "tokenizer").encode(images)


def train(steps, batch=64, **changes):
    torch.manual_seed(0)
    config = debug(**changes)
    model, loss_of = DDTTokenizer(config), TokenizerLoss(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    colours = torch.rand(batch, 3, 1, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images, generator, losses = colours.expand(-1, -1, 16, 16), torch.Generator().manual_seed(0), []
    for step in range(steps):
        loss, metrics = loss_of(model, images, step, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(metrics | loss_of.finish_step(model, step))
    return model.eval(), images, losses


def test_training_learns_plain_colours():
    model, images, _ = train(100, batch=32, unquantized_steps=30)
    drawn = model.decode(model.encode(images), num_steps=1)
    grey = psnr_db(torch.zeros_like(images), images).mean()
    # Without tokens it stays within a quarter of a dB of grey; with them five seeds gave 5.7 to 13.5 dB more.
    assert psnr_db(drawn, images).mean() > grey + 3


def test_training_towards_velocity_with_masked_tokens_lowers_the_loss():
    _, _, losses = train(60, batch=32, unquantized_steps=30, target="velocity", hidden_tokens="mask")
    first, last = (torch.stack([m["flow"] for m in part]).mean() for part in (losses[:5], losses[-5:]))
    assert last < 0.6 * first


def test_loss_terms_and_their_options():
    _, _, plain = train(4)
    assert {"loss", "flow", "commitment", "codes/usage", "codes/perplexity"} <= plain[-1].keys()
    assert plain[0]["commitment"] == 0 and plain[-1]["commitment"] > 0
    assert all(not value.requires_grad for value in plain[-1].values())
    assert all(value.isfinite() for name, value in plain[-1].items() if not name.startswith("mse_"))
    _, _, options = train(
        4,
        time_sampling="power",
        time_power=3.0,
        tail_dropout=0.5,
        condition_dropout=0.5,
        commitment_on="visible",
        entropy_weight=0.5,
        entropy_floor=1.0,
    )
    assert options[-1]["loss"] > options[-1]["flow"] + options[-1]["commitment"]


def test_visible_share_and_error_with_and_without_tokens_are_logged():
    losses = train(10, batch=64, condition_dropout=0.5)[2][2:]  # quantized from step 2 on
    mean = {name: torch.stack([m[name] for m in losses]).mean().item() for name in losses[-1]}
    # Half of the samples see V_1 (all but at t = 0); V_8 is visible in the last eighth of the times.
    assert mean["visible_share/0001"] == pytest.approx(0.5, abs=0.08)
    assert mean["visible_share/0008"] == pytest.approx(0.5 / 8, abs=0.05)
    assert mean["mse_tokens/some"] > 0 and mean["mse_tokens/none"] > 0
    assert "mse_tokens/none" in train(1, batch=64, condition_dropout=1.0)[2][0]
    assert "position_perplexity/0008" in losses[-1]


def test_same_seed_same_losses():
    first, second = train(3)[2], train(3)[2]
    assert [float(m["loss"]) for m in first] == [float(m["loss"]) for m in second]


def test_reconstruction_grid_has_a_row_an_image_and_a_column_a_prefix():
    grid = reconstruction_grid(make(), pictures(3), [1, 4, None], num_steps=2, scale=2)
    assert grid.size == (4 * 34 - 2, 3 * 34 - 2) and grid.mode == "RGB"


def test_psnr_closed_form():
    a = torch.zeros(1, 3, 4, 4)
    assert psnr_db(a, a + 2 * 10 / 255).item() == pytest.approx(
        20 * torch.log10(torch.tensor(25.5)).item(), abs=1e-4
    )


def test_config_has_no_default_that_could_be_forgotten():
    required = [f.name for f in dataclasses.fields(DDTConfig) if f.default is dataclasses.MISSING]
    assert required == [f.name for f in dataclasses.fields(DDTConfig)]


def test_gates_start_as_wide_as_they_are_told():
    gates = DDTTokenizer(debug(gate_start=0.3)).decoder.blocks[0].image.modulation.bias.view(6, -1)
    assert gates.mean(1).tolist() == pytest.approx([0, 0, 0.3, 0, 0, 0.3])


def test_a_decoder_that_knows_the_datas_deviation_adds_to_the_linear_guess():
    """Untrained it is the guess; trained or not, at t = 0 it is x_t, which the paper's has to learn."""
    model = DDTTokenizer(debug(data_std=0.5))
    x, t = pictures(5), torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    codes, none = torch.randn(5, 8, 4), torch.zeros(5, 8, dtype=torch.bool)
    torch.testing.assert_close(model.decoder(x, t, codes, none), flow.best_guess(x, t, 0.5))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    trained = model.decoder(x, t, codes, ~none)
    torch.testing.assert_close(trained[0], x[0])
    assert (trained - flow.best_guess(x, t, 0.5))[1:].abs().amin(0).max() > 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target": "velocity", "data_std": 0.5},
            "target = velocity: expected x0 with data_std = 0.5, whose decoder sees no noise",
        ),
        ({"time_power": 2.0}, "time_power = 2.0: expected 1 with time_sampling = uniform"),
        (
            {"schedule": "stages", "stage_ends": (0.5, 0.9), "stage_tokens": (4, 4)},
            r"stage_ends = \[0.5, 0.9\]: expected rising times that end at 1.0",
        ),
    ],
)
def test_options_that_make_no_sense_together_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        debug(**changes)
