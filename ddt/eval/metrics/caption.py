"""CIDEr as coco-caption computes it (the CIDEr-D form: clipped counts, length penalty, times ten)."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ddt.eval.metrics.ptb import ptb_tokenize

MAX_N = 4
SIGMA = 6.0
Id = TypeVar("Id", bound=Hashable)
Ngrams = Counter[tuple[str, ...]]
# A caption as tf-idf weights for each n, their norms, and its length in bigrams (the official length).
Vector = tuple[list[dict[tuple[str, ...], float]], list[float], int]


def cider(
    gts: Mapping[Id, Sequence[str]],
    res: Mapping[Id, str | Sequence[str]],
    tokenized: bool = False,
) -> tuple[float, dict[Id, float]]:
    """Corpus CIDEr and the score of each image, on the library's scale (published tables print 100 times it).

    `gts` maps an image to its references, `res` to its one hypothesis (a string or a list of one string).
    `tokenized` says that the strings are PTB-tokenised already. The document frequencies come from the
    references given here, so a subset or one shard alone has another score, and a single image scores 0.

    Raises ValueError when the ids differ, an image has no reference, or not exactly one hypothesis.
    """
    hypotheses = _one_each(gts, res)
    references = {key: list(captions) for key, captions in gts.items()}
    if not tokenized:
        hypotheses, references = _tokenize(hypotheses, references)
    counted = {key: [_ngrams(caption) for caption in captions] for key, captions in references.items()}
    frequency: Counter[tuple[str, ...]] = Counter()
    for captions in counted.values():
        frequency.update(set().union(*captions))
    log_images = math.log(len(counted))
    idf = {ngram: log_images - math.log(count) for ngram, count in frequency.items()}
    scores = {}
    for key, captions in counted.items():
        hypothesis = _vector(_ngrams(hypotheses[key]), idf, log_images)
        total = sum(_similarity(hypothesis, _vector(caption, idf, log_images)) for caption in captions)
        scores[key] = 10.0 * total / (MAX_N * len(captions))
    return float(np.mean(list(scores.values()))), scores


def _one_each(gts: Mapping[Id, Sequence[str]], res: Mapping[Id, str | Sequence[str]]) -> dict[Id, str]:
    if not gts:
        raise ValueError("cider: no images")
    if gts.keys() != res.keys():
        missing = [key for key in gts if key not in res][:3]
        extra = [key for key in res if key not in gts][:3]
        raise ValueError(f"cider: ids of references and captions differ (missing {missing}, unknown {extra})")
    hypotheses = {}
    for key in gts:
        if isinstance(gts[key], str) or not gts[key]:
            raise ValueError(f"cider: image {key!r} needs a list of at least one reference, got {gts[key]!r}")
        caption = res[key]
        one = [caption] if isinstance(caption, str) else list(caption)
        if len(one) != 1:
            raise ValueError(f"cider: image {key!r} needs exactly one caption, got {len(one)}")
        hypotheses[key] = one[0]
    return hypotheses


def _tokenize(
    hypotheses: dict[Id, str], references: dict[Id, list[str]]
) -> tuple[dict[Id, str], dict[Id, list[str]]]:
    texts = dict(zip(hypotheses, ptb_tokenize(list(hypotheses.values())), strict=True))
    flat = ptb_tokenize([caption for captions in references.values() for caption in captions])
    rest = iter(flat)
    return texts, {key: [next(rest) for _ in captions] for key, captions in references.items()}


def _ngrams(caption: str) -> Ngrams:
    words = caption.split()
    counts: Ngrams = Counter()
    for n in range(1, MAX_N + 1):
        counts.update(zip(*(words[start:] for start in range(n)), strict=False))
    return counts


def _vector(counts: Ngrams, idf: dict[tuple[str, ...], float], unseen_idf: float) -> Vector:
    weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(MAX_N)]
    squares = [0.0] * MAX_N
    bigrams = 0
    for ngram, count in counts.items():
        n = len(ngram) - 1
        weight = count * idf.get(ngram, unseen_idf)
        weights[n][ngram] = weight
        squares[n] += weight * weight
        if n == 1:
            bigrams += count
    return weights, [math.sqrt(square) for square in squares], bigrams


def _similarity(hypothesis: Vector, reference: Vector) -> float:
    """Sum over n of the clipped cosine, times the length penalty."""
    weights, norms, length = hypothesis
    ref_weights, ref_norms, ref_length = reference
    total = 0.0
    for n in range(MAX_N):
        if norms[n] == 0 or ref_norms[n] == 0:
            continue
        others = ref_weights[n]
        dot = sum(
            min(weight, others[ngram]) * others[ngram]
            for ngram, weight in weights[n].items()
            if ngram in others
        )
        total += dot / (norms[n] * ref_norms[n])
    return total * math.exp(-((length - ref_length) ** 2) / (2 * SIGMA**2))
