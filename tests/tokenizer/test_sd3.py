"""The decoder's image stream against Diffusers' own SD3Transformer2DModel, tiny and random."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddt.tokenizer import DDTTokenizer, presets
from ddt.tokenizer.sd3 import init_from_sd3

diffusers = pytest.importorskip("diffusers")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def tiny_sd3(qk_norm=None, **changes):
    """An SD3 transformer with 32 features, random everywhere, whose pooled text adds nothing."""
    torch.manual_seed(0)
    sizes = {
        "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3,
        "attention_head_dim": 8, "num_attention_heads": 4, "joint_attention_dim": 12,
        "caption_projection_dim": 32, "pooled_projection_dim": 6, "pos_embed_max_size": 24,
    }  # fmt: skip
    model = diffusers.SD3Transformer2DModel(**sizes | changes, qk_norm=qk_norm)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for parameter in model.time_text_embed.text_embedder.parameters():
        torch.nn.init.zeros_(parameter)
    return model.eval()


def tokenizer(**changes):
    torch.manual_seed(1)
    fitting = {
        "image_size": 16, "space": "vae", "vae": "nowhere", "channels": 4, "downsample": 1,
        "decoder_patch": 2, "decoder_depth": 3, "decoder_width": 32, "decoder_heads": 4,
        "decoder_positions": "stored", "hidden_tokens": "mask",
    }  # fmt: skip
    model = DDTTokenizer(presets()["debug"].replace(**fitting | changes)).eval()
    torch.nn.init.normal_(model.decoder.embed_token.weight)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sd3")
    tiny_sd3().save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("qk_norm", [None, "rms_norm"])
def test_same_inputs_same_outputs(tmp_path, qk_norm):
    sd3 = tiny_sd3(qk_norm)
    sd3.save_pretrained(tmp_path / "pipeline" / "transformer")
    ours = tokenizer(qk_norm=qk_norm is not None)
    init_from_sd3(ours, str(tmp_path / "pipeline"))
    decoder = ours.decoder
    x, t = torch.randn(3, 4, 16, 16), torch.tensor([0.1, 0.5, 0.99])
    with torch.no_grad():
        embedded = decoder.embed(patches_of(x)) + decoder.image_positions
        torch.testing.assert_close(embedded, sd3.pos_embed(x), **CLOSE)
        condition = decoder.embed_time(t)
        torch.testing.assert_close(condition, sd3.time_text_embed(1000 * t, torch.zeros(3, 6)), **CLOSE)
        # Without text on one side and visible tokens on the other, the image attends to itself in both.
        expected = sd3(x, torch.zeros(3, 0, 12), torch.zeros(3, 6), 1000 * t).sample
        none = torch.zeros(3, 8, dtype=torch.bool)
        torch.testing.assert_close(decoder(x, t, torch.randn(3, 8, 4), none), expected, **CLOSE)
        assert expected.std() > 0.1


def patches_of(x):
    return torch.nn.functional.unfold(x, 2, stride=2).transpose(1, 2)


def test_every_block_takes_context_as_sd3_does(folder):
    sd3, ours = tiny_sd3(), tokenizer()
    init_from_sd3(ours, folder)
    image, context, condition = torch.randn(2, 64, 32), torch.randn(2, 5, 32), torch.randn(2, 32)
    with torch.no_grad():
        for block, theirs in zip(ours.decoder.blocks, sd3.transformer_blocks, strict=True):
            copy_context(block.token, theirs)
            silu = torch.nn.functional.silu(condition)
            if block.last:  # SD3's last context norm has scale before shift
                block.token.modulation.weight.copy_(theirs.norm1_context.linear.weight.roll(32, 0))
                block.token.modulation.bias.copy_(theirs.norm1_context.linear.bias.roll(32, 0))
            got_image, got_context = block(image, context, silu, None)
            want_context, want_image = theirs(image, context, condition)
            torch.testing.assert_close(got_image, want_image, **CLOSE)
            if not block.last:
                torch.testing.assert_close(got_context, want_context, **CLOSE)


def copy_context(stream, theirs):
    """What initialisation leaves out: SD3's text stream into the token stream."""
    attention = theirs.attn
    projections = (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)
    stream.qkv.weight.copy_(torch.cat([p.weight for p in projections]))
    stream.qkv.bias.copy_(torch.cat([p.bias for p in projections]))
    if stream.attention_only:
        return
    stream.modulation.load_state_dict(theirs.norm1_context.linear.state_dict())
    stream.project.load_state_dict(attention.to_add_out.state_dict())
    stream.mlp[0].load_state_dict(theirs.ff_context.net[0].proj.state_dict())
    stream.mlp[2].load_state_dict(theirs.ff_context.net[2].state_dict())


def test_token_stream_and_encoder_keep_their_own_start(folder):
    before, after = tokenizer(), tokenizer()
    init_from_sd3(after, folder)
    changed = {
        name for name, tensor in after.state_dict().items() if not tensor.equal(before.state_dict()[name])
    }
    assert changed and not any("encoder." in name or "token" in name for name in changed)
    assert "decoder.image_positions" in changed


def test_its_positions_are_saved_with_the_weights(tmp_path, folder):
    model = tokenizer()
    init_from_sd3(model, folder)
    model.save_pretrained(tmp_path)
    loaded = DDTTokenizer.from_pretrained(tmp_path)
    assert torch.equal(loaded.decoder.image_positions, model.decoder.image_positions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_width": 64}, "decoder_width = 64, expected 32"),
        ({"decoder_depth": 2, "decoder_heads": 2}, "heads = 2, expected 4; decoder_depth = 2, expected 3"),
        ({"channels": 3, "space": "pixels", "vae": None}, "channels = 3, expected 4"),
        ({"decoder_patch": 4}, "decoder_patch = 4, expected 2"),
        ({"qk_norm": True}, "qk_norm = True, expected False"),
        ({"activation": "gelu"}, "activation = 'gelu', expected 'gelu_tanh'"),
        ({"decoder_positions": "sincos"}, "decoder_positions = 'sincos', expected 'stored'"),
        ({"data_std": 0.5}, "data_std = 0.5, expected None"),
        ({"image_size": 64}, "a grid of 32 patches a side, expected at most 24"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_moves(folder, changes, message):
    model = tokenizer(**changes)
    digest = model.digest
    with pytest.raises(ValueError, match=message):
        init_from_sd3(model, folder)
    assert model.digest == digest


def test_dual_attention_and_missing_folders_are_refused(tmp_path):
    tiny_sd3(qk_norm="rms_norm", dual_attention_layers=(0,)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="dual attention layers"):
        init_from_sd3(tokenizer(qk_norm=True), str(tmp_path))
    with pytest.raises(ValueError, match="init = .*cannot be loaded as SD3Transformer2DModel"):
        init_from_sd3(tokenizer(), str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"transformer_blocks.1.attn.add_k_proj.bias is missing; .*; 28 in all"),
        ("shape", r"norm_out.linear.bias has shape \[64\], expected \[128\]; .* in all"),
        ("cut", "cannot be loaded as SD3Transformer2DModel"),
        ("class", "holds AutoencoderKL, expected SD3Transformer2DModel"),
    ],
)
def test_a_damaged_checkpoint_is_told_by_what_does_not_fit(tmp_path, damage, message):
    tiny_sd3().save_pretrained(tmp_path)
    weights, config = tmp_path / "diffusion_pytorch_model.safetensors", tmp_path / "config.json"
    if damage == "missing":
        stored = load_file(weights)
        kept = {name: stored[name] for name in stored if not name.startswith("transformer_blocks.1.")}
        save_file(kept, weights, metadata={"format": "pt"})
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    settings = json.loads(config.read_text())
    if damage == "shape":
        settings["num_attention_heads"] = 8
    if damage == "class":
        settings["_class_name"] = "AutoencoderKL"
    config.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"init = .*{message}"):
        init_from_sd3(tokenizer(), str(tmp_path))
