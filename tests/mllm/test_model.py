"""DDTLlama: what is saved is loaded, by us and by Hugging Face; same seed, same picture, in any batch."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from ddt.mllm import DDTLlama
from ddt.mllm.build import new_model
from ddt.mllm.config import SamplingConfig, TextSampling, VisualSampling
from ddt.mllm.pictures import to_images, to_pixels
from ddt.mllm.vocabulary import extend_tokenizer
from ddt.tokenizer import DDTTokenizer, presets
from tests.mllm.mllm_tiny import TINY, make_tokenizer

PROMPTS = ["a red circle", "two blue squares and a green ring", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    image_tokenizer = DDTTokenizer(presets()["debug"]).eval()
    with torch.no_grad():  # layers that start at zero would draw grey whatever the codes
        for parameter in image_tokenizer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    text_tokenizer = make_tokenizer()
    vocabulary = extend_tokenizer(text_tokenizer, image_tokenizer.config.codebook_size)
    sampling = SamplingConfig(
        draw=VisualSampling(cfg_scale=2.0, top_p=1.0),
        edit=VisualSampling(cfg_scale=1.0, temperature=0.0),
        text=TextSampling(temperature=0.0, max_new_tokens=5),
    )
    model = DDTLlama(
        new_model(TINY, vocabulary, 0), text_tokenizer, image_tokenizer, sampling, {"pretrain": "abc"}
    )
    path = tmp_path_factory.mktemp("models") / "ddt-llama"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ddt_llama(folder):
    return DDTLlama.from_pretrained(folder)


def scene(seed: int, side: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def pixels(images) -> list[bytes]:
    return [image.tobytes() for image in images]


def test_a_loaded_model_is_the_saved_one(folder, ddt_llama, tmp_path):
    ddt_llama.save_pretrained(tmp_path)
    for file in ("model.safetensors", "ddt.json", "image_tokenizer/model.safetensors"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()
    assert ddt_llama.made_from == {"pretrain": "abc"} and ddt_llama.sampling.draw.cfg_scale == 2.0


def test_hugging_face_loads_the_folder_untouched(folder, ddt_llama):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM" and len(tokenizer) == model.config.vocab_size
    ids = torch.tensor([[1, 5, 9]])
    torch.testing.assert_close(model(ids).logits, ddt_llama.model(ids).logits)


def test_same_seed_same_picture_alone_and_in_a_batch(ddt_llama):
    together = ddt_llama.generate_image(PROMPTS, seed=3)
    assert [image.size for image in together] == [(16, 16)] * 3
    assert pixels(together) == [pixels(ddt_llama.generate_image([p], seed=3))[0] for p in PROMPTS]
    ddt_llama.batch_size = 2
    assert pixels(ddt_llama.generate_image(PROMPTS, seed=[3, 3, 3])) == pixels(together)
    ddt_llama.batch_size = 64
    assert pixels(ddt_llama.generate_image(PROMPTS, seed=4)) != pixels(together)


def test_rope_theta_is_the_base_of_the_rotary_positions():
    vocabulary = extend_tokenizer(make_tokenizer(), 8)
    model = new_model(replace(TINY, rope_theta=100.0), vocabulary, 0)
    half = TINY.width // TINY.heads // 2
    expected = 100.0 ** -(torch.arange(half) / half)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)


def test_editing_and_reading(ddt_llama):
    images = [scene(0), scene(1, side=24)]
    edited = ddt_llama.edit_image(images, ["make it red", "remove the ring"], cfg_scale=1.0, seed=1)
    assert [image.size for image in edited] == [(16, 16)] * 2
    assert pixels(edited[1:]) == pixels(
        ddt_llama.edit_image(images[1:], ["remove the ring"], cfg_scale=1.0, seed=1)
    )
    captions, answers = ddt_llama.caption(images), ddt_llama.answer(images, ["What?", "How many circles?"])
    assert len(captions) == len(answers) == 2 and all(isinstance(text, str) for text in captions + answers)
    assert answers[1] == ddt_llama.answer(images[1:], ["How many circles?"])[0]
    assert ddt_llama.generate_image([]) == [] and ddt_llama.caption([]) == []


def test_pixels_and_images_are_inverse():
    images = [scene(0), scene(1)]
    assert pixels(to_images(to_pixels(images, 16))) == pixels(images)
    wide = Image.new("RGB", (64, 16), "red")
    wide.paste("blue", (24, 0, 40, 16))
    assert pixels(to_images(to_pixels([wide], 16))) == pixels([Image.new("RGB", (16, 16), "blue")])


def test_incomplete_and_foreign_folders_are_refused(folder, tmp_path, ddt_llama):
    with pytest.raises(ValueError, match="no such folder"):
        DDTLlama.from_pretrained(tmp_path / "nowhere")
    ddt_llama.save_pretrained(tmp_path / "m")
    (tmp_path / "m/_COMPLETE").unlink()
    with pytest.raises(ValueError, match="no _COMPLETE marker"):
        DDTLlama.from_pretrained(tmp_path / "m")
    (tmp_path / "m/_COMPLETE").touch()
    settings = json.loads((tmp_path / "m/ddt.json").read_text())
    (tmp_path / "m/ddt.json").write_text(json.dumps({**settings, "tokenizer_digest": "f" * 64}))
    with pytest.raises(ValueError, match="trained on codes of tokenizer ffffffffffffffff"):
        DDTLlama.from_pretrained(tmp_path / "m")


def test_a_model_of_another_vocabulary_is_named_before_its_weights_are_read(ddt_llama, tmp_path, monkeypatch):
    def read(*arguments, **options):
        raise AssertionError("weights were read")

    ddt_llama.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 7}))
    monkeypatch.setattr("ddt.mllm.model.load_model", read)
    with pytest.raises(ValueError, match="the model has 7 embedding rows, its tokenizers need"):
        DDTLlama.from_pretrained(tmp_path)


def test_mistakes_are_named(ddt_llama):
    with pytest.raises(ValueError, match="questions: expected one for each of the 1 images, got 2"):
        ddt_llama.answer([scene(0)], ["a", "b"])
    with pytest.raises(ValueError, match="sampling.cfg_scale = -1"):
        ddt_llama.generate_image(["a"], cfg_scale=-1)
    with pytest.raises(ValueError, match="seed: expected a whole number or 1 of them, got 2"):
        ddt_llama.generate_image(["a"], seed=[1, 2])
    other = DDTTokenizer(presets()["debug"].replace(codebook_size=16))
    with pytest.raises(ValueError, match="embedding rows"):
        DDTLlama(ddt_llama.model, make_tokenizer(), other)
