"""Speed of the metrics at the size of the real benchmarks: python bench/eval_metrics.py [--only cider].

CIDEr over 10,000 images of five references each, 100,000 VQA answers, 10,000 GenEval images with detections
given, and the Frechet distance of 50,000 x 2,048 features. Prints seconds and the peak of resident memory.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import numpy as np
from measure import arguments, report

from ddt.eval.metrics import cider, frechet_distance, geneval_evaluate, vqa_accuracy

WORDS = 3000  # a Zipf-like vocabulary, about that of COCO captions
CLASSES = ("dog", "cat", "bench", "apple", "bus", "clock")
COLORS = ("red", "green", "blue", "yellow")


def sentences(rng: np.random.Generator, count: int) -> list[str]:
    """Captions of 8 to 14 words, capital first, full stop last."""
    lengths = rng.integers(8, 15, count)
    words = (rng.zipf(1.3, lengths.sum()) - 1) % WORDS
    parts = np.split(words, np.cumsum(lengths)[:-1])
    return ["A " + " ".join(word(index) for index in part.tolist()) + "." for part in parts]


def word(index: int) -> str:
    """A word of letters only, another for each index."""
    return "w" + "".join(chr(97 + int(digit)) for digit in str(index))


def bench_cider(rng: np.random.Generator) -> Callable[[], object]:
    references = sentences(rng, 50_000)
    gts = {image: references[5 * image : 5 * image + 5] for image in range(10_000)}
    res = dict(enumerate(sentences(rng, 10_000)))
    return lambda: cider(gts, res)


def bench_vqa(rng: np.random.Generator) -> Callable[[], object]:
    said = ["yes", "no", "two dogs", "a red car", "on the left.", "it's 10,000", "dont know", "café"]
    said += [f"thing {index}" for index in range(5000)]
    picked = rng.integers(0, len(said), (100_000, 11))
    picked[:, 3:9] = picked[:, 2:3]
    cases = [
        ([{"answer": said[i], "answer_id": k} for k, i in enumerate(row[:10])], said[row[10]])
        for row in picked
    ]
    return lambda: [vqa_accuracy(answers, prediction) for answers, prediction in cases]


def bench_geneval(rng: np.random.Generator) -> Callable[[], object]:
    metadata = {
        "tag": "position",
        "include": [
            {"class": "dog", "count": 1, "color": "red"},
            {"class": "cat", "count": 2, "position": ["left of", 0]},
        ],
        "exclude": [{"class": "bus", "count": 3}],
    }
    images = []
    for _ in range(10_000):
        corners = rng.uniform(0, 256, (20, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 256, (20, 2)), rng.random((20, 1))], axis=1)
        names = rng.integers(0, len(CLASSES), 20)
        colors = rng.integers(0, len(COLORS), 20)
        images.append(
            [[CLASSES[n], *box, COLORS[c]] for n, box, c in zip(names, boxes.tolist(), colors, strict=True)]
        )
    return lambda: [geneval_evaluate(metadata, found) for found in images]


def bench_frechet(rng: np.random.Generator) -> Callable[[], object]:
    a, b = (rng.standard_normal((50_000, 2048), dtype=np.float32) for _ in range(2))
    return lambda: frechet_distance(a, b)


BENCHES = {"cider": bench_cider, "vqa": bench_vqa, "geneval": bench_geneval, "frechet": bench_frechet}


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--only", choices=BENCHES, help="one of them (default: all)")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for name in [options.only] if options.only else BENCHES:
        work = BENCHES[name](np.random.default_rng(0))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, cpu = time.perf_counter(), time.process_time()
        work()
        wall, used = time.perf_counter() - start, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{name:8} {wall:6.1f} s wall, {used:6.1f} s of processor, resident memory at most "
            f"{peak / 2**20:.2f} GiB, {(peak - before) / 2**20:.2f} GiB of it while scoring"
        )
        results[name] = {
            "wall_s": wall,
            "processor_s": used,
            "peak_kib": peak,
            "while_scoring_kib": peak - before,
        }
    report(options, results)


if __name__ == "__main__":
    main()
