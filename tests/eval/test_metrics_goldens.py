"""Every metric against what the official code returned on the same input (tests/eval/goldens, one file a
metric).
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ddt.eval import metrics

GOLDENS = Path(__file__).parent / "goldens"


def load(name):
    return json.loads((GOLDENS / f"{name}.json").read_text())


def arrays(name):
    return np.load(GOLDENS / f"{name}.npz")


def cases(name, key="cases"):
    return [pytest.param(case, id=str(case.get("name", i))) for i, case in enumerate(load(name)[key])]


@pytest.mark.parametrize("case", cases("cider_pretok"))
def test_cider_of_tokenised_captions(case):
    score, per_image = metrics.cider(case["gts"], case["res"], tokenized=True)
    expected = case["expected"]
    assert score == pytest.approx(expected["cider"], abs=1e-9, rel=1e-9)
    assert [per_image[key] for key in expected["image_order"]] == pytest.approx(
        expected["per_image"], abs=1e-9
    )


@pytest.mark.parametrize("case", cases("cider_ptb"))
def test_cider_with_tokenizer(case):
    expected = case["expected"]
    for key, captions in case["gts"].items():
        assert metrics.ptb_tokenize(captions) == expected["tokenised_gts"][key]
    one_each = {key: captions[0] for key, captions in case["res"].items()}
    score, per_image = metrics.cider(case["gts"], one_each)
    assert score == pytest.approx(expected["cider"], abs=1e-9)
    assert [per_image[key] for key in expected["image_order"]] == pytest.approx(
        expected["per_image"], abs=1e-9
    )


def test_ptb_tokenize():
    for case in load("ptb_tokenizer")["cases"]:
        assert metrics.ptb_tokenize([case["input"]]) == case["expected"], case["input"]


def test_vqa_normalize():
    for case in load("vqa_normalise")["cases"]:
        assert metrics.vqa_normalize(case["input"]) == case["expected"]["full"], case["input"]


@pytest.mark.parametrize("case", cases("vqa_accuracy"))
def test_vqa_accuracy(case):
    before = json.dumps(case["answers"])
    assert metrics.vqa_accuracy(case["answers"], case["prediction"]) == pytest.approx(
        case["expected"]["accuracy"], abs=1e-8
    )
    assert json.dumps(case["answers"]) == before  # the official code changes its input


@pytest.mark.parametrize("case", cases("gqa_official"))
def test_gqa_accuracy(case):
    got = metrics.gqa_accuracy(case["questions"], case["predictions"])
    assert f"{got:.2f}%" == case["expected"]["accuracy"]


def test_pope_parse():
    for case in load("pope")["parse_cases"]:
        assert metrics.pope_parse(case["input"]) == case["expected"], case["input"]


@pytest.mark.parametrize("case", cases("pope"))
def test_pope(case):
    got = metrics.pope(case["answers"], case["labels"])
    if "error" in case["expected"]:
        # The official script stops with ZeroDivisionError: nothing right is predicted yes.
        assert got["f1"] == 0.0
        return
    for key in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        assert got[key] == pytest.approx(case["expected"][key], abs=1e-12)


def test_mme_parse():
    for case in load("mme")["parse_cases"]:
        assert metrics.mme_parse(case["input"]) == case["expected"]["official"], case["input"]
        with_newline = metrics.mme_parse(case["input"] + "\n")
        assert with_newline == case["expected"]["official_with_newline"], case["input"]


@pytest.mark.parametrize("case", cases("mme"))
def test_mme(case):
    got = metrics.mme(case["files"])
    assert got["per_category"] == pytest.approx(case["expected"]["per_category"], abs=1e-9)
    assert got["perception"] == pytest.approx(case["expected"]["total"]["Perception"], abs=1e-9)
    assert got["cognition"] == pytest.approx(case["expected"]["total"]["Cognition"], abs=1e-9)


def test_seed_bench():
    golden = load("mcq_gqa")
    for case in golden["cases"]:
        assert metrics.seed_letter(case["prediction"]) == case["expected"]["pred"]
    for case in golden["ranking_cases"]:
        assert metrics.seed_rank(case["losses"]) == case["expected"]


@pytest.mark.parametrize("case", cases("geneval_position"))
def test_geneval_relations(case):
    assert metrics.geneval_relations(case["a"], case["b"]) == set(case["expected"])


@pytest.mark.parametrize("case", cases("geneval_evaluate"))
def test_geneval_evaluate(case):
    correct, reason = metrics.geneval_evaluate(case["metadata"], case["detections"], **case["options"])
    assert correct == case["expected"]["correct"]
    assert sorted(reason.split()) == sorted(case["expected"]["reason"].split())


@pytest.mark.parametrize("case", cases("geneval_summary"))
def test_geneval_summary(case):
    got = metrics.geneval_summary(case["rows"])
    assert round(got["overall"], 5) == case["expected"]["overall_5dp"]
    for tag, value in got.items():
        if tag != "overall":
            assert f"{tag:<16} = {100 * value:.2f}%" in case["expected"]["stdout"]


@pytest.mark.parametrize("case", cases("t2i_determine_position"))
def test_t2i_position(case):
    got = metrics.t2i_position(case["locality"], case["box1"], case["box2"])
    assert got == pytest.approx(case["expected"], abs=1e-9)


@pytest.mark.parametrize("key", ["cases", "complex_cases"])
def test_t2i_spatial(key):
    for case in load("t2i_spatial_score")[key]:
        got = metrics.t2i_spatial(
            case["image"], case["tokens"], case["detections"], complex_prompt=key == "complex_cases"
        )
        assert got == pytest.approx(case["expected"]["score"], abs=1e-6), case["name"]


@pytest.mark.parametrize("case", cases("t2i_blipvqa"))
def test_t2i_blip_vqa(case):
    got = metrics.t2i_blip_vqa(case["noun_chunks"], case["p_yes"])
    assert got == pytest.approx([float(value) for value in case["expected"]["per_image"]], abs=1e-4)
    assert np.mean(got) == pytest.approx(case["expected"]["average"], abs=1e-4)


@pytest.mark.parametrize("case", cases("t2i_3in1"))
def test_t2i_three_in_one(case):
    expected = case.pop("expected")
    assert metrics.t2i_three_in_one(**case) == pytest.approx(expected["per_image"], abs=1e-12)


@pytest.mark.parametrize("case", cases("fid"))
def test_frechet_distance(case):
    features = arrays("fid_features")
    got = metrics.frechet_distance(features[f"{case['key']}_a"], features[f"{case['key']}_b"])
    expected = case["expected"]["pytorch_fid"]
    assert abs(got - expected) <= 1e-6 * max(1, expected)


@pytest.mark.parametrize("case", cases("inception_score"))
def test_inception_score(case):
    logits = arrays("inception_score_logits")[case["key"]]
    mean, std = metrics.inception_score(logits, case["splits"], case["shuffle"], case["rng_seed"])
    assert mean == pytest.approx(case["expected"]["mean"], rel=1e-9)
    assert std == pytest.approx(case["expected"]["std"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("case", cases("psnr_ssim"))
def test_psnr_and_ssim(case):
    images = arrays("psnr_ssim_images")
    a, b = images[f"{case['key']}_a"], images[f"{case['key']}_b"]
    assert metrics.psnr(a, b) == pytest.approx(float(case["expected"]["psnr_torchmetrics"]), abs=1e-5)
    assert metrics.ssim(a, b) == pytest.approx(case["expected"]["ssim_skimage_wang"], abs=1e-5)


def test_pooled_psnr_is_not_the_mean_of_psnr():
    images = arrays("psnr_ssim_images")
    pairs = [(images[f"{key}_a"], images[f"{key}_b"]) for key in ("p07", "p13")]
    mse = [metrics.psnr(a, b) for a, b in pairs]
    pooled = metrics.psnr_pooled(pairs)
    weights = [a.size for a, _ in pairs]
    errors = [10 ** (-value / 10) for value in mse]
    assert pooled == pytest.approx(-10 * math.log10(np.average(errors, weights=weights)), abs=1e-9)
    assert pooled < np.mean(mse) - 5


@pytest.mark.parametrize("case", cases("editing"))
def test_image_l1(case):
    images = arrays("editing_images")
    assert metrics.image_l1(images[case["gen"]], images[case["gt"]]) == pytest.approx(
        case["expected"]["l1"], abs=1e-6
    )


@pytest.mark.parametrize("case", cases("lpips_head"))
def test_lpips(case):
    stored, prefix = arrays("lpips_features"), f"{case['net']}_{case['case']}_im"
    layers = range(5)
    got = metrics.lpips_from_features(
        [stored[f"{prefix}0_f{layer}"] for layer in layers],
        [stored[f"{prefix}1_f{layer}"] for layer in layers],
        [stored[f"{case['net']}_lin{layer}"] for layer in layers],
    )
    assert got == pytest.approx(case["expected"]["value"], abs=1e-6)


@pytest.mark.parametrize("case", cases("perplexity"))
def test_perplexity(case):
    stored = arrays("perplexity")
    got = metrics.perplexity(stored[case["logits"]], stored[case["targets"]], case["ignore_index"])
    assert got == pytest.approx(case["expected"]["exp_mean_ce_float64"], rel=1e-10)
