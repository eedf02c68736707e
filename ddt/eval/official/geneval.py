"""GenEval: 553 prompts, four pictures each, judged by an object detector and a colour classifier."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddt.data.decode import read_image
from ddt.eval.benchmark import Score, mean_score
from ddt.eval.metrics import geneval_evaluate
from ddt.eval.metrics.geneval import COUNTING_THRESHOLD, THRESHOLD
from ddt.eval.official.case import Case, Judged, Scored
from ddt.eval.official.drawn import Drawn
from ddt.eval.official.fields import TEXT, WHOLE, Kind, list_of, object_of, one_of
from ddt.eval.official.files import json_lines, json_of, write_whole
from ddt.eval.official.precomputed import GENEVAL_ROW, Verdict, read_detections, read_verdicts
from ddt.eval.official.problems import Problems
from ddt.eval.scorers import ColorClassifier, Scorers
from ddt.eval.statistics import bootstrap, shuffled_partners

PROMPTS = 553
IMAGES_A_PROMPT = 4
DETECTOR = "facebook/mask2former-swin-small-coco-instance"
CLIP = "openai/clip-vit-large-patch14"
Detections = list[list[Any]]  # [class, x1, y1, x2, y2, score, colour]
RELATION = one_of("left of", "right of", "above", "below")
OBJECT = {"class": TEXT, "count": WHOLE}


def _is_position(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and RELATION.holds(value[0]) and WHOLE.holds(value[1])


def _is_include(value: Any) -> bool:
    """A position is a relation to an object before it, by its place in the list."""
    return OBJECTS.holds(value) and all(
        item["position"][1] < place for place, item in enumerate(value) if "position" in item
    )


POSITION = Kind("[relation, place of an object before it]", _is_position)
OBJECTS = list_of(object_of(OBJECT, {"color": TEXT, "position": POSITION}))
INCLUDE = Kind(OBJECTS.called, _is_include)
EXCLUDE = list_of(object_of(OBJECT))
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
PROMPT = {"tag": one_of(*TAGS), "prompt": TEXT, "include": INCLUDE}


class GenEval(Drawn):
    """Outputs: `<n>/metadata.jsonl` and `<n>/samples/<k>.png`, as its scripts read them."""

    ceiling_is = "none: the prompts have no ground-truth pictures"
    name = "geneval"
    files_help = "evaluation_metadata.jsonl"
    published = PROMPTS * IMAGES_A_PROMPT

    def read(self) -> list[Case]:
        cases = []
        for path in self.files:
            known: dict[str, str] = {}
            for number, where, item in json_lines(path, self.problems, PROMPT, {"exclude": EXCLUDE}):
                if item["prompt"] in known:
                    self.problems.add("duplicate prompt", f"{where}, first at {known[item['prompt']]}")
                known[item["prompt"]] = where
                cases += [_case(number, k, where, item) for k in range(IMAGES_A_PROMPT)]
        return cases

    def pictures(self, outputs: Path) -> Iterable[Path]:
        return (
            path
            for path in outputs.glob("*/samples/*")
            if path.parts[-3].isdigit() and re.match(r"\d+\.png", path.name)
        )

    def finish(self, outputs: Path) -> None:
        for case in self.cases:
            path = _metadata(outputs, case)
            if not path.exists():  # another prompt's stays, with the pictures made for it
                write_whole(path, json.dumps(case.data) + "\n")

    def found(self, outputs: Path, problems: Problems) -> dict[str, Path]:
        found = super().found(outputs, problems)
        for case in self.cases:
            path = _metadata(outputs, case)
            first = case.id.endswith("/0")  # the file is told of once
            if not path.exists():
                if first:
                    problems.add("metadata missing", f"{path} for {case.where}")
            elif not _is_metadata_of(case, path):
                found.pop(case.id, None)
                if first:
                    kind = "metadata of another prompt, or cut: pictures not scored"
                    problems.add(kind, f"{path} for {case.where}")
        return found

    def measure(self, case: Case, output: Path, scorers: Scorers) -> None:
        if not {"verdicts", "detections"} & scorers.precomputed.keys():
            self._detected(case, output, scorers)

    def _detected(self, case: Case, output: Path, scorers: Scorers) -> Detections:
        detector, clip = scorers.detector(DETECTOR), scorers.clip(CLIP)
        colors = scorers.once((self.name, "colors"), lambda: ColorClassifier(clip))
        return scorers.once(
            (self.name, case.id, str(output)), lambda: detections_of(case.data, output, detector, colors)
        )

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        path = scorers.file("verdicts")
        if path is not None:
            verdicts, floor = read_verdicts(path, [found[case.id] for case in cases]), None
        else:
            seen = self._detections(found, cases, scorers)
            verdicts = _judge(cases, seen)
            shuffled = _judge(cases, [seen[i] for i in shuffled_partners(len(cases))])
            floor = np.array([float(right) for right, _ in shuffled])
        correct = np.array([float(right) for right, _ in verdicts])
        judged = [
            Judged(case, float(right), right, reason.replace("\n", "; "))
            for case, (right, reason) in zip(cases, verdicts, strict=True)
        ]
        return Scored(_scores([case.group for case in cases], correct, floor), judged)

    def _detections(
        self, found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers
    ) -> list[Detections]:
        path = scorers.file("detections")
        if path is None:
            return [self._detected(case, found[case.id], scorers) for case in cases]
        stored = read_detections(path, [case.output for case in cases], GENEVAL_ROW)
        return [stored[case.output] for case in cases]


def _metadata(outputs: Path, case: Case) -> Path:
    return (outputs / case.output).parent.parent / "metadata.jsonl"


def _is_metadata_of(case: Case, path: Path) -> bool:
    try:
        return bool(json_of(path) == dict(case.data))
    except ValueError:
        return False  # cut: it doesn't tell whose the pictures are


def detections_of(
    metadata: Mapping[str, Any], path: Path, detector: Any, colors: ColorClassifier
) -> Detections:
    """What the models find in one picture of the classes its prompt names, in GenEval's form."""
    wanted = [*metadata["include"], *metadata.get("exclude", ())]
    image = read_image(path)
    threshold = COUNTING_THRESHOLD if metadata["tag"] == "counting" else THRESHOLD
    found = detector(image, list(dict.fromkeys(item["class"] for item in wanted)), threshold)
    colored = {item["class"] for item in wanted if "color" in item}
    asked = [item for item in found if item.name in colored]
    named = dict(zip(map(id, asked), colors(image, asked), strict=True))
    return [[item.name, *item.box, item.score, named.get(id(item), "")] for item in found]


def _case(number: int, k: int, where: str, item: Mapping[str, Any]) -> Case:
    return Case(
        id=f"{number:05d}/{k}", text=item["prompt"], where=where, group=item["tag"], data=item,
        output=f"{number:05d}/samples/{k:04d}.png", seed=k,
    )  # fmt: skip


def _judge(cases: Sequence[Case], seen: Sequence[Detections]) -> list[Verdict]:
    return [geneval_evaluate(case.data, found) for case, found in zip(cases, seen, strict=True)]


def _scores(tags: Sequence[str], correct: np.ndarray, floor: np.ndarray | None) -> dict[str, Score]:
    members = {tag: np.flatnonzero(np.array(tags) == tag) for tag in dict.fromkeys(tags)}

    def floors(chosen: np.ndarray) -> dict[str, np.ndarray]:
        return {} if floor is None else {"shuffled images": floor[chosen]}

    scores = {
        f"geneval/{tag}": mean_score(correct[chosen], floors=floors(chosen))
        for tag, chosen in members.items()
    }
    # The official overall is the mean of the tags, so that is what is resampled, tag by tag.
    bounds = np.cumsum([len(chosen) for chosen in members.values()])[:-1]

    def overall(indices_Rn: np.ndarray) -> np.ndarray:
        return np.mean([part.mean(1) for part in np.split(correct[indices_Rn], bounds, axis=1)], axis=0)

    low, high = bootstrap(overall, list(members.values()))
    scores["geneval/overall"] = Score(
        float(np.mean([score.value for score in scores.values()])), low, high, len(correct),
        floor=None if floor is None else float(np.mean([floor[c].mean() for c in members.values()])),
        floor_is="" if floor is None else "shuffled images",
    )  # fmt: skip
    return scores
