"""DrawBench: 200 prompts in eleven categories, scored by the cosine of picture and prompt.

Its own evaluation is by people; the paper reports a CLIP score without naming the CLIP, so two are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ddt.data.decode import read_image
from ddt.eval.benchmark import Score, mean_score
from ddt.eval.official.case import Case, Scored, halves
from ddt.eval.official.drawn import Drawn
from ddt.eval.official.files import csv_rows
from ddt.eval.scorers import Scorers
from ddt.eval.statistics import shuffled_partners

CLIPS = {  # a score's name, which is also the scorer's kind -> its default
    "clip": "openai/clip-vit-large-patch14",
    "clip_b32": "openai/clip-vit-base-patch32",
}
CATEGORIES = (  # a row that is cut has another
    "Colors", "Conflicting", "Counting", "DALL-E", "Descriptions", "Gary Marcus et al.", "Misspellings",
    "Positional", "Rare Words", "Reddit", "Text",
)  # fmt: skip
PROMPT_COLUMNS = ("Prompt", "Prompts")  # the sheet was published with either


class DrawBench(Drawn):
    """Outputs: `<n>.png`, n the prompt's row from 0, or `<n>_<k>.png` with more than one a prompt."""

    ceiling_is = "none: the prompts have no ground-truth pictures"
    name = "drawbench"
    files_help = "drawbench.csv (columns Prompt or Prompts, Category)"
    published = 200

    @classmethod
    def defaults(cls) -> dict[str, str]:
        return {"images_a_prompt": "1"}

    def read(self) -> list[Case]:
        cases = []
        count = self.count_of("images_a_prompt")
        known: dict[str, str] = {}
        for number, (where, row) in enumerate(csv_rows(self.files[0])):
            prompt = next((row[name] for name in PROMPT_COLUMNS if row.get(name)), "")
            if not prompt or row.get("Category") not in CATEGORIES:
                self.problems.add("row without prompt or one of the categories", where)
                continue
            if prompt in known:
                self.problems.add("duplicate prompt", f"{where}, first at {known[prompt]}")
            known[prompt] = where
            for k in range(count):
                name = f"{number:05d}" if count == 1 else f"{number:05d}_{k}"
                cases.append(Case(name, prompt, where, row["Category"], output=f"{name}.png", seed=k))
        self.published = DrawBench.published * count
        return cases

    def measure(self, case: Case, output: Path, scorers: Scorers) -> None:
        for kind in clips(scorers):
            self._embedded(kind, output, scorers)

    def _embedded(self, kind: str, output: Path, scorers: Scorers) -> np.ndarray:
        embed = scorers.clip(CLIPS[kind], kind).embed_images
        return scorers.once((self.name, kind, str(output)), lambda: embed([read_image(output)])[0].numpy())

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        cosines = {kind: self._cosines(kind, cases, found, scorers) for kind in clips(scorers)}
        groups = np.array([case.group for case in cases])
        scores: dict[str, Score] = {}
        for kind, (values, floor) in cosines.items():
            chosen = {f"drawbench/{kind}": np.ones(len(cases), bool)}
            chosen |= {f"drawbench/{kind}_{each}": groups == each for each in dict.fromkeys(groups.tolist())}
            scores |= {
                name: mean_score(values[mask], floors={"shuffled images": floor[mask]}, span=(-1.0, 1.0))
                for name, mask in chosen.items()
            }
        values, _ = next(iter(cosines.values()))
        return Scored(scores, halves(cases, values.tolist(), "cosine"))

    def _cosines(
        self, kind: str, cases: Sequence[Case], found: Mapping[str, Path], scorers: Scorers
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of each case's prompt with its picture, and with another case's."""
        images = np.stack([self._embedded(kind, found[case.id], scorers) for case in cases])
        texts = scorers.clip(CLIPS[kind], kind).embed_texts([case.text for case in cases]).numpy()
        return (images * texts).sum(1), (images[shuffled_partners(len(cases))] * texts).sum(1)


def clips(scorers: Scorers) -> list[str]:
    """Which of CLIPS score: those that were given, or both."""
    return [kind for kind in CLIPS if kind in scorers.models] or list(CLIPS)
