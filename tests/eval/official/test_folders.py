"""Reconstruction and class-conditional FID of folders of pictures, and the network behind FID."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ddt.eval.metrics import frechet_distance, psnr
from ddt.eval.metrics.fid import moments
from ddt.eval.official import evaluate, open_benchmark
from ddt.eval.official.problems import IncompleteError
from ddt.eval.official.reconstruction import frechet_score
from ddt.eval.scorers import Scorers
from ddt.eval.scorers.inception import WEIGHTS, InceptionV3
from tests.eval.official import tiny
from tests.eval.official.fake import generate

SIDE_PX = 32


class FakeTokenizer:
    """Codes are the picture itself, decoded half as bright."""

    config = SimpleNamespace(image_size=SIDE_PX)

    def encode(self, images_BCHW):
        return images_BCHW

    def decode(self, codes, num_steps, generator):
        assert num_steps is None  # as many as the sampler's
        return (codes + 1) / 2 - 1


class FakeInception:
    """Features are mean colours."""

    def __call__(self, images):
        features = np.stack([np.asarray(image, np.float32).mean((0, 1)) for image in images])
        return features, features[:, :2] / 50


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(6):
        path = tmp_path / "photos" / f"class{k % 2}" / f"{k}.JPEG".lower()
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path.with_suffix(".png"))
    return tmp_path / "photos"


@pytest.fixture
def scorers(monkeypatch):
    found = Scorers({"inception": "fake"})
    monkeypatch.setattr(found, "inception", FakeInception)
    return found


def test_reconstruction(photos, tmp_path, scorers):
    benchmark = open_benchmark("reconstruction", [photos], settings={"side_px": str(SIDE_PX)})
    assert generate(benchmark, FakeTokenizer(), tmp_path / "out", 4) == 6
    assert generate(benchmark, FakeTokenizer(), tmp_path / "out", 4) == 0
    result = evaluate(benchmark, tmp_path / "out", scorers)
    scores = result["scores"]
    case = benchmark.cases[0]
    made = np.asarray(Image.open(tmp_path / "out" / case.output))
    assert made.shape == (SIDE_PX, SIDE_PX, 3)
    first = psnr(made, benchmark.original(case))
    assert scores["reconstruction/psnr"]["low"] <= first + 1 and scores["reconstruction/ssim"]["n"] == 6
    assert scores["reconstruction/psnr"]["floor"] < scores["reconstruction/psnr"]["value"] < 60
    originals = np.stack([benchmark.original(case).mean((0, 1)) for case in benchmark.cases])
    halved = np.stack(
        [np.asarray(Image.open(tmp_path / "out" / c.output), float).mean((0, 1)) for c in benchmark.cases]
    )
    assert scores["reconstruction/rfid"]["value"] == pytest.approx(
        frechet_distance(halved, originals), rel=1e-4
    )
    rfid, pooled = scores["reconstruction/rfid"], scores["reconstruction/psnr_pooled"]
    assert rfid["low"] < rfid["value"] < rfid["high"] and pooled["low"] <= pooled["value"] <= pooled["high"]
    assert "reconstruction/lpips" not in scores
    json.dumps(result)


def test_reconstruction_with_lpips_and_the_ceiling_of_a_vae(photos, tmp_path):
    models = {"lpips": tiny.lpips(tmp_path / "lpips"), "vae": tiny.vae(tmp_path / "vae")}
    benchmark = open_benchmark("reconstruction", [photos], settings={"side_px": "64"})
    for case in benchmark.cases:  # the VAE's own round trip as the outputs: score and ceiling are one
        made = Scorers(models, device="cpu").vae()(Image.fromarray(benchmark.original(case)))
        (tmp_path / "out" / case.output).parent.mkdir(parents=True, exist_ok=True)
        made.save(tmp_path / "out" / case.output)
    result = evaluate(benchmark, tmp_path / "out", Scorers(models, device="cpu"))
    for name in ("psnr", "ssim", "lpips"):
        score = result["scores"][f"reconstruction/{name}"]
        assert score["value"] == pytest.approx(score["ceiling"]), name
        assert score["low"] < score["value"] < score["high"]
        assert score["floor"] is not None and score["floor_is"] == "other reconstructions"
    assert {kind: name.split(" ")[0] for kind, name in result["scorers"].items()} == models
    # Without a VAE the picture itself is the ceiling.
    scores = evaluate(benchmark, tmp_path / "out", Scorers({"lpips": models["lpips"]}, device="cpu"))[
        "scores"
    ]
    assert scores["reconstruction/lpips"]["ceiling"] == 0 < scores["reconstruction/lpips"]["value"]
    assert scores["reconstruction/psnr"]["ceiling"] == 60
    with pytest.raises(ValueError, match="cannot be loaded as AutoencoderKL"):
        Scorers({"vae": models["lpips"]}).vae()


def test_reconstruction_tells_a_tokenizer_of_another_size(photos, tmp_path):
    with pytest.raises(ValueError, match="the tokenizer is for 32 px, asked are 256"):
        generate(open_benchmark("reconstruction", [photos]), FakeTokenizer(), tmp_path / "out", 4)


def test_class_fid_by_pictures_and_by_statistics(photos, tmp_path, scorers):
    settings = {"images": "6"}
    same = evaluate(open_benchmark("class_fid", [photos], settings=settings), photos, scorers)["scores"]
    assert same["class_fid/fid"]["value"] == pytest.approx(0, abs=1e-3)
    assert frechet_score(-1e-5, np.zeros(9)).value == 0  # rounding, where there are few pictures
    features = np.random.default_rng(1).normal(128, 5, (50, 3))
    mean, covariance = moments(features)
    np.savez(tmp_path / "stats.npz", mu=mean, sigma=covariance)
    benchmark = open_benchmark("class_fid", [tmp_path / "stats.npz"], settings=settings)
    found = FakeInception()([Image.open(path) for path in sorted(photos.rglob("*.png"))])[0]
    result = evaluate(benchmark, photos, scorers)
    assert result["scores"]["class_fid/fid"]["value"] == pytest.approx(
        frechet_distance(found, features), rel=1e-6
    )
    with pytest.raises(IncompleteError, match="1 x missing image .* has 6, expected 9"):
        evaluate(open_benchmark("class_fid", [photos], settings={"images": "9"}), photos, scorers)
    with pytest.raises(ValueError, match="generates nothing"):
        generate(benchmark, None, tmp_path / "none", 2)
    np.savez(tmp_path / "other.npz", x=mean)
    with pytest.raises(ValueError, match="expected an .npz with mu and sigma"):
        evaluate(open_benchmark("class_fid", [tmp_path / "other.npz"], settings=settings), photos, scorers)


def test_inception_is_the_published_architecture(tmp_path):
    torch.manual_seed(0)
    network = InceptionV3().eval()
    # Inception v3 without its auxiliary head has 23,834,568 parameters with 1,000 classes.
    assert sum(p.numel() for p in network.parameters()) == 23_834_568 + 8 * (2048 + 1)
    names = network.state_dict()
    for name, shape in (
        ("Conv2d_4a_3x3.conv.weight", (192, 80, 3, 3)),
        ("Mixed_6c.branch7x7dbl_3.conv.weight", (160, 160, 1, 7)),
        ("Mixed_7c.branch3x3dbl_3b.bn.running_var", (384,)),
        ("fc.weight", (1008, 2048)),
    ):
        assert tuple(names[name].shape) == shape, name
    for part, stop in (("fc.weight", "missing or unknown are fc.weight"), (None, "")):
        save_file({name: value for name, value in names.items() if name != part}, tmp_path / WEIGHTS)
        scorers = Scorers({"inception": str(tmp_path)}, device="cpu")
        if stop:
            with pytest.raises(ValueError, match=stop):
                scorers.inception()
    images = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    features, logits = scorers.inception()(images)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008) and np.ptp(features, axis=0).max() > 0
