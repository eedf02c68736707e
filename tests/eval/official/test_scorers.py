"""Scorer models through Transformers, on tiny random checkpoints of the genuine classes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ddt.eval.metrics import lpips_from_features
from ddt.eval.scorers import BlipVQA, ColorClassifier, Found, Scorers, open_detector, open_phrases
from ddt.eval.scorers.blip import question_of
from ddt.eval.scorers.colors import crop_of
from ddt.eval.scorers.lpips import HEADS, LPIPS
from tests.eval.official import tiny


def picture(seed, size=(40, 30)):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip"))


def test_blip_question_is_cleaned():
    assert question_of("The (red) Dog!") == "the red dog?"


def test_blip_p_yes_is_the_share_of_the_first_token(tmp_path):
    blip = BlipVQA(tiny.blip(tmp_path / "blip"), "cpu", batch_size=2)
    images, questions = [picture(i) for i in range(3)], ["a red dog?", "a dog?", "red?"]
    together = blip.p_yes(images, questions)
    alone = [blip.p_yes([image], [question])[0] for image, question in zip(images, questions, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    model = blip.model
    pixels = blip.processor(images=images[:1], return_tensors="pt")["pixel_values"]
    assert pixels.shape[-2:] == (480, 480)
    ids = torch.tensor([[tiny.WORDS.index(w) for w in ("[ENC]", "a", "red", "dog", "?", "[SEP]")]])
    with torch.no_grad():
        seen = model.vision_model(pixels, interpolate_pos_encoding=True)[0]
        asked = model.text_encoder(ids, encoder_hidden_states=seen)[0]
        start = torch.tensor([[tiny.WORDS.index("[DEC]")]])
        p = model.text_decoder(start, encoder_hidden_states=asked).logits[0, 0].softmax(-1)
        written = model.generate(
            ids, pixels, interpolate_pos_encoding=True, max_new_tokens=1, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        ).logits[0][0].softmax(-1)  # fmt: skip
    words = [tiny.WORDS.index(word) for word in ("yes", "no")]
    for found in (p, written):  # the parts one by one, and as the class itself generates
        yes, no = found[words].tolist()
        assert alone[0] == pytest.approx(yes / (yes + no), abs=1e-5)


def test_mask2former_boxes_are_the_extent_of_their_masks(tmp_path):
    detector = open_detector(tiny.mask2former(tmp_path), "cpu")
    found = detector(picture(0), ["dog", "computer mouse"], 0.0)
    assert found and {item.name for item in found} <= {"dog", "computer mouse"}
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    for item in found:
        rows, columns = np.nonzero(item.mask)
        assert item.mask.shape == (30, 40)
        assert item.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert detector(picture(0), ["cat"], 0.0) == []


def test_open_vocabulary_finds_the_words_it_is_asked_for(tmp_path):
    detector = open_detector(tiny.owlv2(tmp_path), "cpu")
    found = detector(picture(0), ["dog", "red bench"], -1.0)
    assert len(found) == 16 and {item.name for item in found} <= {"dog", "red bench"}
    assert all(item.mask is None for item in found)


def test_other_models_are_no_detectors(clip_folder):
    with pytest.raises(ValueError, match="a clip is no detector"):
        open_detector(clip_folder)


def test_colors_are_the_nearest_text_of_the_crop(clip_folder):
    classify = ColorClassifier(Scorers({"clip": clip_folder}, device="cpu").clip("unused"))
    image = picture(1)
    mask = np.zeros((30, 40), bool)
    mask[5:20, 10:30] = True
    found = [Found("dog", (10.2, 5.0, 29.6, 20.0), 0.9, mask), Found("dog", (0, 0, 40, 30), 0.8)]
    colors = classify(image, found)
    assert len(colors) == 2
    embedded = classify.clip.embed_images([crop_of(image, found[1])])[0]
    texts = {
        color: torch.nn.functional.normalize(
            classify.clip.embed_texts(
                [
                    f"a photo of a {color} dog",
                    f"a photo of a {color}-colored dog",
                    f"a photo of a {color} object",
                ]
            ).mean(0),
            dim=0,
        )
        for color in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
    }
    assert colors[1] == max(texts, key=lambda color: float(texts[color] @ embedded))
    assert classify(image, []) == []


def test_crop_paints_what_is_outside_the_mask_grey():
    image = Image.new("RGB", (8, 8), "red")
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    crop = crop_of(image, Found("dog", (1.6, 2, 6, 6), 0.9, mask))
    assert crop.size == (4, 4)
    assert crop.getpixel((0, 0)) == (255, 0, 0) and crop.getpixel((3, 3)) == (0x99, 0x99, 0x99)


def test_lpips_runs_alexnet_and_its_heads(tmp_path):
    lpips = LPIPS(tiny.lpips(tmp_path / "lpips"), "cpu")
    a, b = picture(0, (64, 64)), picture(1, (64, 64))
    assert lpips(a, a) == 0
    pixels = torch.from_numpy(np.asarray(a, dtype=np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    with torch.no_grad():
        first = lpips.features[:2]((pixels - shift) / scale).numpy()
    np.testing.assert_allclose(lpips._layers(a)[0], first, atol=1e-5)
    expected = lpips_from_features(lpips._layers(a), lpips._layers(b), lpips.heads)[0]
    assert lpips(a, b) == pytest.approx(float(expected)) and expected > 0
    with pytest.raises(ValueError, match="can't be read as LPIPS weights"):
        LPIPS(str(tmp_path / "nowhere"))


def test_lpips_is_torchmetrics_with_the_published_heads(tmp_path, monkeypatch):
    """torchmetrics carries the heads of v0.1; the backbone, which it takes from torchvision, is ours."""
    reference = pytest.importorskip("torchmetrics.functional.image.lpips")
    folder = tiny.lpips(tmp_path)
    backbone = LPIPS(folder, "cpu").features
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda net, pretrained: backbone)
    network = reference._LPIPS(net="alex")
    heads = {name: value for name, value in network.state_dict().items() if name.startswith("lin")}
    save_file({k: v.contiguous() for k, v in heads.items() if not k.startswith("lins")}, tmp_path / HEADS)
    lpips = LPIPS(folder, "cpu")
    for size in ((64, 64), (40, 77)):
        a, b = picture(0, size), picture(1, size)
        pixels = [torch.from_numpy(np.array(x)).permute(2, 0, 1)[None] / 127.5 - 1 for x in (a, b)]
        with torch.no_grad():
            assert lpips(a, b) == pytest.approx(float(network(*pixels)), rel=1e-5)


def test_phrases_come_from_a_file(tmp_path):
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps({"a red dog": {"tokens": [["dog", "NOUN"]], "chunks": ["a red dog"]}}))
    phrases = open_phrases(str(path))
    assert phrases("a red dog").tokens == [("dog", "NOUN")]
    with pytest.raises(ValueError, match="no phrases of 'a cat'"):
        phrases("a cat")
    for found in (5, {}, {"tokens": ["dog"], "chunks": []}, {"tokens": [["dog"]], "chunks": []}):
        path.write_text(json.dumps({"a red dog": found}))
        with pytest.raises(ValueError, match="phrases.json: phrases of 'a red dog': expected"):
            open_phrases(str(path))("a red dog")
    path.write_text("null")
    with pytest.raises(ValueError, match="phrases.json: expected phrases by prompt, found NoneType"):
        open_phrases(str(path))


def test_scorers_tell_what_they_used_and_know_their_kinds(clip_folder):
    scorers = Scorers({"clip": clip_folder}, device="cpu")
    assert scorers.clip("unused") is scorers.clip("unused")
    assert scorers.used["clip"].startswith(clip_folder)
    with pytest.raises(ValueError, match="unknown kind 'clop'"):
        Scorers({"clop": clip_folder})
    with pytest.raises(ValueError, match="lpips=FOLDER"):
        scorers.lpips()
