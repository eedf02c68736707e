"""CIDEr as coco-caption computes it (the CIDEr-D form: clipped counts, length penalty, times ten)."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ddt.eval.metrics.ptb import ptb_tokenize

MAX_N = 4
SIGMA = 6.0
HIGHEST = 10.0  # of a caption equal to all its references
Id = TypeVar("Id", bound=Hashable)
Ngram = tuple[str, ...]
Ngrams = Counter[Ngram]
# A caption's n-grams, the norms of their tf-idf weights for each n, and its length in bigrams (the official
# length).
Weighed = tuple[Ngrams, list[float], int]


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
    frequency: Ngrams = Counter()
    for captions in counted.values():
        frequency.update(set().union(*captions))
    log_images = math.log(len(counted))
    squared_idf = {ngram: (log_images - math.log(count)) ** 2 for ngram, count in frequency.items()}
    scores = {}
    for key, captions in counted.items():
        hypothesis = _weighed(_ngrams(hypotheses[key]), squared_idf, log_images**2)
        total = sum(
            _similarity(hypothesis, _weighed(caption, squared_idf, 0.0), squared_idf) for caption in captions
        )
        scores[key] = HIGHEST * total / (MAX_N * len(captions))
    return float(np.mean(list(scores.values()))), scores


def _one_each(gts: Mapping[Id, Sequence[str]], res: Mapping[Id, str | Sequence[str]]) -> dict[Id, str]:
    if not gts:
        raise ValueError("cider: no images")
    if gts.keys() != res.keys():
        missing = [key for key in gts if key not in res][:3]
        extra = [key for key in res if key not in gts][:3]
        raise ValueError(f"cider: ids of references and captions differ (missing {missing}, unknown {extra})")
    hypotheses = {}
    for key in res:  # in the order in which the official tokenizer reads them
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


def _weighed(counts: Ngrams, squared_idf: Mapping[Ngram, float], unseen: float) -> Weighed:
    """`unseen` is the squared idf of an n-gram that no reference has."""
    squares = [0.0] * MAX_N
    bigrams = 0
    for ngram, count in counts.items():
        n = len(ngram) - 1
        squares[n] += count * count * squared_idf.get(ngram, unseen)
        if n == 1:
            bigrams += count
    return counts, [math.sqrt(square) for square in squares], bigrams


def _similarity(hypothesis: Weighed, reference: Weighed, squared_idf: Mapping[Ngram, float]) -> float:
    """Sum over n of the clipped cosine, times the length penalty."""
    counts, norms, length = hypothesis
    ref_counts, ref_norms, ref_length = reference
    dots = [0.0] * MAX_N
    for ngram in counts.keys() & ref_counts.keys():
        count = ref_counts[ngram]
        dots[len(ngram) - 1] += min(counts[ngram], count) * count * squared_idf[ngram]
    total = sum(dot / (norms[n] * ref_norms[n]) for n, dot in enumerate(dots) if norms[n] and ref_norms[n])
    return total * math.exp(-((length - ref_length) ** 2) / (2 * SIGMA**2))
