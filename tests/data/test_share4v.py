"""A randomly initialised checkpoint in ShareGPT-4V's own layout, converted: the logits of its parts put
together by hand as its authors do, and captions through `Captioner`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
)

from ddt.data.captioner import IMAGE, Captioner
from ddt.data.share4v import convert
from ddt.scenes import weights_dir

SIDE, PATCH, WIDTH, TOWER_WIDTH = 16, 4, 32, 24
SHAPE = {"num_attention_heads": 2, "intermediate_size": 48}


class Published:
    """The checkpoint and its vision tower as they are published, and the modules that they are of."""

    def __init__(self, folder: Path, within: bool) -> None:
        torch.manual_seed(0)
        self.source, self.tower = folder / "share4v", folder / "vit"
        for path in (self.source, self.tower):
            path.mkdir()
        for path in weights_dir("bpe").glob("tokenizer*"):
            shutil.copy(path, self.source)
        self.tokenizer = AutoTokenizer.from_pretrained(self.source)
        text = LlamaConfig(
            vocab_size=len(self.tokenizer), hidden_size=WIDTH, num_hidden_layers=2, rms_norm_eps=1e-5, **SHAPE
        )
        vision = CLIPVisionConfig(
            image_size=SIDE, patch_size=PATCH, hidden_size=TOWER_WIDTH, num_hidden_layers=3, **SHAPE
        )
        self.llama, self.clip = LlamaForCausalLM(text).eval(), CLIPVisionModel(vision).eval()
        self.projector = torch.nn.Sequential(
            torch.nn.Linear(TOWER_WIDTH, WIDTH), torch.nn.GELU(), torch.nn.Linear(WIDTH, WIDTH)
        )
        weights = dict(self.llama.state_dict())
        weights |= {
            f"model.mm_projector.{name}": value for name, value in self.projector.state_dict().items()
        }
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
        seen = {
            f"vision_model.{name.removeprefix('vision_model.')}": value
            for name, value in self.clip.state_dict().items()
        }
        seen["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        if within:
            weights |= {f"model.vision_tower.vision_tower.{name}": value for name, value in seen.items()}
        save_file(
            {name: value.contiguous() for name, value in weights.items()}, self.source / "m.safetensors"
        )
        save_file({} if within else seen, self.tower / "model.safetensors")
        (self.tower / "config.json").write_text(json.dumps(vision.to_dict()))
        self.settings = text.to_dict() | {
            "model_type": "share4v",
            "architectures": ["Share4VLlamaForCausalLM"],
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_layer": -2,
            "image_aspect_ratio": "pad",
        }
        self.write()

    def write(self) -> None:
        (self.source / "config.json").write_text(json.dumps(self.settings))

    @torch.inference_mode()
    def logits(self, ids_L: torch.Tensor, image_at: int, pixels_1CHW: torch.Tensor) -> torch.Tensor:
        """[L - 1 + N, V]: the N patches' features stand where the image is in the text."""
        states = self.clip(pixels_1CHW, output_hidden_states=True).hidden_states
        patches_ND = self.projector(states[-2][0, 1:])
        words_LD = self.llama.get_input_embeddings()(ids_L)
        embeds = torch.cat([words_LD[:image_at], patches_ND, words_LD[image_at + 1 :]])
        return self.llama(inputs_embeds=embeds[None]).logits[0]


@pytest.fixture(params=[False, True], ids=["tower beside", "tower within"])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Published:
    return Published(tmp_path, request.param)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@torch.inference_mode()
def test_the_converted_model_computes_the_same(published: Published, tmp_path: Path) -> None:
    convert(published.source, published.tower, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    text = f"USER: {IMAGE}\nDescribe the image. ASSISTANT:"
    inputs = processor(images=[picture(24, 24)], text=[text], return_tensors="pt")
    found = model(**inputs).logits[0]
    before, after = (published.tokenizer(part)["input_ids"] for part in text.split(IMAGE))
    bos = published.tokenizer.bos_token_id
    after = after[1:] if after[0] == bos else after
    ids = torch.tensor([*before, 0, *after])
    wanted = published.logits(ids, len(before), inputs["pixel_values"])
    assert found.shape[0] == wanted.shape[0] == len(ids) - 1 + (SIDE // PATCH) ** 2
    assert torch.allclose(found[:, : wanted.shape[1]], wanted, atol=1e-5)
    assert found.std() > 0.01


def test_captions_come_of_it_and_pictures_are_seen_whole(published: Published, tmp_path: Path) -> None:
    convert(published.source, published.tower, tmp_path / "out")
    captioner = Captioner(str(tmp_path / "out"), max_new_tokens=4, batch_size=2, device="cpu")
    answers = captioner.answer([picture(40, 20), picture(20, 40), picture(30, 30)])
    assert len(answers) == 3 and not any(answer.ended for answer in answers)
    wide = captioner.engine.image_input([picture(32, 16)])
    assert wide.shape == (1, 3, SIDE, SIDE)
    assert wide[0, :, 0].std(1).max() < 1e-6, "above and below it is one colour"
    published.settings["image_aspect_ratio"] = None
    published.write()
    convert(published.source, published.tower, tmp_path / "cut")
    cut = Captioner(str(tmp_path / "cut"), batch_size=2, device="cpu").engine.image_input([picture(32, 16)])
    assert cut[0, :, 0].std(1).min() > 0.1


def test_what_is_laid_out_otherwise_is_named(published: Published, tmp_path: Path) -> None:
    out = tmp_path / "out"
    weights = published.source / "m.safetensors"
    save_file({"lm_head.weight": torch.zeros(4, 2), "model.embed_tokens.weight": torch.zeros(4, 2)}, weights)
    with pytest.raises(ValueError, match=r"share4v: Error\(s\) in loading state_dict .*[Mm]issing key"):
        convert(published.source, published.tower, out)
    weights.rename(published.source / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"share4v: holds pytorch_model.bin, no safetensors"):
        convert(published.source, published.tower, out)
    published.settings["mm_projector_type"] = "linear"
    published.write()
    with pytest.raises(ValueError, match="share4v: mm_projector_type 'linear', not mlp2x_gelu"):
        convert(published.source, published.tower, out)
    (published.source / "config.json").unlink()
    with pytest.raises(ValueError, match=r"share4v/config.json: can't be read"):
        convert(published.source, published.tower, out)
    assert not out.exists()
