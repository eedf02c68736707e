"""T2I-CompBench: six files of 300 prompts, ten pictures each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image

from ddt.data.decode import read_image
from ddt.eval.benchmark import Score, mean_score
from ddt.eval.metrics import t2i_blip_vqa, t2i_spatial, t2i_three_in_one
from ddt.eval.metrics.t2i import MAX_CHUNKS, SKIPPED_CHUNKS
from ddt.eval.official.case import Case
from ddt.eval.official.drawn import Drawn
from ddt.eval.official.files import json_of, lines_of, records_of
from ddt.eval.official.problems import Problems
from ddt.eval.scorers import Scorers
from ddt.eval.scorers.blip import question_of

PROMPTS = 300
IMAGES_A_PROMPT = 10
SPACY = "en_core_web_sm"
CLIP = "openai/clip-vit-base-patch32"
BLIP = "Salesforce/blip-vqa-capfilt-large"
DETECTOR = "google/owlv2-base-patch16-ensemble"
DETECTOR_THRESHOLD = 0.5
UNIDET_SIDE_PX, UNIDET_LONGEST_PX = 479, 480
PERSONS = ("girl", "boy", "man", "woman")


class T2ICompBench(Drawn):
    """Outputs: `samples/<prompt>_<id>.png`, id = ten times the prompt's line plus the picture's number."""

    category: ClassVar[str]
    published = PROMPTS * IMAGES_A_PROMPT

    def read(self) -> list[Case]:
        cases = []
        for number, (where, line) in enumerate(lines_of(self.files[0])):
            prompt = line.strip()
            if "_" in prompt or "/" in prompt:
                self.problems.add("prompt that can't be a file name", where)
                continue
            for k in range(IMAGES_A_PROMPT):
                index = number * IMAGES_A_PROMPT + k
                cases.append(
                    Case(
                        id=f"{index:06d}", text=prompt, where=where, group=self.category, seed=k,
                        output=f"samples/{prompt}_{index:06d}.png",
                    )
                )  # fmt: skip
        return cases

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> dict[str, Score]:
        values = self.values(found, self.with_output(found), scorers)
        return {f"t2i/{self.category}": mean_score(values)}

    def values(self, found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers) -> list[float]:
        """The score of each picture."""
        raise NotImplementedError


class Attribute(T2ICompBench):
    """Colour, shape and texture: BLIP-VQA asked about each noun chunk."""

    def values(self, found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers) -> list[float]:
        return attribute_scores(found, cases, scorers)


class Color(Attribute):
    name, category, files_help = "t2i_color", "color", "color_val.txt"


class Shape(Attribute):
    name, category, files_help = "t2i_shape", "shape", "shape_val.txt"


class Texture(Attribute):
    name, category, files_help = "t2i_texture", "texture", "texture_val.txt"


class Spatial(T2ICompBench):
    """Two objects where the prompt says they are."""

    name, category, files_help = "t2i_spatial", "spatial", "spatial_val.txt"

    def values(self, found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers) -> list[float]:
        return spatial_scores(found, cases, scorers)


class NonSpatial(T2ICompBench):
    """Cosine of picture and prompt."""

    name, category, files_help = "t2i_non_spatial", "non_spatial", "non_spatial_val.txt"

    def values(self, found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers) -> list[float]:
        return action_scores(found, cases, scorers, without_adjectives=False)


class Complex(T2ICompBench):
    """The 3-in-1 mean of attribute, spatial and action."""

    name, category = "t2i_complex", "complex"
    files_help = "complex_val.txt complex_val_spatial.txt complex_val_action.txt, in this order"

    def read(self) -> list[Case]:
        if len(self.files) != 3:
            raise ValueError(f"{self.name}: {len(self.files)} data files, expected {self.files_help}")
        self.spatial_prompts, self.action_prompts = (
            [line.strip() for _, line in lines_of(path)] for path in self.files[1:]
        )
        return super().read()

    def values(self, found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers) -> list[float]:
        return t2i_three_in_one(
            [case.text for case in cases], self.spatial_prompts, self.action_prompts,
            attribute_scores(found, cases, scorers),
            spatial_scores(found, cases, scorers, complex_prompt=True),
            action_scores(found, cases, scorers, without_adjectives=True),
        )  # fmt: skip


def attribute_scores(found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers) -> list[float]:
    """Product of P(yes) over the noun chunks of each case."""
    stored = _stored(scorers.file("attribute"), cases)
    if stored is not None:
        return stored
    phrases, blip = scorers.phrases(SPACY), scorers.blip(BLIP)
    chunks = [phrases(case.text).chunks for case in cases]
    p_yes = []
    for case, all_chunks in zip(cases, chunks, strict=True):
        asked = [chunk for chunk in all_chunks if chunk not in SKIPPED_CHUNKS][:MAX_CHUNKS]
        image = read_image(found[case.id])
        answers = blip.p_yes([image] * len(asked), [question_of(chunk) for chunk in asked])
        p_yes.append([f"{answer:.4f}" for answer in answers])
    return t2i_blip_vqa(chunks, p_yes)


def spatial_scores(
    found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers, complex_prompt: bool = False
) -> list[float]:
    """2D-spatial score of each case: from detections of a file (UniDet's form), or of a detector."""
    stored = _stored(scorers.file("spatial"), cases)
    if stored is not None:
        return stored
    phrases, path = scorers.phrases(SPACY), scorers.file("detections")
    known = None if path is None else json_of(path)
    scores = []
    for case in cases:
        tokens = phrases(case.text).tokens
        name = Path(case.output).name
        if known is None:
            detections = _detect(found[case.id], tokens, scorers)
        elif name in known:
            detections = known[name]
        else:
            raise ValueError(f"{path}: no detections of {name}")
        scores.append(t2i_spatial(case.text, tokens, detections, complex_prompt))
    return scores


def action_scores(
    found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers, without_adjectives: bool
) -> list[float]:
    """Cosine of each picture and its prompt; for complex prompts the adjectives are dropped first."""
    stored = _stored(scorers.file("action"), cases)
    if stored is not None:
        return stored
    clip = scorers.clip(CLIP)
    texts = [case.text for case in cases]
    if without_adjectives:
        phrases = scorers.phrases(SPACY)
        texts = [" ".join(t for t, part in phrases(text).tokens if part != "ADJ") for text in texts]
    return [
        float(clip.score([read_image(found[case.id])], [text])[0])
        for case, text in zip(cases, texts, strict=True)
    ]


def _detect(path: Path, tokens: Sequence[tuple[str, str]], scorers: Scorers) -> list[list]:
    """Detections in the frame UniDet sees: distances in the score are pixels of it."""
    image = read_image(path)
    nouns = [text for text, part in tokens if part in ("NOUN", "PROPN")]
    labels = list(dict.fromkeys("person" if noun in PERSONS else noun for noun in nouns))
    if not labels:
        return []
    scale = min(UNIDET_SIDE_PX / min(image.size), UNIDET_LONGEST_PX / max(image.size))
    seen = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    found = scorers.detector(DETECTOR)(seen, labels, DETECTOR_THRESHOLD)
    return [[item.name, *item.box, item.score] for item in found]


def _stored(path: Path | None, cases: Sequence[Case]) -> list[float] | None:
    """Scores as the official scripts leave them (vqa_result.json: [{question_id, answer}])."""
    if path is None:
        return None
    problems = Problems()
    items = records_of(path, json_of(path), problems, ("question_id", "answer"))
    scores = {int(item["question_id"]): float(item["answer"]) for _, item in items}
    problems.refuse("run the official script again")
    missing = [case.id for case in cases if int(case.id) not in scores]
    if missing:
        raise ValueError(f"{path}: no score of {len(missing)} images, first {missing[0]}")
    return [scores[int(case.id)] for case in cases]
