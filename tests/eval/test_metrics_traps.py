"""Behaviour of the metrics beyond the goldens: traps named in the docstrings, bad input, a speed."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ddt.eval import metrics
from tests.speed import relative


def test_cider_ids_must_agree():
    with pytest.raises(ValueError, match="ids of references and captions differ"):
        metrics.cider({"a": ["x"]}, {"b": "x"})
    with pytest.raises(ValueError, match="exactly one caption"):
        metrics.cider({"a": ["x"]}, {"a": ["x", "y"]})
    with pytest.raises(ValueError, match="at least one reference"):
        metrics.cider({"a": []}, {"a": "x"})


def test_cider_of_one_image_is_zero():
    assert metrics.cider({"a": ["a red circle"]}, {"a": "a red circle"})[0] == 0


def test_cider_speed():
    rng = np.random.default_rng(0)
    words = [f"w{index}" for index in range(500)]
    captions = [" ".join(words[i] for i in rng.integers(0, 500, 10)) for _ in range(1800)]
    gts = {index: captions[5 * index : 5 * index + 5] for index in range(300)}
    outputs = {index: captions[1500 + index] for index in range(300)}
    # 48: a fifth of a second on a core of a first EPYC, and 7 s for 10,000 images
    assert relative(lambda: metrics.cider(gts, outputs)) < 150


def test_vqa_only_normalises_if_answers_differ():
    same = [{"answer": "two dogs", "answer_id": index} for index in range(10)]
    assert metrics.vqa_accuracy(same, "two dogs") == 100
    assert metrics.vqa_accuracy(same, "2 dogs") == 0
    mixed = [*same[:9], {"answer": "cat", "answer_id": 9}]
    assert metrics.vqa_accuracy(mixed, "2 dogs.") == 100


def test_vqa_equal_answers_without_ids_vanish_together():
    answers = [{"answer": "cat"}] * 9 + [{"answer": "dog"}]
    assert metrics.vqa_accuracy(answers, "cat") == 10


def test_vqa_strips_at_most_32_periods():
    assert metrics.vqa_normalize("." * 40) == "." * 8


def test_vizwiz_normalises_the_prediction_only_and_restores_curly_apostrophes():
    assert metrics.vizwiz_accuracy(["Coca cola"] * 10, "coca cola") == 0
    assert metrics.vizwiz_accuracy(["coke"] * 2 + ["tea"] * 8, "The coke.") == pytest.approx(60)
    for said, reference, expected in (
        ("dont know", "don\u2019t know", 100), ("dont know", "don't know", 0),
        ("don't know", "don't know", 100), ("cant tell", "can't tell", 100), ("thats", "that\u2019s", 100),
        ("hadn'tve", "hadn\u2019t\u2019ve", 100), ("hadn\u2019tve", "hadn\u2019t\u2019ve", 0),
        ("somebody\u2019d", "somebodyd", 100),
    ):  # fmt: skip
        assert metrics.vizwiz_accuracy([reference] * 10, said) == expected, said
    with pytest.raises(ValueError, match="no reference"):
        metrics.vizwiz_accuracy([], "x")


def test_gqa_needs_every_balanced_question():
    questions = {"1": {"answer": "yes", "isBalanced": True}, "2": {"answer": "no", "isBalanced": False}}
    assert metrics.gqa_accuracy(questions, [{"questionId": "1", "prediction": "yes"}]) == 100
    with pytest.raises(ValueError, match="no prediction for 1 questions"):
        metrics.gqa_accuracy(questions, [])


def test_mme_names_the_bad_line():
    with pytest.raises(ValueError, match="color line 2 has 5 columns"):
        metrics.mme({"color": ["a\tq\tYes\tyes", "a\tq\tNo\tno\textra"]})
    with pytest.raises(ValueError, match="unknown category 'colour'"):
        metrics.mme({"colour": ["a\tq\tYes\tyes"]})
    with pytest.raises(ValueError, match="color line 1 has no second question"):
        metrics.mme({"color": ["a\tq\tYes\tyes"]})
    assert metrics.mme({"color": ["a\tq\tYes\tperhaps", "a\tq\tNo\tperhaps"]})["per_category"]["color"] == 0


def test_pope_bad_input():
    with pytest.raises(ValueError, match="1 answers for 2 labels"):
        metrics.pope(["yes"], ["yes", "no"])
    with pytest.raises(ValueError, match="'Yes'"):
        metrics.pope(["yes"], ["Yes"])


def test_geneval_score_on_the_threshold_is_not_kept():
    dog = {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}
    assert metrics.geneval_evaluate(dog, [["dog", 0, 0, 9, 9, 0.3, "red"]])[0] is False
    assert metrics.geneval_evaluate(dog, [["dog", 0, 0, 9, 9, 0.300001, "red"]])[0] is True


def test_geneval_overlap_suppression_is_off_by_default():
    two = {"tag": "counting", "include": [{"class": "dog", "count": 2}]}
    boxes = [["dog", 0, 0, 99, 99, 0.95, "red"], ["dog", 1, 0, 99, 99, 0.93, "red"]]
    assert metrics.geneval_evaluate(two, boxes)[0] is True
    assert metrics.geneval_evaluate(two, boxes, max_overlap=0.5) == (False, "expected dog>=2, found 1")


@pytest.mark.parametrize(("count", "width"), [(20, 128), (50, 64), (100, 64)])
def test_frechet_distance_of_fewer_samples_than_dimensions_is_exact(count, width):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(count, width)), 0.1 + 1.1 * rng.normal(size=(count + 7, width))
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    # The trace of (S_a S_b)^(1/2) is the sum of the singular values of X_a X_b' for S = X'X.
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    roots = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    offset = a.mean(0) - b.mean(0)
    expected = offset @ offset + sum((x**2).sum() for x in centred) - 2 * roots
    assert metrics.frechet_distance(a.tolist(), b) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_matches_scipy_root():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(200, 32)), rng.normal(1, 2, size=(150, 32)) @ rng.normal(size=(32, 32))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    offset = a.mean(0) - b.mean(0)
    expected = offset @ offset + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)
    assert metrics.frechet_distance(a.astype(np.float32), b) == pytest.approx(expected, rel=1e-5)


def test_psnr_and_ssim_of_equal_images():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert metrics.psnr(image, image) == math.inf
    assert metrics.ssim(image, image) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="uint8 HWC"):
        metrics.psnr(image / 255, image)
    with pytest.raises(ValueError, match="at least 11x11"):
        metrics.ssim(image[:8], image[:8])


def test_image_l1_resizes_the_generated_image():
    target = Image.new("RGB", (20, 10), (10, 20, 30))
    assert metrics.image_l1(Image.new("RGB", (7, 9), (10, 20, 30)), target) == 0
    assert metrics.image_l1(np.full((10, 20, 3), 255, np.uint8), Image.new("RGB", (20, 10))) == 1


def test_perplexity_weighs_tokens_and_takes_torch():
    logits = torch.zeros(2, 3, 4)
    targets = torch.tensor([[0, 1, -100], [2, 3, 0]])
    assert metrics.perplexity(logits, targets, ignore_index=-100) == pytest.approx(4)
    assert metrics.token_nll(logits, targets, -100)[1] == 5
    assert metrics.perplexity(torch.tensor([[500.0, 0.0]]), torch.tensor([1])) == pytest.approx(math.exp(500))
    with pytest.raises(ValueError, match="no token"):
        metrics.perplexity(logits, torch.full((2, 3), -100), ignore_index=-100)
