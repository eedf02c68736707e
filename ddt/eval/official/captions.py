"""NoCaps and Flickr30K: captions against several references, by CIDEr."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddt.eval.benchmark import mean_score
from ddt.eval.metrics import cider
from ddt.eval.metrics.caption import HIGHEST
from ddt.eval.official.asked import Asked, Prediction
from ddt.eval.official.case import Case, Judged, Scored, halves
from ddt.eval.official.fields import ANYTHING, ID, TEXT, Kind, list_of
from ddt.eval.official.files import json_of, one_line, records_of, write_whole
from ddt.eval.official.problems import Problems
from ddt.eval.scorers import Scorers
from ddt.eval.statistics import shuffled_partners

RESULTS = "captions_results.json"
SEVERAL = list_of(TEXT)
CAPTIONS = Kind(f"a text or {SEVERAL.called}", lambda value: TEXT.holds(value) or SEVERAL.holds(value))


class Captions(Asked):
    """COCO's annotations {images, annotations} or LAVIS's list [{image, caption: [...]}].

    Outputs: `captions_results.json`, [{image_id, caption}], COCO's results format. The idf comes from the
    references given, so a partial set has another scale than the whole.
    """

    blind = False  # captions of other pictures are the better floor
    ceiling_is = "each picture's last reference against its others, where it has several"

    def read(self) -> list[Case]:
        path = self.files[0]
        content = json_of(path)
        read = self._lavis(path, content) if isinstance(content, list) else self._coco(path, content)
        return list(read)

    def _lavis(self, path: Path, content: list) -> Iterator[Case]:
        ids = {"img_id": ID, "image_id": ID}
        for _, where, item in records_of(
            path, content, self.problems, {"image": TEXT, "caption": CAPTIONS}, ids
        ):
            references = [item["caption"]] if isinstance(item["caption"], str) else item["caption"]
            key = str(item.get("img_id", item.get("image_id", Path(item["image"]).stem)))
            yield self._case(key, where, item["image"], references)

    def _coco(self, path: Path, content: dict[str, Any]) -> Iterator[Case]:
        if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
            raise ValueError(f"{path}: expected 'images' and 'annotations', or a list; {self.files_help}")
        references: dict[Any, list[str]] = {}
        for _, _, item in records_of(
            path, content["annotations"], self.problems, {"image_id": ID, "caption": TEXT}, of="annotations "
        ):
            references.setdefault(item["image_id"], []).append(item["caption"])
        for _, where, item in records_of(
            path, content["images"], self.problems, {"id": ID, "file_name": TEXT}, of="images "
        ):
            if item["id"] in references:
                yield self._case(str(item["id"]), where, item["file_name"], references[item["id"]])
            else:
                self.problems.add("image without captions", f"{where}: {item['id']}")

    def _case(self, key: str, where: str, image: str, references: Sequence[str]) -> Case:
        cleaned = [one_line(text) for text in references]
        if cleaned != list(references):
            self.problems.add("reference with control characters", where, blocks=False)
        return Case(key, "", where, image=image, data={"references": cleaned})

    def answer(self, model: Any, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[str]:
        return model.caption(images)

    def read_results(self, outputs: Path, problems: Problems) -> list[Prediction]:
        path = outputs / RESULTS
        items = records_of(path, json_of(path), problems, {"image_id": ID, "caption": ANYTHING})
        return [(where, str(item["image_id"]), item["caption"]) for _, where, item in items]

    def write_results(self, outputs: Path, texts: Mapping[str, str]) -> None:
        rows = [
            {"image_id": int(case.id) if case.id.isdigit() else case.id, "caption": texts[case.id]}
            for case in self.cases
        ]
        write_whole(outputs / RESULTS, json.dumps(rows))

    def score(self, found: Mapping[str, str], scorers: Scorers) -> Scored:
        cases = self.with_output(found)
        references = {case.id: case.data["references"] for case in cases}
        captions = {case.id: one_line(found[case.id]) for case in cases}
        others = {
            case.id: captions[cases[other].id]
            for case, other in zip(cases, shuffled_partners(len(cases)), strict=True)
        }
        _, values = cider(references, captions)
        _, shuffled = cider(references, others)
        ids = [case.id for case in cases]
        score = mean_score(
            np.array([values[key] for key in ids]),
            _ceiling(references),
            {"shuffled captions": np.array([shuffled[key] for key in ids])},
            span=(0.0, HIGHEST),
        )
        judged = [
            Judged(
                each.case,
                each.value,
                each.right,
                f"{each.reason}; a reference: {each.case.data['references'][0]}",
            )
            for each in halves(cases, [values[key] for key in ids], "CIDEr")
        ]
        return Scored({f"{self.name}/cider": score}, judged)


def _ceiling(references: Mapping[str, Sequence[str]]) -> list[float] | None:
    """CIDEr of each picture's last reference against its others; None unless two pictures have several."""
    several = {key: texts for key, texts in references.items() if len(texts) > 1}
    if len(several) < 2:
        return None
    others = {key: texts[:-1] for key, texts in several.items()}
    return list(cider(others, {key: texts[-1] for key, texts in several.items()})[1].values())


class NoCaps(Captions):
    name = "nocaps"
    files_help = "nocaps_val_4500_captions.json, or LAVIS's nocaps_val.json"
    published = 4500


class Flickr30K(Captions):
    name = "flickr30k"
    files_help = "flickr30k_test.json of LAVIS (Karpathy's test split)"
    published = 1000
