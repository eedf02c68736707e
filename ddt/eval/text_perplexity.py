"""Perplexity of captions under the language model (paper figure 9a): text tokens only, token-weighted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ddt.eval.benchmark import UNSEEN_SHARE, Benchmark, Case, Row, Score, column, make_case, make_row, ordered
from ddt.eval.metrics import token_nll
from ddt.eval.statistics import bootstrap
from ddt.mllm.sequences import TEXT_ONLY
from ddt.scenes.sample import sample_scene
from ddt.scenes.text import long_caption, short_caption
from ddt.scenes.world import EVALUATION_PARTS

UNIGRAM = "unigram frequencies"
IGNORED = -100


class Perplexity(Benchmark):
    """Half short and half detailed captions of scenes, or the given captions."""

    name = "perplexity"
    title = "Perplexity of captions"
    needs_scenes = False
    protocol = (
        "exp of the summed negative log likelihood over the number of text tokens, in float64; [BOS], [EOS] "
        "and image tokens are not counted. Lower is better. Floor: the best guess that ignores the words "
        "before (unigram frequencies of these very captions)."
    )

    def __init__(
        self,
        cases: int,
        seed: int,
        image_size: int,
        decode_steps: int | None = None,
        captions: Sequence[str] | None = None,
    ) -> None:
        super().__init__(cases, seed, image_size, decode_steps)
        self.captions = captions

    def cases(self) -> list[Case]:
        if self.captions is not None:
            texts = [("caption", text, False) for text in self.captions[: self.num_cases]]
        else:
            texts = [self._caption(index) for index in range(self.num_cases)]
        return [
            make_case(self.name, index, task, text, "", None, self.seed, unseen)
            for index, (task, text, unseen) in enumerate(texts)
        ]

    def _caption(self, index: int) -> tuple[str, str, bool]:
        rng = self.rng(index)
        unseen = rng.random() < UNSEEN_SHARE
        scene = sample_scene(rng, held_out=unseen, parts=EVALUATION_PARTS)
        if index % 2:
            return "detailed", long_caption(scene, rng), unseen
        return "short", short_caption(scene, rng), unseen

    def run_batch(self, model: Any, cases: Sequence[Case]) -> list[Row]:
        documents = model.builder.documents([(TEXT_ONLY, {"text": case["prompt"]}) for case in cases])
        eos = model.vocabulary.eos
        texts = [document.ids[:-1] if document.ids[-1] == eos else document.ids for document in documents]
        longest = max(len(text) for text in texts)
        ids_BL = torch.full((len(texts), longest), eos)
        targets_BL = np.full((len(texts), longest), IGNORED)
        for row, text in enumerate(texts):
            ids_BL[row, : len(text)] = torch.from_numpy(np.asarray(text))
            targets_BL[row, : len(text) - 1] = text[1:]  # the shift, once: position i predicts token i + 1
        device = next(model.model.parameters()).device
        with torch.no_grad():
            # Padding stands behind the text, where causal attention never looks.
            logits_BLV = model.model(input_ids=ids_BL.to(device)).logits.float().cpu()
        rows = []
        for case, logits_LV, targets_L in zip(cases, logits_BLV, targets_BL, strict=True):
            nll, count = token_nll(logits_LV, targets_L, IGNORED)
            tokens = targets_L[targets_L != IGNORED].tolist()
            rows.append(make_row(case, values={"nll": nll, "count": count, "tokens": tokens}))
        return rows

    def summarize(self, rows: Sequence[Row]) -> dict[str, Score]:
        rows = ordered(rows)
        nll, counts = np.array(column(rows, "nll")), np.array(column(rows, "count"))
        tokens = column(rows, "tokens")
        tasks = np.array([row["task"] for row in rows])
        groups = {"text": np.ones(len(rows), bool)}
        if len(set(tasks.tolist())) > 1:
            groups |= {task: tasks == task for task in dict.fromkeys(tasks.tolist())}
        scores = {}
        for name, chosen in groups.items():
            value = math.exp(nll[chosen].sum() / counts[chosen].sum())
            low, high = self._interval(nll[chosen], counts[chosen])
            floor = _unigram_perplexity([tokens[i] for i in np.flatnonzero(chosen)])
            count = int(chosen.sum())
            scores[f"perplexity/{name}"] = Score(
                value, low, high, count, None, floor, UNIGRAM, higher_is_better=False
            )
        return scores

    def _interval(self, nll: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
        def resampled(indices_Rn: np.ndarray) -> np.ndarray:
            return np.exp(nll[indices_Rn].sum(axis=1) / counts[indices_Rn].sum(axis=1))

        return bootstrap(resampled, len(nll), self.seed)


def _unigram_perplexity(texts: Sequence[Sequence[int]]) -> float:
    """Of texts to a reader who knows how often each of their tokens occurs, and nothing of their order."""
    frequency = Counter(token for text in texts for token in text)
    total = sum(frequency.values())
    return math.exp(-sum(n / total * math.log(n / total) for n in frequency.values()))
