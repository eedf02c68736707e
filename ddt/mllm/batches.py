"""Global batches of packed training sequences, each a function of (seed, step) alone.

Step s takes samples s*N .. (s+1)*N - 1; what a sample is, which caption it gets and whether that is dropped
follow from its number. So one integer is the whole state, and any number of workers sees the same batches.
Sources and tasks take turns by their weights, and each goes through its own data again and again, every row
once a pass, in an order of its own each time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddt.config import Fraction
from ddt.data.order import blended, hashed, shuffled, uniform
from ddt.data.text import TextSource
from ddt.data.tokens import TokenDataset
from ddt.mllm import sequences as S
from ddt.mllm.config import TASKS
from ddt.mllm.conversations import conversation, cut, question_turns
from ddt.mllm.instructions import LONG_CAPTION, QUESTION, SHORT_CAPTION
from ddt.mllm.packing import PackedBatch, pack, slice_rows
from ddt.mllm.sequences import Example, SequenceBuilder

logger = logging.getLogger(__name__)

Draw = tuple[Any, ...]
# Samples, of one step or of several: drawn for one step of 32 alone, they took a third of the time that a
# batch takes, most of it per call.
DRAWN_AT_ONCE = 1024


@dataclass(frozen=True)
class PretrainMix:
    """What pre-training draws; the defaults are the paper's. A caption that is not long is the native one.

    `image_first_rate` is the share of pairs whose caption follows the picture (the paper's: none).
    """

    long_caption_rate: Fraction = 0.6
    caption_drop_rate: Fraction = 0.1
    text_rate: Fraction = 0.1
    image_first_rate: Fraction = 0.0


@dataclass(frozen=True)
class FinetuneMix:
    """What instruction tuning draws: weights of the tasks, and how often a prompt is dropped for guidance."""

    weights: dict[str, float]
    caption_drop_rate: Fraction = 0.1
    long_caption_rate: Fraction = 0.6

    def __post_init__(self) -> None:
        for task, weight in self.weights.items():
            if weight < 0:
                raise ValueError(f"mix.{task} = {weight}: expected a number >= 0")
        if sum(self.weights.values()) <= 0:
            raise ValueError(f"mix = {self.weights}: expected a positive weight for at least one task")


class PackedBatches:
    """Batches for `ddt.train.fit`: subclasses say what is drawn for each sample, and what that makes it."""

    def __init__(self, builder: SequenceBuilder, samples_per_step: int, row_length: int, seed: int) -> None:
        self.builder, self.seed = builder, seed
        self.samples_per_step, self.row_length = samples_per_step, row_length
        self._steps_drawn = max(1, DRAWN_AT_ONCE // samples_per_step)
        self._block, self._drawn = -1, list[Draw]()

    def draws(self, numbers: np.ndarray) -> list[Draw]:
        """The arguments of `example` for each sample number."""
        raise NotImplementedError

    def example(self, *draw: Any) -> Example:
        raise NotImplementedError

    def examples(self, numbers: np.ndarray) -> list[Example]:
        """What each sample number is."""
        return [self.example(*draw) for draw in self.draws(numbers)]

    def _examples_of(self, step: int) -> list[Example]:
        """The samples of a step; what is drawn for them is drawn with that of the steps beside it."""
        block, place = divmod(step, self._steps_drawn)
        size = self.samples_per_step
        if block != self._block:
            first = block * self._steps_drawn * size
            numbers = np.arange(first, first + self._steps_drawn * size)
            self._block, self._drawn = block, self.draws(numbers)
        return [self.example(*draw) for draw in self._drawn[place * size : (place + 1) * size]]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> PackedBatch:
        """The rows of `rank` in the global batch of `step`. Too long texts are cut to fit a row.

        What can't be cut is left out with a warning: one endless conversation does not end a training.
        Raises ValueError where that is all of a batch.
        """
        documents = self.builder.documents(self._examples_of(step))
        short = [cut(document, self.row_length, self.builder.vocabulary) for document in documents]
        fitting = [document for document in short if document is not None]
        if len(fitting) < len(documents):
            longest = max(map(len, documents))
            if not fitting:
                raise ValueError(
                    f"a sequence of {longest} tokens, like all of batch {step}, "
                    f"does not fit row_length = {self.row_length}"
                )
            left_out = len(documents) - len(fitting)
            logger.warning(
                "batch %d: %d of %d sequences left out, the longest of %d does not fit row_length = %d",
                step, left_out, len(documents), longest, self.row_length,
            )  # fmt: skip
        whole = pack(fitting, self.row_length, self.builder.vocabulary.pad, multiple=world)
        return slice_rows(whole, rank, world)


class PretrainBatches(PackedBatches):
    """Image-text pairs `[BOS] caption [BOV] V_1..V_T [EOV] [EOS]` and, where `texts` is given, text alone.

    A share of the pairs has the picture first, and then always a caption. Of a class-conditional model the
    native caption is the class, and its token takes the caption's place.
    """

    def __init__(
        self,
        pairs: TokenDataset,
        texts: TextSource | None,
        builder: SequenceBuilder,
        mix: PretrainMix,
        samples_per_step: int,
        row_length: int,
        seed: int,
    ) -> None:
        super().__init__(builder, samples_per_step, row_length, seed)
        if mix.text_rate > 0 and texts is None:
            raise ValueError(f"text_rate = {mix.text_rate}: there is no text; expected 0 or a text source")
        self.pairs, self.texts, self.mix = pairs, texts, mix

    def draws(self, numbers: np.ndarray) -> list[Draw]:
        text_rate = 0.0 if self.texts is None else self.mix.text_rate
        source, places = blended((text_rate, 1 - text_rate), numbers)
        rows = self.pairs.shuffled(self.seed, "pairs", places)
        if self.texts is not None:
            rows = np.where(source == 0, shuffled(self.seed, "texts", places, len(self.texts)), rows)
        columns = caption_columns(self.seed, numbers, self.mix.long_caption_rate)
        dropped = uniform(self.seed, "drop", numbers) < self.mix.caption_drop_rate
        first = uniform(self.seed, "image first", numbers) < self.mix.image_first_rate
        drawn = ((source == 0).tolist(), rows.tolist(), columns, dropped.tolist(), first.tolist())
        return list(zip(*drawn, strict=True))

    def example(  # type: ignore[override]
        self, is_text: bool, row: int, column: str, dropped: bool, image_first: bool
    ) -> Example:
        """A text or a pair, whichever of its kind the row is."""
        if is_text and self.texts is not None:
            return S.TEXT_ONLY, {"text": self.texts[row]}
        if self.builder.vocabulary.num_classes:
            return class_example(self.pairs, row, dropped)
        caption = pair_caption(self.pairs, column, row)
        if image_first:
            return S.IMAGE_FIRST, {"caption": caption, "image": self.pairs.codes(row)}
        return S.PRETRAIN, {"caption": "" if dropped else caption, "image": self.pairs.codes(row)}


class FinetuneBatches(PackedBatches):
    """The tasks of instruction tuning, each with its own endless, reshuffled passes over its data."""

    def __init__(
        self,
        pairs: TokenDataset,
        edits: TokenDataset | None,
        builder: SequenceBuilder,
        mix: FinetuneMix,
        samples_per_step: int,
        row_length: int,
        seed: int,
        chats: TokenDataset | None = None,
    ) -> None:
        super().__init__(builder, samples_per_step, row_length, seed)
        has_data = {"edit": edits is not None, "vqa": pairs.num_asked > 0, "chat": chats is not None}
        for task, what in (("edit", "edits"), ("vqa", "questions"), ("chat", "conversations")):
            if mix.weights.get(task) and not has_data[task]:
                raise ValueError(f"mix.{task} = {mix.weights[task]}: there are no {what} in the data")
        self.pairs, self.edits, self.chats = pairs, edits, chats
        self.mix = mix

    def tasks(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The task of each sample number, an index into TASKS, and how many before it had the same."""
        return blended([self.mix.weights.get(task, 0.0) for task in TASKS], numbers)

    def draws(self, numbers: np.ndarray) -> list[Draw]:
        tasks, places = self.tasks(numbers)
        rows = np.zeros(len(numbers), dtype=np.int64)
        for task, name in enumerate(TASKS):
            chosen = tasks == task
            if chosen.any():
                rows[chosen] = self._rows_of(name, places[chosen])
        columns = caption_columns(self.seed, numbers, self.mix.long_caption_rate)
        dropped = uniform(self.seed, "drop", numbers) < self.mix.caption_drop_rate
        phrases = hashed(self.seed, "instruction", numbers)
        drawn = (tasks.tolist(), rows.tolist(), columns, dropped.tolist(), phrases.tolist())
        return list(zip(*drawn, strict=True))

    def example(  # type: ignore[override]
        self, task: int, row: int, column: str, dropped: bool, phrase: int
    ) -> Example:
        makers = (
            self._text_to_image,
            self._edit,
            self._caption,
            self._vqa,
            self._chat,
            self._class_to_image,
        )
        return makers[task](row, column, dropped, phrase)

    def _rows_of(self, task: str, places: np.ndarray) -> np.ndarray:
        if task == "vqa":
            return self.pairs.asked(shuffled(self.seed, task, places, self.pairs.num_asked))
        data = {"edit": self.edits, "chat": self.chats}.get(task) or self.pairs
        return data.shuffled(self.seed, task, places)

    def _text_to_image(self, row: int, column: str, dropped: bool, phrase: int) -> Example:
        caption = "" if dropped else pair_caption(self.pairs, column, row)
        return S.TEXT_TO_IMAGE, {"caption": caption, "image": self.pairs.codes(row)}

    def _caption(self, row: int, column: str, dropped: bool, phrase: int) -> Example:
        options = LONG_CAPTION if column == "long" else SHORT_CAPTION
        instruction = options[phrase % len(options)]
        answer = pair_caption(self.pairs, column, row)
        return S.ANSWER, {"image": self.pairs.codes(row), "instruction": instruction, "answer": answer}

    def _edit(self, row: int, column: str, dropped: bool, phrase: int) -> Example:
        assert self.edits is not None
        instruction = "" if dropped else self.edits.text("instruction", row) or ""
        source, target = self.edits.codes(row), self.edits.codes(row, "target_codes")
        return S.EDIT, {"source": source, "instruction": instruction, "image": target}

    def _vqa(self, row: int, column: str, dropped: bool, phrase: int) -> Example:
        questions = self.pairs.questions(row)
        order = shuffled(phrase, "questions", np.arange(len(questions)), len(questions))
        form = QUESTION[phrase % len(QUESTION)]
        return question_turns([questions[i] for i in order], form, self.pairs.codes(row))

    def _chat(self, row: int, column: str, dropped: bool, phrase: int) -> Example:
        assert self.chats is not None
        return conversation(*self.chats.conversation(row))

    def _class_to_image(self, row: int, column: str, dropped: bool, phrase: int) -> Example:
        return class_example(self.pairs, row, dropped)


def class_example(pairs: TokenDataset, row: int, dropped: bool) -> Example:
    """An image after its class token, or after nothing."""
    name = "" if dropped else pairs.text("short", row) or ""
    return S.CLASS_TO_IMAGE, {"class": name, "image": pairs.codes(row)}


def caption_columns(seed: int, numbers: np.ndarray, long_rate: float) -> list[str]:
    """Which caption each sample shows, "long" or "short"."""
    return ["long" if long else "short" for long in uniform(seed, "caption", numbers) < long_rate]


def pair_caption(pairs: TokenDataset, column: str, row: int) -> str:
    """That caption of a pair; the other one where it is missing."""
    return pairs.text(column, row) or pairs.text("short" if column == "long" else "long", row) or ""
