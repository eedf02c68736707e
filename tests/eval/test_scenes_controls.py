"""Every scenes benchmark of the registry: ground truth scores at least 0.99, and the ground truth of other
cases at most chance plus three standard errors.

Chance of a picture, an edit or a caption is what it scores in other shuffles of the same cases; chance of an
answer is what a guesser has that knows the answers' frequencies.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ddt.eval.metrics import geneval_evaluate
from ddt.eval.reconstruct import Reconstruct, _share_kept
from ddt.eval.report.pictures import rgb_array
from ddt.eval.scenes.caption import Captioning, caption_fault
from ddt.eval.scenes.choice import Choice
from ddt.eval.scenes.edit import Editing, edit_faults
from ddt.eval.scenes.geneval import GenEval, detections
from ddt.eval.scenes.mme import MME
from ddt.eval.scenes.pope import POPE
from ddt.eval.scenes.t2i import T2I
from ddt.eval.scenes.vqa import VQA
from ddt.eval.statistics import shuffled_partners, shuffled_within
from ddt.eval.suite import BENCHMARKS
from ddt.scenes.detect import detect
from ddt.scenes.edits import EDIT_KINDS, MIN_MOVE, PLACE_POINTS
from ddt.scenes.render import render
from ddt.scenes.sample import make_object, sample_scene
from ddt.scenes.world import Scene, scene_from_dict
from tests.eval.oracle import LosslessTokenizer, Oracle

SIDE_PX, CASES, MANY, SEED = 32, 56, 240, 11
OTHER_SHUFFLES = range(1, 9)
# Neither right nor wrong: how often yes is said, how codes are used.
NO_ACCURACY = ("pope/yes_ratio", "reconstruct/codebook_used", "reconstruct/codebook_largest_share")


class Other(Oracle):
    """Gives the ground truth of another case of the same task."""

    def __init__(self, benchmark):
        super().__init__(benchmark)
        cases = benchmark.cases()
        partners = shuffled_within([case["task"] for case in cases], 5)
        self.partner = {case["case_id"]: cases[other] for case, other in zip(cases, partners, strict=True)}
        self.image_tokenizer = Exchanged()

    def _cases(self, prompts, seeds):
        return [self.partner[case["case_id"]] for case in super()._cases(prompts, seeds)]

    def caption(self, images, seed):
        by_seed = {case["seed"]: self.partner[case["case_id"]]["seed"] for case in self.by_key.values()}
        return super().caption(images, [by_seed.get(each, each) for each in seed])


class Exchanged(LosslessTokenizer):
    """Decodes to the picture after the one that was encoded."""

    def decode(self, codes_BT, num_steps=None, generator=None):
        return super().decode((codes_BT + 1) % len(self.images))


def outcome(cls, model, count=CASES):
    benchmark = cls(count, SEED, SIDE_PX)
    rows = benchmark.run(model(benchmark), benchmark.cases(), batch_size=count)
    return benchmark, rows, benchmark.summarize(rows)


@cache
def many_of_ground_truth(cls):
    """Of many cases, for the tests that share them; their models must not be changed."""
    return outcome(cls, Oracle, MANY)


def scenes_benchmarks():
    """All but those of text alone and of the tokens alone, which have no answers to be right."""
    return [cls for name, cls in BENCHMARKS.items() if name not in ("perplexity", "recursion")]


@pytest.mark.parametrize("cls", [cls for cls in scenes_benchmarks() if cls is not Choice])
def test_ground_truth_reaches_the_ceiling(cls):
    _, _, scores = outcome(cls, Oracle)
    checked = [name for name in scores if name not in NO_ACCURACY]
    assert len(checked) >= 2
    for name in checked:
        score = scores[name]
        assert score.ceiling is not None and score.floor is not None, name
        if score.higher_is_better:
            assert score.ceiling > 0 and score.value >= 0.99 * score.ceiling, (name, score)
        else:
            assert score.value <= score.ceiling + 1e-9, (name, score)
        assert score.low <= score.value <= score.high and score.low < score.high, (name, score)
        if cls not in (Captioning, Reconstruct, MME) and score.higher_is_better and name != "edit/psnr":
            assert score.value >= 0.99, name


def scorer_of(benchmark, rows):
    """(i, j) -> what case j's ground truth scores for case i; of pictures, edits and captions."""
    images = [rgb_array(row["image"]) if row["image"] else None for row in rows]
    data = [json.loads(row["data"]) for row in rows]
    if isinstance(benchmark, GenEval):
        finds = [detections(image) for image in images]
        return lambda i, j: geneval_evaluate(data[i], finds[j])[0]
    if isinstance(benchmark, T2I):
        return lambda i, j: benchmark.score(rows[i], images[j])
    if isinstance(benchmark, Editing):
        scenes = [(scene_from_dict(item["source"]), scene_from_dict(item["target"])) for item in data]
        return lambda i, j: not edit_faults(images[j], *scenes[i])
    if isinstance(benchmark, Captioning):
        scenes = [scene_from_dict(item["scene"]) for item in data]
        return lambda i, j: not caption_fault(rows[j]["output"], scenes[i])
    found = [detect(rgb_array(row["target"])) for row in rows]
    return lambda i, j: _share_kept(found[i], found[j], SIDE_PX, True)


@pytest.mark.parametrize(
    ("cls", "prefix", "whole"),
    [
        (GenEval, "geneval/", None),
        (T2I, "t2i/", None),
        (Editing, "edit/", "edit/success"),
        (Captioning, "no task/", "caption/true"),
        (Reconstruct, "no task/", "reconstruct/objects_kept"),
    ],
)
def test_pictures_of_other_cases_score_no_more_than_chance(cls, prefix, whole):
    benchmark, rows, scores = many_of_ground_truth(cls)
    n, score = len(rows), scorer_of(benchmark, rows)
    tasks = np.array([row["task"] for row in rows])

    def shuffle(seed):
        partners = shuffled_within(tasks.tolist(), seed) if cls is T2I else shuffled_partners(n, seed)
        return np.array([float(score(i, j)) for i, j in enumerate(partners)])

    shuffled = shuffle(SEED)
    further = np.stack([shuffle(SEED + k) for k in OTHER_SHUFFLES], axis=1)
    groups = {f"{prefix}{task}": tasks == task for task in dict.fromkeys(tasks.tolist())}
    groups |= {whole: np.ones(n, bool)} if whole else {}
    checked = [name for name in groups if name in scores]
    assert checked
    for name in checked:
        chosen = groups[name]
        # Where hits are rare their spread is hardly seen: as if one case in n were one, at least.
        chance, spread = further[chosen].mean(), max(further[chosen].std(), chosen.sum() ** -0.5)
        error = spread / np.sqrt(chosen.sum())
        assert shuffled[chosen].mean() <= chance + 3 * error, (name, chance)
        assert chance < 0.4, name
        # What the benchmark prints is the best of its floors, the shuffled outputs among them.
        assert scores[name].floor >= shuffled[chosen].mean() - 1e-9, name


def test_an_unedited_source_fails_every_case():
    _, rows, _ = many_of_ground_truth(Editing)
    for kind in EDIT_KINDS:
        unedited = [rgb_array(row["source"]) for row in rows if row["task"] == kind]
        data = [json.loads(row["data"]) for row in rows if row["task"] == kind]
        assert len(unedited) == MANY / len(EDIT_KINDS)
        for image, item in zip(unedited, data, strict=True):
            assert edit_faults(image, scene_from_dict(item["source"]), scene_from_dict(item["target"])), item
    assert not any(json.loads(row["values"])["unchanged"] for row in rows)


@pytest.mark.parametrize("side_px", [16, 32, 64])
def test_unedited_sources_of_moves_fail_by_far(side_px):
    """Each place from each point of the grid, with the object half a pixel of 32 nearer than it is."""
    points = {(item.x, item.y) for k in range(400) for item in sample_scene(np.random.default_rng(k)).objects}
    assert len(points) == 25
    moves = 0
    for x, y in sorted(points):
        item = make_object("circle", "red", "solid", "small")
        source = Scene("grey", (replace(item, x=x, y=y),))
        for where, (to_x, to_y) in PLACE_POINTS.items():
            if max(abs(to_x - x), abs(to_y - y)) < MIN_MOVE:
                continue
            moves += 1
            target = Scene("grey", (replace(item, x=to_x, y=to_y),))
            near = replace(item, x=x + np.sign(to_x - x) / 64, y=y + np.sign(to_y - y) / 64)
            assert edit_faults(render(Scene("grey", (near,)), side_px), source, target), (x, y, where)
            assert not edit_faults(render(target, side_px), source, target), (x, y, where)
    assert moves > 100


@pytest.mark.parametrize("cls", [VQA, POPE, MME])
def test_answers_about_other_pictures_score_no_more_than_chance(cls):
    benchmark, rows, scores = outcome(cls, Other)
    tasks = np.array([row["task"] for row in rows])
    for task in dict.fromkeys(tasks.tolist()):
        mine = [row for row in rows if row["task"] == task]
        answers = Counter(row["expected"] for row in mine)
        chance = answers.most_common(1)[0][1] / len(mine)
        right = np.mean([row["correct"] for row in mine])
        assert right <= chance + 3 * np.sqrt(chance * (1 - chance) / len(mine)), (task, right, chance)
    if cls is MME:
        # Of a coin: half of the answers and a quarter of the pairs; a pair's points have this deviation.
        categories = len(set(tasks.tolist()))
        error = np.sqrt(np.var([0, 50, 50, 200]) / (len(rows) / 2 / categories)) * np.sqrt(categories)
        assert scores["mme/perception"].value <= 75 * categories + 3 * error
    if cls is POPE:
        assert scores["pope/accuracy"].value <= 0.5 + 3 * np.sqrt(0.25 / len(rows))


class Preferring:
    """Finds the option the likeliest that is the answer of a case, or of another one."""

    def __init__(self, partners):
        self.partners = partners

    def encode(self, images):
        return list(range(len(images)))


@pytest.mark.parametrize(
    ("shift", "low", "high"), [(0, 0.99, 1.0), (1, 0.0, 0.25 + 3 * np.sqrt(0.1875 / CASES))]
)
def test_multiple_choice_of_ground_truth_and_of_other_cases(monkeypatch, shift, low, high):
    cases = Choice(CASES, SEED, SIDE_PX).cases()

    def losses(model, codes, question, options):
        if codes == len(cases):  # the grey picture
            return [0.0, 1.0, 2.0, 3.0]
        letter = cases[(codes + shift) % len(cases)]["expected"]
        return [0.0 if option == letter else 1.0 for option in "ABCD"]

    monkeypatch.setattr("ddt.eval.scenes.choice.option_losses", losses)
    _, _, scores = outcome(Choice, Preferring)
    assert low <= scores["choice/accuracy"].value <= high
    assert scores["choice/accuracy"].ceiling == 1 and scores["choice/accuracy"].floor >= 0.25


def test_every_benchmark_is_here():
    assert {cls.name for cls in scenes_benchmarks()} == {
        "reconstruct", "geneval", "t2i", "vqa", "pope", "mme", "choice", "caption", "edit",
    }  # fmt: skip
