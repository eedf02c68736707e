"""MagicBrush: pictures edited in turns, each turn with its ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ddt.data.decode import read_square
from ddt.eval.benchmark import Score
from ddt.eval.official.case import Case, Judged, Scored, halves
from ddt.eval.official.drawn import Edited
from ddt.eval.official.edits import cvs, edit_score, l1
from ddt.eval.official.fields import TEXT
from ddt.eval.official.files import json_of, records_of
from ddt.eval.scorers import Scorers

TURN = {"input": TEXT, "output": TEXT, "instruction": TEXT}


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
            items = list(records_of(path, turns, self.problems, TURN, of=f"{key} "))
            if len(items) == len(turns):  # each turn is edited after the ones before it
                cases += _session(key, [item for _, _, item in items], f"{path}: {key}")
        return cases

    def draw(self, model: Any, cases: Sequence[Case], outputs: Path) -> list[Image.Image]:
        side = model.image_tokenizer.config.image_size
        sources = []
        for case in cases:
            before = case.data["before"]
            sources.append(read_square(outputs / before, side) if before else self.picture(case, model))
        return model.edit_image(sources, [case.text for case in cases], seed=[0] * len(cases))

    def rounds(self) -> list[list[Case]]:
        """By turn, since an iterative edit starts from the one before."""
        turns = sorted({case.data["turn"] for case in self.cases})
        return [[case for case in self.cases if case.data["turn"] == turn] for turn in turns]

    def compared(self, case: Case) -> list[Path]:
        if not case.data["settings"]:
            return []  # a step between, not scored
        return [self.image_path(case.target), self.image_path(case.data["unedited"])]

    def measures(self, case: Case, output: Path, scorers: Scorers) -> dict[str, tuple[float, float]]:
        """L1 and CVS, each of the output and of the unedited source."""
        pair = (output, self.image_path(case.target), self.image_path(case.data["unedited"]))
        return scorers.once(
            (self.name, case.id, str(output)), lambda: {"l1": l1(pair), "cvs": cvs(pair, scorers)}
        )

    def measure(self, case: Case, output: Path, scorers: Scorers) -> None:
        if case.data["settings"] and self.comparable(case):
            self.measures(case, output, scorers)

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> Scored:
        scores: dict[str, Score] = {}
        judged: list[Judged] = []
        for setting in ("all_turn", "final_turn"):
            cases = [case for case in self.with_output(found) if setting in case.data["settings"]]
            if not cases:
                continue
            every = [self.measures(case, found[case.id], scorers) for case in cases]
            for name in ("l1", "cvs"):
                values = [each[name] for each in every]
                scores[f"magicbrush/{setting}/{name}"] = edit_score(name, values)
            judged = judged or halves(cases, [each["l1"][0] for each in every], "L1", higher_is_better=False)
        return Scored(scores, judged)


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
