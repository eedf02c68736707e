"""Models that score outputs, all through Transformers, and their precomputed results as the alternative."""

from ddt.eval.scorers.blip import BlipVQA
from ddt.eval.scorers.choice import Scorers
from ddt.eval.scorers.colors import ColorClassifier
from ddt.eval.scorers.detector import Found, open_detector
from ddt.eval.scorers.phrases import Phrases, open_phrases

__all__ = ["BlipVQA", "ColorClassifier", "Found", "Phrases", "Scorers", "open_detector", "open_phrases"]
