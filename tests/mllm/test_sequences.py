"""The templates of the paper, what of them is learned, and the order of codes in both directions."""

from __future__ import annotations

import numpy as np
import pytest

from ddt.mllm import sequences as S
from ddt.mllm.sequences import SequenceBuilder
from ddt.mllm.vocabulary import text_ids
from tests.mllm.mllm_tiny import CODEBOOK_SIZE, NUM_TOKENS

IMAGE = np.array([3, 1, 4, 1])
OTHER = np.array([9, 2, 6, 5])


def spelled(builder, document) -> list:
    """A document as names of special tokens, "v<code>" and decoded text."""
    vocabulary = builder.vocabulary
    names = {
        vocabulary.bos: "[BOS]",
        vocabulary.eos: "[EOS]",
        vocabulary.bov: "[BOV]",
        vocabulary.eov: "[EOV]",
    }
    out: list = []
    for i in document.ids.tolist():
        if i in names:
            out.append(names[i])
        elif i >= vocabulary.text_size:
            out.append(f"v{i - vocabulary.text_size}")
        elif out and isinstance(out[-1], list):
            out[-1].append(i)
        else:
            out.append([i])
    return [builder.tokenizer.decode(part) if isinstance(part, list) else part for part in out]


def learned_ids(document) -> list[int]:
    return document.ids[document.learned].tolist()


def test_pretraining_sequence(builder):
    (document,) = builder.documents([(S.PRETRAIN, {"caption": "a red circle", "image": IMAGE})])
    assert spelled(builder, document) == [
        "[BOS]",
        "a red circle",
        "[BOV]",
        "v3",
        "v1",
        "v4",
        "v1",
        "[EOV]",
        "[EOS]",
    ]
    assert not document.learned[0] and document.learned[1:].all()


def test_text_to_image_sequence(builder):
    (document,) = builder.documents([(S.TEXT_TO_IMAGE, {"caption": "a red circle", "image": IMAGE})])
    asked = "USER: a red circle Please Generate an image. ASSISTANT:"
    answer = ["[BOV]", "v3", "v1", "v4", "v1", "[EOV]", "[EOS]"]
    assert spelled(builder, document) == ["[BOS]", asked, *answer]
    assert document.learned.sum() == len(answer) and document.learned[-len(answer) :].all()


def test_editing_sequence(builder):
    values = {"source": OTHER, "instruction": "make it blue", "image": IMAGE}
    (document,) = builder.documents([(S.EDIT, values)])
    source = ["[BOV]", "v9", "v2", "v6", "v5", "[EOV]"]
    answer = ["[BOV]", "v3", "v1", "v4", "v1", "[EOV]", "[EOS]"]
    asked = "make it blue Please Generate an image. ASSISTANT:"
    assert spelled(builder, document) == ["[BOS]", "USER:", *source, asked, *answer]
    assert document.learned.sum() == len(answer)


def test_answer_sequence(builder):
    values = {"image": IMAGE, "instruction": "How many circles?", "answer": "two"}
    (document,) = builder.documents([(S.ANSWER, values)])
    image = ["[BOV]", "v3", "v1", "v4", "v1", "[EOV]"]
    assert spelled(builder, document) == [
        "[BOS]",
        "USER:",
        *image,
        "How many circles? ASSISTANT: two",
        "[EOS]",
    ]
    (answer,) = text_ids(builder.tokenizer, [" two"])
    assert learned_ids(document) == [*answer, builder.vocabulary.eos]


@pytest.mark.parametrize(
    ("template", "field", "asked"),
    [
        (S.TEXT_TO_IMAGE, "caption", ["[BOS]", "USER: Please Generate an image. ASSISTANT:", "[BOV]"]),
        (S.PRETRAIN, "caption", ["[BOS]", "[BOV]"]),
    ],
)
def test_a_dropped_caption_leaves_no_blank(builder, template, field, asked):
    (document,) = builder.documents([(template, {field: "", "image": IMAGE})])
    assert spelled(builder, document)[: len(asked)] == asked


@pytest.mark.parametrize("template", [S.PRETRAIN, S.TEXT_TO_IMAGE, S.EDIT, S.ANSWER])
def test_a_prompt_is_the_start_of_its_training_sequence(builder, template):
    values = {
        "caption": "two rings",
        "image": IMAGE,
        "source": OTHER,
        "instruction": "move it",
        "answer": "yes",
    }
    (document,) = builder.documents([(template, values)])
    (prompt,) = builder.prompts([(template, values)])
    assert prompt.tolist() == document.ids[: len(prompt)].tolist()
    assert document.learned[len(prompt) :].all()


def test_multi_turn_learns_every_answer(builder):
    template = "[BOS] USER: {q} ASSISTANT: {a} USER: {q} ASSISTANT: [BOV] {image} [EOV] [EOS]"
    (document,) = builder.documents([(template, {"q": "How many?", "a": "two", "image": IMAGE})])
    text = builder.tokenizer.decode([i for i in learned_ids(document) if i < builder.vocabulary.text_size])
    assert text.startswith(" two") and "USER" not in text and "How" not in text


def test_reversed_order_is_applied_both_ways(tokenizer, vocabulary, builder):
    flipped = SequenceBuilder(tokenizer, vocabulary, NUM_TOKENS, "V_T..V_1")
    example = [(S.PRETRAIN, {"caption": "", "image": IMAGE})]
    (forward,), (backward,) = builder.documents(example), flipped.documents(example)
    assert forward.ids[2:6].tolist() == backward.ids[2:6].tolist()[::-1]
    for each, document in ((builder, forward), (flipped, backward)):
        assert each.codes(document.ids[2:6]).tolist() == IMAGE.tolist()


def test_wrong_codes_are_refused(builder, tokenizer, vocabulary):
    for image in (np.array([0, 1, 2]), np.array([0, 1, 2, CODEBOOK_SIZE])):
        with pytest.raises(ValueError, match="image: expected 4 codes from 0 to 31"):
            builder.documents([(S.PRETRAIN, {"caption": "", "image": image})])
    with pytest.raises(ValueError, match="token_order = 'sideways'"):
        SequenceBuilder(tokenizer, vocabulary, NUM_TOKENS, "sideways")
