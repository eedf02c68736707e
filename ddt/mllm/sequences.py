"""The training and prompt sequences of the paper (section 4 and appendix), from one set of templates.

T image tokens, K codebook size. In a template, [NAME] is a special token ([CLASS] that of the example's
class), a {field} between [BOV] and [EOV] is an image's codes, everything else is text. Blanks beside a
special token only separate and make no token.
The order in which the codes of an image are read is applied here and nowhere else, in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from transformers import PreTrainedTokenizerBase

from ddt.mllm.vocabulary import Vocabulary, text_ids

PRETRAIN = "[BOS] {caption} [BOV] {image} [EOV] [EOS]"
# Not in the paper, whose pairs have the caption first. The picture is one without a caption, then read.
IMAGE_FIRST = "[BOS] [BOV] {image} [EOV] {caption} [EOS]"
TEXT_ONLY = "[BOS] {text} [EOS]"
TEXT_TO_IMAGE = "[BOS] USER: {caption} Please Generate an image. ASSISTANT: [BOV] {image} [EOV] [EOS]"
EDIT = (
    "[BOS] USER: [BOV] {source} [EOV] {instruction} Please Generate an image. "
    "ASSISTANT: [BOV] {image} [EOV] [EOS]"
)
CLASS_TO_IMAGE = "[BOS] [CLASS] [BOV] {image} [EOV] [EOS]"  # Table 4: a token for the class, no text
# The paper writes `USER: <Instructions> ASSISTANT: <Answers>`; the picture stands where editing puts it.
ANSWER = "[BOS] USER: [BOV] {image} [EOV] {instruction} ASSISTANT: {answer} [EOS]"
# What a picture is drawn for, the field that guidance leaves empty.
CONDITION = {TEXT_TO_IMAGE: "caption", EDIT: "instruction", CLASS_TO_IMAGE: "class"}

ASSISTANT = "ASSISTANT:"
TokenOrder = Literal["V_1..V_T", "V_T..V_1"]
Value = str | np.ndarray
Example = tuple[str, Mapping[str, Value]]  # a template and its values
_PIECE = re.compile(r"\[(?:BOS|EOS|BOV|EOV|CLASS)\]|[^\[]+")
_GIVEN = ("[BOS]", "[CLASS]")  # never learned: nothing before them tells what they are


@dataclass(frozen=True)
class Piece:
    """A run of a template: a special token, an image field or a text with fields."""

    kind: Literal["special", "class", "image", "text"]
    content: str
    learned: bool


@dataclass(frozen=True)
class Document:
    """One sequence of ids. `learned[i]`: predicting ids[i] is part of the loss."""

    ids: np.ndarray
    learned: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@lru_cache(maxsize=256)
def parse(template: str) -> tuple[Piece, ...]:
    """A template as pieces. Where there is an ASSISTANT, only what it says is learned; else all but [BOS]."""
    whole = ASSISTANT not in template
    learned, inside_image = whole, False
    pieces: list[Piece] = []
    for found in _PIECE.findall(template):
        if found.startswith("["):
            kind: Literal["class", "special"] = "class" if found == "[CLASS]" else "special"
            pieces.append(Piece(kind, found, learned and found not in _GIVEN))
            inside_image = found == "[BOV]"
        elif inside_image and found.strip():
            pieces.append(Piece("image", found.strip().removeprefix("{").removesuffix("}"), learned))
        elif found.strip():
            learned = _parse_text(found.strip(), learned, whole, pieces)
    return tuple(pieces)


def _parse_text(text: str, learned: bool, whole: bool, pieces: list[Piece]) -> bool:
    """Appends a text, cut after ASSISTANT: and before USER:; returns whether it ends in an answer."""
    for part in re.split(r"(?<=ASSISTANT:) (?=\S)| (?=USER:)", text):
        if part.startswith("USER:"):
            learned = whole
        # An answer keeps its blank: prompt and answer are tokenized apart, in training as in use.
        follows = bool(pieces) and pieces[-1].kind == "text" and pieces[-1].content.endswith(ASSISTANT)
        pieces.append(Piece("text", " " + part if follows else part, learned))
        if part.endswith(ASSISTANT):
            learned = True
    return learned


def fill(text: str, values: Mapping[str, Value]) -> str:
    """A text piece with its fields filled in; an empty field takes its blank with it."""
    lead = " " if text.startswith(" ") else ""
    words = [word.format(**values) if "{" in word else word for word in text.split()]
    return lead + " ".join(word for word in words if word)


def ordered(codes: np.ndarray, token_order: TokenOrder) -> np.ndarray:
    """Codes [..., T] from V_1..V_T to the order in which the model reads them, or back: its own inverse."""
    return codes[..., ::-1] if token_order == "V_T..V_1" else codes


class SequenceBuilder:
    """Turns templates and their values into ids, and generated ids back into codes."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
        num_tokens: int,
        token_order: TokenOrder,
        classes: Sequence[str] = (),
    ) -> None:
        """`classes` are the names of the vocabulary's class tokens, in their order."""
        if token_order not in get_args(TokenOrder):
            allowed = " or ".join(get_args(TokenOrder))
            raise ValueError(f"token_order = {token_order!r}: expected {allowed}")
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.num_tokens, self.token_order = num_tokens, token_order
        assert len(classes) == vocabulary.num_classes
        self.classes = {name: vocabulary.first_class + i for i, name in enumerate(classes)}
        self._special = {
            "[BOS]": vocabulary.bos,
            "[EOS]": vocabulary.eos,
            "[BOV]": vocabulary.bov,
            "[EOV]": vocabulary.eov,
        }

    def documents(self, examples: Sequence[Example]) -> list[Document]:
        """Each (template, values) as a document. Texts are str, images int [T] codes V_1..V_T.

        Raises ValueError for an image that is not T codes below K, or a class without a token.
        """
        encoded = self._encode([(parse(template), values) for template, values in examples])
        return [
            Document(np.concatenate(ids), np.repeat(learned, [len(part) for part in ids]))
            for ids, learned in encoded
        ]

    def prompts(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Each (template, values) up to where the model goes on: before its text, or after its [BOV]."""
        return [np.concatenate(ids) for ids, _ in self._encode([(_prompt(parse(t)), v) for t, v in examples])]

    def codes(self, ids: np.ndarray) -> np.ndarray:
        """Visual ids [..., T] as the model wrote them -> int64 codes V_1..V_T."""
        codes = np.asarray(ids, dtype=np.int64) - self.vocabulary.text_size
        return np.ascontiguousarray(ordered(codes, self.token_order))

    def _encode(
        self, examples: Sequence[tuple[tuple[Piece, ...], Mapping[str, Value]]]
    ) -> list[tuple[list[np.ndarray], list[bool]]]:
        # All texts of the batch go through the tokenizer in one call: its cost is mostly per call.
        texts = [fill(p.content, values) for pieces, values in examples for p in pieces if p.kind == "text"]
        encoded = iter(text_ids(self.tokenizer, texts))
        documents = []
        for pieces, values in examples:
            ids = [self._piece_ids(p, values, next(encoded) if p.kind == "text" else []) for p in pieces]
            documents.append((ids, [p.learned for p in pieces]))
        return documents

    def _piece_ids(self, piece: Piece, values: Mapping[str, Value], encoded: list[int]) -> np.ndarray:
        if piece.kind == "special":
            return np.array([self._special[piece.content]], dtype=np.int64)
        if piece.kind == "text":
            return np.asarray(encoded, dtype=np.int64)
        if piece.kind == "class":
            return self._class_ids(values["class"])
        codes = np.asarray(values[piece.content])
        size = self.vocabulary.codebook_size
        if codes.shape != (self.num_tokens,) or codes.min() < 0 or codes.max() >= size:
            raise ValueError(
                f"{piece.content}: expected {self.num_tokens} codes from 0 to {size - 1}, got shape "
                f"{codes.shape} with values from {codes.min()} to {codes.max()}"
            )
        return ordered(codes.astype(np.int64), self.token_order) + self.vocabulary.text_size

    def _class_ids(self, name: Value) -> np.ndarray:
        """The class's token, none for the empty name that guidance and dropped conditions have."""
        if isinstance(name, str) and not name:
            return np.zeros(0, dtype=np.int64)
        if name not in self.classes:
            if not self.classes:
                raise ValueError(f"class {name!r}: the model was trained on prompts and has no classes")
            some = ", ".join(list(self.classes)[:5])
            raise ValueError(f"class {name!r}: not among the model's {len(self.classes)} ({some} ...)")
        return np.array([self.classes[str(name)]], dtype=np.int64)


@lru_cache(maxsize=256)
def _prompt(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """The leading pieces that a user gives: up to the [BOV] of the picture asked for, or up to the answer."""
    images = [i for i, piece in enumerate(pieces) if piece.kind == "image" and piece.learned]
    if images:
        return pieces[: images[0]]
    answers = [i for i, piece in enumerate(pieces) if piece.learned and piece.kind == "text"]
    return pieces[: answers[0]]
