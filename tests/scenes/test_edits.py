"""Editing pairs: the target follows from the instruction, and nothing else changes, to the pixel."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

from ddt.scenes import render, sample_scene
from ddt.scenes.edits import EDIT_KINDS, MIN_MOVE, PLACE_POINTS, edit_scene, sample_edit
from ddt.scenes.world import (
    BACKGROUNDS,
    COLORS,
    EVALUATION_PARTS,
    PLACES,
    SHAPES,
    TRAINING_PARTS,
    Object,
    is_held_out,
    part,
    place,
    place_box,
)


def edits(kind, count=120, **options):
    rng = np.random.default_rng([0, EDIT_KINDS.index(kind)])
    return [sample_edit(rng, kind=kind, **options) for _ in range(count)]


def kept(edit):
    return set(edit.source.objects) & set(edit.target.objects)


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_targets_are_valid_scenes_of_training(kind):
    for edit in edits(kind):
        assert edit.kind == kind and edit.source != edit.target
        assert 1 <= len(edit.target.objects) <= 4
        assert not is_held_out(edit.source) and not is_held_out(edit.target)
        for item in edit.target.objects:
            assert min(item.box) >= 0 and max(item.box) <= 1
        for a, b in combinations(edit.target.objects, 2):
            (x1, y1, x2, y2), (u1, v1, u2, v2) = a.box, b.box
            assert max(u1 - x2, x1 - u2, v1 - y2, y1 - v2) > 0


@pytest.mark.parametrize("parts", [EVALUATION_PARTS, TRAINING_PARTS])
def test_source_and_target_are_of_the_asked_parts(parts):
    for kind in EDIT_KINDS:
        for edit in edits(kind, 20, parts=parts):
            assert part(edit.source) in parts and part(edit.target) in parts


@pytest.mark.parametrize("kind", [kind for kind in EDIT_KINDS if kind != "background"])
def test_pixels_away_from_the_change_stay(kind):
    for edit in edits(kind, 40):
        before, after = render(edit.source, 64), render(edit.target, 64)
        differs = np.abs(before.astype(int) - after).max(axis=2) > 0
        near = np.zeros((64, 64), bool)
        for item in set(edit.source.objects) ^ set(edit.target.objects):
            x1, y1, x2, y2 = (round(value * 64) for value in item.box)
            near[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True
        assert differs.any() and not (differs & ~near).any()


def test_recolor_changes_the_named_group_to_the_named_color():
    for edit in edits("recolor"):
        colors = re.findall("|".join(COLORS), edit.instruction)
        shape = next(name for name in SHAPES if name in edit.instruction)
        old, new = colors
        assert not [o for o in edit.target.objects if o.kind == (old, shape)]
        changed = set(edit.target.objects) - kept(edit)
        assert {o.kind for o in changed} == {(new, shape)}
        several = sum(o.kind == (old, shape) for o in edit.source.objects) > 1
        assert bool(re.search(rf"{shape}e?s\b", edit.instruction)) == several


def test_replace_changes_only_the_shape():
    for edit in edits("replace"):
        pairs = [(a, b) for a, b in zip(edit.source.objects, edit.target.objects, strict=True) if a != b]
        assert pairs
        for before, after in pairs:
            assert before.shape != after.shape and after.shape in edit.instruction
            assert (before.color, before.x, before.y) == (after.color, after.x, after.y)


def test_add_remove_and_move_do_what_they_say():
    for edit in edits("add"):
        (new,) = set(edit.target.objects) - set(edit.source.objects)
        assert f"{new.size} {new.color} {new.shape} at the {place(new)}" in edit.instruction
        assert len(kept(edit)) == len(edit.source.objects)
    for edit in edits("remove"):
        gone = set(edit.source.objects) - set(edit.target.objects)
        assert set(edit.target.objects) < set(edit.source.objects)
        assert all(" ".join(o.kind) in edit.instruction for o in gone)
        assert not [o for o in edit.target.objects if o.kind in {g.kind for g in gone}]
    for edit in edits("move"):
        (new,) = set(edit.target.objects) - set(edit.source.objects)
        (old,) = set(edit.source.objects) - set(edit.target.objects)
        name, where = f"{old.color} {old.shape}", place(new)
        assert edit.instruction in (f"place the {name} at the {where}", f"move the {name} to the {where}")
        assert place(old) != place(new) and max(abs(old.x - new.x), abs(old.y - new.y)) >= MIN_MOVE


def test_no_place_is_named_that_could_be_a_direction():
    instructions = [edit.instruction for edit in edits("move", 400)]
    assert not [text for text in instructions if re.search(r"to the (left|right)$", text)]
    for place_name in PLACES:
        assert any(text.endswith(f" at the {place_name}") for text in instructions), place_name


def test_an_instruction_has_one_target():
    """The target follows from source and instruction: the same words ask for the same of a scene."""
    for kind in EDIT_KINDS:
        again = 0
        for number in range(20):
            scene, told = sample_scene(np.random.default_rng(number)), {}
            for seed in range(30):
                if edit := edit_scene(scene, np.random.default_rng([number, seed]), kind):
                    again += edit.instruction in told
                    assert told.setdefault(edit.instruction, edit.target) == edit.target
        assert again >= 5, kind


def test_places_are_the_cells_that_bear_their_names():
    for name, (x, y) in PLACE_POINTS.items():
        x1, y1, x2, y2 = place_box(name)
        assert x1 < x < x2 and y1 < y < y2
        assert place(Object("circle", "red", "solid", "small", x, y, 0.125)) == name
        assert place(Object("circle", "red", "solid", "small", x1 + 0.01, y2 - 0.01, 0.125)) == name


def test_background_changes_nothing_else():
    for edit in edits("background"):
        assert edit.source.objects == edit.target.objects
        assert edit.target.background in edit.instruction and edit.target.background in BACKGROUNDS


def test_held_out_edits_and_unknown_kind():
    assert all(is_held_out(edit.source) for edit in edits("recolor", 20, held_out=True))
    scene = sample_scene(np.random.default_rng(0))
    with pytest.raises(ValueError, match="kind: got 'rotate', allowed are recolor"):
        edit_scene(scene, np.random.default_rng(0), "rotate")
