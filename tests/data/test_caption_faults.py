"""Faults of generated captions: none in true ones, each kind where it is."""

import numpy as np
import pytest

from ddt.data.caption_faults import FAULTS, Answer, fault
from ddt.scenes.sample import sample_scene
from ddt.scenes.text import long_caption

SOUND = [
    "A dog, a very very very big dog, lies on a red sofa.",
    "Two signs. One reads: I'm sorry, we are closed. The other one reads: open.",
    "A red circle and a red circle stand on a white ground.",
    "Rows of houses: the first house is blue, the second house is white, the third house is blue again.",
    "I see a cat",
    "sorry-looking dog in the rain",
]
FAULTY = {
    "empty": ["", " ", "...", "1 2 3"],
    "refusal": [
        "I'm sorry, but I can't describe this image.",
        "I’m sorry, I cannot help with that.",
        "Sorry, I can't assist with identifying people in pictures.",
        "I am unable to view images.",
        "As an AI language model, I do not see pictures.",
        "Unfortunately, I cannot see the picture.",
        '"I apologize, but there is no image."',
        "I don't have the ability to see images.",
    ],
    "loop": [
        "A dog dog dog dog dog on a sofa.",
        "The image shows a table. " + "On the table there is a cup. " * 3,
        "1. a red cup 2. a red cup 3. A red cup, 4. a red cup",
        "well " + "the man is holding a bag and the woman is holding a dog while " * 4,
    ],
}


@pytest.mark.parametrize("text", SOUND)
def test_sound_captions_pass(text: str) -> None:
    assert fault(Answer(text, ended=True)) is None
    assert fault(Answer(text, ended=False)) == "truncated"


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in FAULTY for text in FAULTY[name]])
def test_faults_are_named(name: str, text: str) -> None:
    assert name in FAULTS
    assert fault(Answer(text, ended=True)) == name
    assert fault(Answer(text, ended=False)) == name, "what it says comes before that it does not end"


def test_true_captions_of_scenes_have_none() -> None:
    rng = np.random.default_rng(1)
    captions = [long_caption(sample_scene(rng), rng) for _ in range(500)]
    assert [text for text in captions if fault(Answer(text, ended=True))] == []
