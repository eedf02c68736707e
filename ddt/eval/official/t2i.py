"""T2I-CompBench: six files of 300 prompts, ten pictures each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from PIL import Image

from ddt.data.clip_score import ClipScorer
from ddt.data.decode import read_image
from ddt.eval.benchmark import mean_score
from ddt.eval.metrics import t2i_blip_vqa, t2i_spatial, t2i_three_in_one
from ddt.eval.metrics.t2i import MAX_CHUNKS, SKIPPED_CHUNKS
from ddt.eval.official.case import Case, Scored, halves
from ddt.eval.official.drawn import Drawn
from ddt.eval.official.files import lines_of
from ddt.eval.official.precomputed import UNIDET_ROW, read_detections, read_scores
from ddt.eval.scorers import Scorers
from ddt.eval.scorers.blip import BlipVQA, question_of
from ddt.eval.statistics import SHARE, shuffled_partners

PROMPTS = 300
IMAGES_A_PROMPT = 10
SPACY = "en_core_web_sm"
CLIP = "openai/clip-vit-base-patch32"
BLIP = "Salesforce/blip-vqa-capfilt-large"
DETECTOR = "google/owlv2-base-patch16-ensemble"
DETECTOR_THRESHOLD = 0.5
UNIDET_SIDE_PX, UNIDET_LONGEST_PX = 479, 480
PERSONS = ("girl", "boy", "man", "woman")
STORED = ("attribute", "spatial", "action")  # scores of official scripts: there is none of another picture
# Of each file as published: the sha256 of its lines, stripped and joined by line feeds.
PUBLISHED = {
    "color_val.txt": "c735840f3de605316c72203af5e32ef88dc95a541333eaef1f42d6e155647651",
    "shape_val.txt": "bf557e22414dbc69b118111cdf0242f6bdec5e27a854d7a90436207b1e806d87",
    "texture_val.txt": "fa60c83f215a8753a3795d1aceba0a1576777ac816c9f1a617de8d7c1e21342b",
    "spatial_val.txt": "ae35e77cafeffb077e463854aba7dbeaf44e60010c663e81b7d3ba1a3338831d",
    "non_spatial_val.txt": "2b9c2b1a26350308f5e2732f70c2f807f1cbaec241220ec709a4ea3eb34c2e98",
    "complex_val.txt": "e23a7dfb80d4a4ee7c5aef7cfe2cfc26e061870b6f094c90441558b0281c5872",
    "complex_val_spatial.txt": "9d7e0b789ea91bf19e89850974ce6a1c959924d00995b8481711de7ab7124761",
    "complex_val_action.txt": "2495e6dec9fc13d5e80a0b0668f3a3ec98ba869e170cbf38e2f3414cd945fbc4",
}
FLOOR_CASES = 300  # pictures scored for another prompt: enough for the floor, a tenth of the work


@dataclass(frozen=True)
class Shown:
    """A picture to be scored for a case's prompt; `drawn_for` is the case it was drawn for."""

    case: Case
    drawn_for: Case
    path: Path

    @property
    def key(self) -> tuple[str, str]:
        return self.case.text, str(self.path)


class T2ICompBench(Drawn):
    """Outputs: `samples/<prompt>_<id>.png`, id = ten times the prompt's line plus the picture's number."""

    ceiling_is = "none: the prompts have no ground-truth pictures"
    category: ClassVar[str]
    span: ClassVar[tuple[float, float]] = SHARE  # the lowest and the highest score of a picture
    published = PROMPTS * IMAGES_A_PROMPT

    def read(self) -> list[Case]:
        self._as_published()
        cases = []
        known: dict[str, str] = {}
        for number, (where, line) in enumerate(lines_of(self.files[0])):
            prompt = line.strip()
            if prompt in known:
                self.problems.add("duplicate prompt", f"{where}, first at {known[prompt]}")
            known[prompt] = where
            if not prompt or "_" in prompt or "/" in prompt:
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

    def _as_published(self) -> None:
        """A problem for each file whose prompts are not the published ones: one that is cut within its last
        line has as many.
        """
        for path, name in zip(self.files, self.files_help.split(), strict=False):
            prompts = "\n".join(line.strip() for _, line in lines_of(path))
            if hashlib.sha256(prompts.encode()).hexdigest() != PUBLISHED[name]:
                self.problems.add("prompts cut, or other than those published", f"{path}, for {name}")

    def measure(self, case: Case, output: Path, scorers: Scorers) -> None:
        if not set(STORED) & scorers.precomputed.keys():
            self.values([Shown(case, case, output)], scorers)

    def score(self, found: Mapping[str, Path], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        values = self.values([Shown(case, case, found[case.id]) for case in cases], scorers)
        score = mean_score(values, floors=self._floors(found, cases, scorers), span=self.span)
        return Scored({f"t2i/{self.category}": score}, halves(cases, values, "score"))

    def _floors(
        self, found: Mapping[str, Path], cases: Sequence[Case], scorers: Scorers
    ) -> dict[str, list[float]]:
        """Pictures scored for another prompt, one of each prompt."""
        if len(cases) < 2 or set(STORED) & scorers.precomputed.keys():
            return {}
        chosen = cases[:: max(1, len(cases) // FLOOR_CASES)]
        others = [chosen[i] for i in shuffled_partners(len(chosen))]
        shown = [Shown(case, other, found[other.id]) for case, other in zip(chosen, others, strict=True)]
        return {"shuffled images": self.values(shown, scorers)}

    def values(self, shown: Sequence[Shown], scorers: Scorers) -> list[float]:
        """The score of each picture."""
        raise NotImplementedError


class Attribute(T2ICompBench):
    """Colour, shape and texture: BLIP-VQA asked about each noun chunk."""

    def values(self, shown: Sequence[Shown], scorers: Scorers) -> list[float]:
        return attribute_scores(shown, scorers)


class Color(Attribute):
    name, category, files_help = "t2i_color", "color", "color_val.txt"


class Shape(Attribute):
    name, category, files_help = "t2i_shape", "shape", "shape_val.txt"


class Texture(Attribute):
    name, category, files_help = "t2i_texture", "texture", "texture_val.txt"


class Spatial(T2ICompBench):
    """Two objects where the prompt says they are."""

    name, category, files_help = "t2i_spatial", "spatial", "spatial_val.txt"

    def values(self, shown: Sequence[Shown], scorers: Scorers) -> list[float]:
        return spatial_scores(shown, scorers)


class NonSpatial(T2ICompBench):
    """Cosine of picture and prompt."""

    name, category, files_help = "t2i_non_spatial", "non_spatial", "non_spatial_val.txt"
    span = (-1.0, 1.0)

    def values(self, shown: Sequence[Shown], scorers: Scorers) -> list[float]:
        return action_scores(shown, scorers, without_adjectives=False)


class Complex(T2ICompBench):
    """The 3-in-1 mean of attribute, spatial and action."""

    name, category = "t2i_complex", "complex"
    files_help = "complex_val.txt complex_val_spatial.txt complex_val_action.txt"

    def read(self) -> list[Case]:
        if len(self.files) != 3:
            raise ValueError(
                f"{self.name}: {len(self.files)} data files, expected {self.files_help}, in this order"
            )
        self.spatial_prompts, self.action_prompts = (
            [line.strip() for _, line in lines_of(path)] for path in self.files[1:]
        )
        return super().read()

    def values(self, shown: Sequence[Shown], scorers: Scorers) -> list[float]:
        return t2i_three_in_one(
            [each.case.text for each in shown], self.spatial_prompts, self.action_prompts,
            attribute_scores(shown, scorers),
            spatial_scores(shown, scorers, complex_prompt=True),
            action_scores(shown, scorers, without_adjectives=True),
        )  # fmt: skip


def attribute_scores(shown: Sequence[Shown], scorers: Scorers) -> list[float]:
    """Product of P(yes) over the noun chunks of each prompt."""
    stored = _stored(scorers.file("attribute"), shown)
    if stored is not None:
        return stored
    phrases, blip = scorers.phrases(SPACY), scorers.blip(BLIP)
    chunks = [phrases(each.case.text).chunks for each in shown]
    p_yes = []
    for each, all_chunks in zip(shown, chunks, strict=True):
        asked = [chunk for chunk in all_chunks if chunk not in SKIPPED_CHUNKS][:MAX_CHUNKS]
        p_yes.append(scorers.once(("attribute", *each.key), partial(_p_yes, blip, each.path, asked)))
    return t2i_blip_vqa(chunks, p_yes)


def _p_yes(blip: BlipVQA, path: Path, chunks: Sequence[str]) -> list[str]:
    answers = blip.p_yes([read_image(path)] * len(chunks), [question_of(chunk) for chunk in chunks])
    return [f"{answer:.4f}" for answer in answers]


def spatial_scores(shown: Sequence[Shown], scorers: Scorers, complex_prompt: bool = False) -> list[float]:
    """2D-spatial score of each picture: from detections of a file (UniDet's form), or of a detector."""
    stored = _stored(scorers.file("spatial"), shown)
    if stored is not None:
        return stored
    phrases, path = scorers.phrases(SPACY), scorers.file("detections")
    names = [Path(each.drawn_for.output).name for each in shown]
    known = None if path is None else read_detections(path, names, UNIDET_ROW)
    scores = []
    for each, name in zip(shown, names, strict=True):
        tokens = phrases(each.case.text).tokens
        if known is None:
            detections = scorers.once(("spatial", *each.key), partial(_detect, each.path, tokens, scorers))
        else:
            detections = known[name]
        scores.append(t2i_spatial(each.case.text, tokens, detections, complex_prompt))
    return scores


def action_scores(shown: Sequence[Shown], scorers: Scorers, without_adjectives: bool) -> list[float]:
    """Cosine of each picture and the prompt; for complex prompts the adjectives are dropped first."""
    stored = _stored(scorers.file("action"), shown)
    if stored is not None:
        return stored
    clip = scorers.clip(CLIP)
    texts = [each.case.text for each in shown]
    if without_adjectives:
        phrases = scorers.phrases(SPACY)
        texts = [" ".join(t for t, part in phrases(text).tokens if part != "ADJ") for text in texts]
    return [
        scorers.once(("action", text, str(each.path)), partial(_cosine, clip, each.path, text))
        for each, text in zip(shown, texts, strict=True)
    ]


def _cosine(clip: ClipScorer, path: Path, text: str) -> float:
    return float(clip.score([read_image(path)], [text])[0])


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


def _stored(path: Path | None, shown: Sequence[Shown]) -> list[float] | None:
    """Scores as the official scripts leave them, where a file of them is given."""
    return None if path is None else read_scores(path, [int(each.case.id) for each in shown])
