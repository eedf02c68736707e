"""MagicBrush: pictures edited in turns, each turn with its ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ddt.data.decode import read_image
from ddt.eval.benchmark import Score
from ddt.eval.official.case import Case
from ddt.eval.official.drawn import Edited
from ddt.eval.official.edits import cvs_scores, edit_score, l1_scores
from ddt.eval.official.files import json_of, records_of
from ddt.eval.scorers import Scorers


class MagicBrush(Edited):
    """Outputs: `<id>/<id>_1.png`, and for later turns `<id>_inde_<k>.png` and `<id>_iter_<k>.png`.

    An independent edit starts from the last turn's ground truth, an iterative one from the last turn's
    output. all_turn scores the independent edits, final_turn the last iterative one of each session.
    """

    name = "magicbrush"
    files_help = "edit_sessions.json of a split; --images is its images/ folder, with a folder for each id"

    def read(self) -> list[Case]:
        path = self.files[0]
        sessions = json_of(path)
        if not isinstance(sessions, dict):
            raise ValueError(f"{path}: expected sessions by their id, found {type(sessions).__name__}")
        cases: list[Case] = []
        for key, turns in sessions.items():
            items = records_of(path, turns, self.problems, ("input", "output", "instruction"))
            cases += _session(key, [item for _, item in items], f"{path}: {key}")
        # By turn, so that an iterative edit is made after the one it starts from.
        return sorted(cases, key=lambda case: case.data["turn"])

    def draw(self, model: Any, cases: Sequence[Case]) -> list[Image.Image]:
        sources = [self._source(case) for case in cases]
        return model.edit_image(sources, [case.text for case in cases], seed=[0] * len(cases))

    def generate(self, model: Any, outputs: Path, batch_size: int) -> int:
        self._outputs = outputs
        every = self.cases
        made = 0
        try:
            for turn in sorted({case.data["turn"] for case in every}):
                self.cases = [case for case in every if case.data["turn"] == turn]
                made += super().generate(model, outputs, batch_size)
        finally:
            self.cases = every
        return made

    def _source(self, case: Case) -> Image.Image:
        before = case.data["before"]
        return read_image(self._outputs / before if before else self.image_path(case.image))

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> dict[str, Score]:
        scores = {}
        for setting in ("all_turn", "final_turn"):
            cases = [case for case in self.with_output(found) if setting in case.data["settings"]]
            if not cases:
                continue
            pairs = [
                (found[case.id], self.image_path(case.target), self.image_path(case.data["unedited"]))
                for case in cases
            ]
            scores[f"magicbrush/{setting}/l1"] = edit_score(l1_scores(pairs), higher_is_better=False)
            scores[f"magicbrush/{setting}/cvs"] = edit_score(
                cvs_scores(pairs, scorers), higher_is_better=True
            )
        return scores


def _session(key: str, turns: Sequence[Mapping[str, Any]], where: str) -> list[Case]:
    cases = []
    for number, turn in enumerate(turns, start=1):
        last = number == len(turns)
        both: tuple[str, ...] = ("all_turn", "final_turn") if len(turns) == 1 else ("all_turn",)
        kinds: list[tuple[str, str, tuple[str, ...]]] = [("1" if number == 1 else f"inde_{number}", "", both)]
        if number > 1:
            before = f"{key}/{key}_{'1' if number == 2 else f'iter_{number - 1}'}.png"
            kinds.append((f"iter_{number}", before, ("final_turn",) if last else ()))
        for kind, before, settings in kinds:
            # What an editor that does nothing would hand back: the turn's input, or the session's.
            unedited = turn["input"] if not before else turns[0]["input"]
            cases.append(
                Case(
                    f"{key}/{kind}", turn["instruction"], where, image=f"{key}/{turn['input']}",
                    target=f"{key}/{turn['output']}", output=f"{key}/{key}_{kind}.png",
                    data={"turn": number, "before": before, "settings": settings,
                          "unedited": f"{key}/{unedited}"},
                )
            )  # fmt: skip
    return cases
