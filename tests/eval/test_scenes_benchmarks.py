"""Every scenes benchmark with ground truth as the "model": it must score at least 0.99, shuffles and blind
low.
"""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ddt.eval.benchmark import make_case, make_row, ordered
from ddt.eval.reconstruct import Reconstruct
from ddt.eval.report.pictures import png_bytes
from ddt.eval.scenes.caption import Captioning, caption_fault
from ddt.eval.scenes.choice import Choice
from ddt.eval.scenes.edit import Editing, edit_faults
from ddt.eval.scenes.geneval import TASKS, UNSEEN_TASKS, GenEval
from ddt.eval.scenes.mme import MME
from ddt.eval.scenes.pope import POPE
from ddt.eval.scenes.t2i import CATEGORIES, T2I, UNSEEN
from ddt.eval.scenes.vqa import VQA
from ddt.eval.statistics import shuffled_partners
from ddt.scenes.edits import PLACE_POINTS
from ddt.scenes.render import render
from ddt.scenes.sample import sample_scene
from ddt.scenes.text import short_caption
from ddt.scenes.world import HELD_OUT, RADIUS, Object, Scene, is_held_out, scene_from_dict
from tests.eval.oracle import LosslessTokenizer, Oracle

SIDE_PX = 32


def run(cls, cases=48, seed=7, **settings):
    benchmark = cls(cases, seed, SIDE_PX, **settings)
    return benchmark, benchmark.run(Oracle(benchmark), benchmark.cases(), batch_size=10)


@pytest.fixture(scope="module")
def geneval():
    return run(GenEval, 60)


@pytest.mark.parametrize("cls", [GenEval, T2I, VQA, POPE, MME, Choice, Captioning, Editing, Reconstruct])
def test_cases_are_deterministic_and_plain(cls):
    first, again = cls(24, 3, SIDE_PX).cases(), cls(24, 3, SIDE_PX).cases()
    assert first == again
    assert json.loads(json.dumps(first)) == first
    assert len({case["case_id"] for case in first}) == len(first) >= 24
    assert cls(24, 4, SIDE_PX).cases() != first


def test_geneval_ground_truth_reaches_the_ceiling(geneval):
    benchmark, rows = geneval
    scores = benchmark.summarize(rows)
    for task in (*TASKS, *UNSEEN_TASKS, "overall"):
        score = scores[f"geneval/{task}"]
        assert score.value >= 0.99 and score.ceiling >= 0.99, (
            task,
            [r["reason"] for r in rows if r["reason"]],
        )
        assert score.low <= score.value <= score.high
    assert scores["geneval/overall"].n == 60
    assert scores["geneval/overall"].floor < 0.25


def test_geneval_floor_is_what_other_pictures_score(geneval):
    benchmark, rows = geneval
    only_circles = [row for row in rows if row["task"] == "single_object"]
    score = benchmark.summarize(only_circles)["geneval/single_object"]
    partners = shuffled_partners(len(only_circles), benchmark.seed)
    by_case = ordered(only_circles)
    shapes = [json.loads(row["data"])["include"][0]["class"] for row in by_case]
    expected = np.mean([shapes[i] == shapes[j] for i, j in enumerate(partners)])
    assert score.floor == pytest.approx(expected)


def test_geneval_prompts_have_the_official_form(geneval):
    by_task = {}
    for case in geneval[0].cases():
        by_task.setdefault(case["task"], []).append((case["prompt"], json.loads(case["data"])))
    assert by_task["single_object"][0] == (
        "a photo of a circle",
        {
            "tag": "single_object",
            "include": [{"class": "circle", "count": 1}],
            "prompt": "a photo of a circle",
        },
    )
    for prompt, metadata in by_task["counting"]:
        (wanted,) = metadata["include"]
        assert metadata["exclude"] == [{"class": wanted["class"], "count": wanted["count"] + 1}]
        assert prompt.split()[3] == {2: "two", 3: "three", 4: "four"}[wanted["count"]]
    for prompt, metadata in by_task["position"]:
        target, placed = metadata["include"]
        relation, index = placed["position"]
        assert index == 0 and prompt.endswith(f" {relation} a {target['class']}")
        assert prompt.startswith(f"a photo of a {placed['class']} ")
    for task in ("colors", "color_attr"):
        kinds = {(e["color"], e["class"]) for _, m in by_task[task] for e in m["include"]}
        assert not kinds & HELD_OUT
        for _, metadata in by_task[task + "_unseen"]:
            assert {(e["color"], e["class"]) for e in metadata["include"]} & HELD_OUT


def test_a_row_does_not_depend_on_its_batch():
    benchmark = GenEval(12, 5, SIDE_PX)
    cases, oracle = benchmark.cases(), Oracle(benchmark)
    together = benchmark.run(oracle, cases, batch_size=len(cases))
    alone = benchmark.run(oracle, cases[::-1], batch_size=1)
    assert ordered(alone) == together


def test_wrong_pictures_fail_with_the_scorers_reason():
    benchmark = GenEval(6, 5, SIDE_PX)

    class Blank:
        image_tokenizer = LosslessTokenizer()

        def generate_image(self, prompts, seed, num_steps=None):
            return [Image.new("RGB", (SIDE_PX, SIDE_PX), (146, 148, 152))] * len(prompts)

    rows = benchmark.run(Blank(), benchmark.cases(), 4)
    assert not any(row["correct"] for row in rows)
    assert rows[0]["reason"] == "expected circle>=1, found 0"
    assert benchmark.summarize(rows)["geneval/overall"].value == 0


def test_vqa():
    benchmark, rows = run(VQA, 84)
    scores = benchmark.summarize(rows)
    assert scores["vqa/accuracy"].value == scores["vqa/accuracy"].ceiling == 1
    # "yes" about the grey picture is right for about half of the yes/no questions, a third or so of all
    assert 0.2 < scores["vqa/accuracy"].floor < 0.8
    for kind in ("existence", "color", "shape", "count", "position", "background", "comparison"):
        assert scores[f"vqa/{kind}"].n == 12
    assert scores["vqa/accuracy_unseen"].n + scores["vqa/accuracy_seen"].n == 84
    for row in rows:
        scene = scene_from_dict(json.loads(row["data"])["scene"])
        assert is_held_out(scene) == row["unseen"]


def test_vqa_wrong_answer_is_explained():
    benchmark = VQA(7, 1, SIDE_PX)
    (row,) = benchmark.cases()[:1]
    scored = benchmark._row(row, np.zeros((32, 32, 3), np.uint8), "maybe", "yes")
    assert scored["correct"] == 0 and scored["reason"] == f"expected {row['expected']!r}, answered 'maybe'"


def test_pope_is_balanced_and_its_absent_objects_are_absent():
    benchmark, rows = run(POPE, 60)
    scores = benchmark.summarize(rows)
    assert scores["pope/f1"].value == 1 and scores["pope/accuracy"].value == 1
    assert scores["pope/f1"].floor == pytest.approx(2 / 3)  # always yes
    assert scores["pope/yes_ratio"].value == 0.5
    for row in rows:
        color, shape = row["prompt"].split(" in the image?")[0].split()[-2:]
        scene = scene_from_dict(json.loads(row["data"])["scene"])
        there = (color, shape) in {item.kind for item in scene.objects}
        assert there == (row["expected"] == "yes")
        if row["task"] == "adversarial" and not there:
            assert any((color == o.color) != (shape == o.shape) for o in scene.objects)


def test_mme_pairs():
    benchmark, rows = run(MME, 80)
    scores = benchmark.summarize(rows)
    assert scores["mme/perception"].value == scores["mme/perception"].ceiling == 800
    assert scores["mme/perception"].floor == 200  # always yes: half of the answers, no pair whole
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert (one["expected"], other["expected"]) == ("yes", "no")
        assert one["data"] == other["data"]
    seen, unseen = (scores[f"mme/perception_{part}"] for part in ("seen", "unseen"))
    assert seen.value == unseen.value == 800 and seen.n + unseen.n == 80
    for row in rows:
        assert is_held_out(scene_from_dict(json.loads(row["data"])["scene"])) == row["unseen"]
    some_wrong = [row | {"output": "no", "correct": float(row["expected"] == "no")} for row in rows]
    assert benchmark.summarize(some_wrong)["mme/perception"].value == 200


def test_t2i_ground_truth_reaches_the_ceiling():
    benchmark, rows = run(T2I, 48)
    scores = benchmark.summarize(rows)
    for category in (*CATEGORIES, UNSEEN):
        score = scores[f"t2i/{category}"]
        assert score.value == score.ceiling >= 0.99, category
        assert score.floor < 0.4
    prompts = [row["prompt"] for row in rows if row["task"] == "spatial"]
    assert prompts[0].count(" on the left of a ") == 1


def test_t2i_tells_held_out_combinations_apart():
    for case in T2I(160, 7, SIDE_PX).cases():
        groups = json.loads(case["data"])["groups"]
        held_out = [(group.get("color"), group["shape"]) in HELD_OUT for group in groups]
        assert sum(held_out) == case["unseen"] == (case["task"] == UNSEEN), case["prompt"]
    assert [case["task"] for case in T2I(160, 7, SIDE_PX).cases()].count(UNSEEN) == 20


def test_multiple_choice_options():
    for case in Choice(30, 3, SIDE_PX).cases():
        options = json.loads(case["data"])["options"]
        assert len(set(options)) == 4
        scene = scene_from_dict(json.loads(case["data"])["scene"])
        right = options["ABCD".index(case["expected"])]
        if case["task"] == "background":
            assert right == scene.background


def test_captioning():
    benchmark, rows = run(Captioning, 60)
    scores = benchmark.summarize(rows)
    assert scores["caption/true"].value == 1
    assert scores["caption/true"].floor < 0.2
    assert scores["caption/cider"].value == pytest.approx(scores["caption/cider"].ceiling)
    assert scores["caption/cider"].floor < 0.3 * scores["caption/cider"].value


def test_every_native_caption_of_the_world_is_found_true():
    for index in range(300):
        rng = np.random.default_rng(index)
        scene = sample_scene(rng, held_out=bool(index % 2))
        caption = short_caption(scene, rng)
        assert caption_fault(caption, scene) == "", (caption, scene)


def test_false_captions_are_found_false():
    circle = Object("circle", "red", "solid", "large", 0.25, 0.5, 0.18)
    square = Object("square", "blue", "solid", "small", 0.75, 0.5, 0.12)
    scene = Scene("grey", (circle, square))
    assert caption_fault("a red circle left of a blue square on a grey background", scene) == ""
    assert "1" in caption_fault("two red circles and a blue square", scene)
    assert "0" in caption_fault("a red circle and a green square", scene)
    assert "right of" in caption_fault("a red circle right of a blue square", scene)
    assert "background is grey" in caption_fault("a red circle and a square on a cyan background", scene)
    assert caption_fault("a red circle", scene) == "1 objects unmentioned"
    assert caption_fault("a nice picture", scene) == "names no object"


def test_editing():
    benchmark, rows = run(Editing, 48)
    scores = benchmark.summarize(rows)
    assert scores["edit/success"].value >= 0.99 and scores["edit/success"].ceiling >= 0.99
    assert scores["edit/success"].floor <= 0.05
    assert scores["edit/l1"].value == 0 and scores["edit/l1"].floor > 0.01
    assert not scores["edit/l1"].higher_is_better
    assert {row["task"] for row in rows} == {"recolor", "replace", "add", "remove", "move", "background"}


def test_an_unchanged_picture_is_no_edit():
    benchmark = Editing(12, 2, SIDE_PX)

    class Lazy:
        image_tokenizer = LosslessTokenizer()

        def edit_image(self, images, instructions, seed, num_steps=None):
            return images

    rows = benchmark.run(Lazy(), benchmark.cases(), 6)
    scores = benchmark.summarize(rows)
    assert scores["edit/success"].value == 0
    assert scores["edit/l1"].value == pytest.approx(scores["edit/l1"].floor)
    assert all(row["reason"] for row in rows)


def asked(objects, place_name, size="small", kind="add"):
    """A scene of one red circle at the left, and it after a blue square was added, or the circle moved."""
    circle = Object("circle", "red", "solid", "small", 0.25, 0.5, RADIUS["small"])
    x, y = PLACE_POINTS[place_name]
    new = dataclasses.replace(circle, x=x, y=y)
    if kind == "add":
        new = Object("square", "blue", "solid", size, x, y, RADIUS[size])
    source = Scene("grey", (circle,))
    target = Scene("grey", (circle, new) if kind == "add" else (new,))
    return edit_faults(render(Scene("grey", tuple(objects)), SIDE_PX), source, target)


def test_an_edit_is_asked_for_no_more_and_no_less_than_its_instruction_says():
    def circle(x, y, size="small"):
        return Object("circle", "red", "solid", size, x, y, RADIUS[size])

    def square(x, y, size="small"):
        return Object("square", "blue", "solid", size, x, y, RADIUS[size])

    there = circle(0.25, 0.5)
    # anywhere at the top that the captions call so, and nowhere else
    for x in (0.375, 0.5, 0.625):
        assert not asked([there, square(x, 0.25)], "top"), x
    assert asked([there, square(0.75, 0.25)], "top") == ["small blue square is not at its place"]
    assert asked([there, square(0.5, 0.375)], "top")
    # of the size that was told, where one was
    assert asked([there, square(0.5, 0.25, "large")], "top") == ["small blue square is not at its place"]
    assert not asked([there, square(0.5, 0.25, "large")], "top", "large")
    assert not asked([circle(0.75, 0.5, "large")], "right", kind="move")
    # what was not to change stays where it is
    assert asked([circle(0.375, 0.5), square(0.5, 0.25)], "top") == ["red circle is not at its place"]
    # half of the way is not there
    assert not asked([circle(0.75, 0.5)], "right", kind="move")
    assert asked([circle(0.625, 0.5)], "right", kind="move") == ["red circle is not at its place"]


def test_reconstruction():
    benchmark, rows = run(Reconstruct, 20)
    scores = benchmark.summarize(rows)
    assert scores["reconstruct/psnr"].value == 60 and scores["reconstruct/ssim"].value == pytest.approx(1)
    assert 8 < scores["reconstruct/psnr"].floor < 25
    assert scores["reconstruct/psnr"].floor_is in ("the mean picture", "other reconstructions")
    for name in ("objects_placed", "objects_kept"):
        assert scores[f"reconstruct/{name}"].value == 1.0
        assert scores[f"reconstruct/{name}"].floor < 0.3


def test_objects_that_change_shape_are_placed_but_not_kept():
    benchmark, rows = run(Reconstruct, 2)
    objects = [
        Object("circle", "red", "solid", "large", 0.3, 0.3, 0.19),
        Object("square", "blue", "solid", "large", 0.7, 0.7, 0.19),
    ]
    changed = [objects[0], dataclasses.replace(objects[1], shape="triangle")]
    gone = [dataclasses.replace(objects[0], color="green")]
    target = png_bytes(render(Scene("grey", tuple(objects)), 32))
    for row, result in zip(rows, (changed, gone), strict=True):
        row["target"], row["image"] = target, png_bytes(render(Scene("grey", tuple(result)), 32))
    scores = benchmark.summarize(rows)
    assert scores["reconstruct/objects_placed"].value == pytest.approx((1.0 + 0.0) / 2)
    assert scores["reconstruct/objects_kept"].value == pytest.approx((0.5 + 0.0) / 2)


def test_reconstruction_of_photographs():
    rng = np.random.default_rng(0)
    photos = []
    for size in ((40, 30), (32, 64)):
        import io

        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(buffer, "PNG")
        photos.append(buffer.getvalue())
    benchmark, rows = run(Reconstruct, 20, photos=photos)
    assert [row["task"] for row in rows] == ["photo", "photo"]
    scores = benchmark.summarize(rows)
    assert scores["reconstruct/psnr"].value == 60
    assert "reconstruct/objects_kept" not in scores  # photographs have no known objects


def test_a_case_twice_is_refused():
    row = make_row(make_case("x", 0, "t", "p", "e", None, 0))
    with pytest.raises(ValueError, match="x-00000 occurs twice"):
        ordered([row, row])
    with pytest.raises(ValueError, match="no rows"):
        ordered([])
