"""Conversations of several turns and several images as one sequence.

Each turn follows the paper's `USER: <Instructions> ASSISTANT: <Answers>` (section 4); a picture stands where
the turn has `<image>`, in a question as input, in an answer as something to draw. n images, T image tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ddt.mllm.sequences import Document, Example, Value
from ddt.mllm.vocabulary import Vocabulary

IMAGE = "<image>"
SPEAKER = {"user": "USER:", "assistant": "ASSISTANT:"}


def conversation(turns: Sequence[Mapping[str, str]], codes_nT: np.ndarray) -> Example:
    """A template for these turns (role and text), and its values. Every answer ends in [EOS] and is learned.

    The paper shows one turn; one [EOS] a turn is ours: in use each answer has to end.
    Raises ValueError for a conversation without an answer, or with another number of images than marks.
    """
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError(f"a conversation of {len(turns)} turns without a last answer")
    return _template(turns, codes_nT)


def question_turns(questions: Sequence[Mapping[str, str]], form: str, codes_T: np.ndarray) -> Example:
    """A conversation of all these questions about one image; the first is put as a question alone is.

    `form` is how each is put, with `{question}` where it stands.
    """
    template, values = "[BOS] USER: [BOV] {image} [EOV]", dict[str, Value](image=codes_T)
    for turn, asked in enumerate(questions):
        speaker = f" {SPEAKER['user']}" if turn else ""
        template += f"{speaker} {{question{turn}}} {SPEAKER['assistant']} {{answer{turn}}} [EOS]"
        values[f"question{turn}"] = form.replace("{question}", asked["question"])
        values[f"answer{turn}"] = asked["answer"]
    return template, values


def conversation_prompt(turns: Sequence[Mapping[str, str]], codes_nT: np.ndarray) -> Example:
    """The same for turns that end in a question: up to where the answer begins."""
    template, values = _template(turns, codes_nT)
    return f"{template} {SPEAKER['assistant']}", values


def _template(turns: Sequence[Mapping[str, str]], codes_nT: np.ndarray) -> Example:
    words, marks = ["[BOS]"], 0
    values: dict[str, Value] = {}
    for number, turn in enumerate(turns):
        words.append(SPEAKER[turn["role"]])
        for part, text in enumerate(turn["text"].split(IMAGE)):
            if part:
                words.append(f"[BOV] {{image{marks}}} [EOV]")
                marks += 1
            if text.strip():
                name = f"turn{number}_{part}"
                words.append(f"{{{name}}}")
                values[name] = text.strip()
        if turn["role"] == "assistant":
            words.append("[EOS]")
    if marks != len(codes_nT):
        raise ValueError(f"a conversation with {marks} {IMAGE} marks for {len(codes_nT)} images")
    values |= {f"image{i}": codes for i, codes in enumerate(codes_nT)}
    return " ".join(words), values


def cut(document: Document, length: int, vocabulary: Vocabulary) -> Document | None:
    """The part of `document` that fits `length` tokens: text is cut anywhere, conversations after an answer.

    Never an image: one without its end would teach a wrong number of tokens. None where that leaves nothing.
    """
    if len(document) <= length:
        return document
    images = np.flatnonzero(document.ids == vocabulary.eov)
    answers = np.flatnonzero(document.ids[:length] == vocabulary.eos)
    if not len(images) or images[-1] < length:
        end = length
    elif len(answers):
        end = int(answers[-1]) + 1
    else:
        return None
    return Document(document.ids[:end], document.learned[:end])
