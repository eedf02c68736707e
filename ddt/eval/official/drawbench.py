"""DrawBench: 200 prompts in eleven categories, scored by the cosine of picture and prompt.

Its own evaluation is by people; the paper reports a CLIP score without naming the CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddt.data.decode import read_image
from ddt.eval.benchmark import mean_score
from ddt.eval.official.case import Case, Scored, halves
from ddt.eval.official.drawn import Drawn
from ddt.eval.official.files import csv_rows
from ddt.eval.scorers import Scorers
from ddt.eval.statistics import shuffled_partners

CLIP = "openai/clip-vit-large-patch14"
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
        count = int(self.settings["images_a_prompt"])
        for number, (where, row) in enumerate(csv_rows(self.files[0])):
            prompt = next((row[name] for name in PROMPT_COLUMNS if row.get(name)), "")
            if not prompt or not row.get("Category"):
                self.problems.add("row without prompt or category", where)
                continue
            for k in range(count):
                name = f"{number:05d}" if count == 1 else f"{number:05d}_{k}"
                cases.append(Case(name, prompt, where, row["Category"], output=f"{name}.png", seed=k))
        self.published = DrawBench.published * count
        return cases

    def measure(self, case: Case, output: Path, scorers: Scorers) -> None:
        self._embedded(case, output, scorers)

    def _embedded(self, case: Case, output: Path, scorers: Scorers) -> np.ndarray:
        embed = scorers.clip(CLIP).embed_images
        return scorers.once((self.name, str(output)), lambda: embed([read_image(output)])[0].numpy())

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        images = np.stack([self._embedded(case, found[case.id], scorers) for case in cases])
        texts = scorers.clip(CLIP).embed_texts([case.text for case in cases]).numpy()
        values = (images * texts).sum(1)
        floor = (images[shuffled_partners(len(cases))] * texts).sum(1)
        groups = np.array([case.group for case in cases])
        chosen = {"drawbench/clip": np.ones(len(cases), bool)}
        chosen |= {f"drawbench/clip_{group}": groups == group for group in dict.fromkeys(groups.tolist())}
        scores = {
            name: mean_score(values[mask], floors={"shuffled images": floor[mask]}, span=(-1.0, 1.0))
            for name, mask in chosen.items()
        }
        return Scored(scores, halves(cases, values.tolist(), "cosine"))
