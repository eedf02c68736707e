"""The published benchmarks on their own annotation files: cases, outputs in the official layout, scores."""

from ddt.eval.official.case import Case, Official
from ddt.eval.official.registry import OFFICIAL, open_benchmark
from ddt.eval.official.run import evaluate

__all__ = ["OFFICIAL", "Case", "Official", "evaluate", "open_benchmark"]
