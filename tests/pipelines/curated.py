"""A curated data set from tars of own pictures to tokens and models, each stage's shards in its own format.

The stages before and after `ingest` are what their workers would write, without a model.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddt.data.descriptor import DESCRIPTOR_BYTES
from ddt.data.schemas import CAPTION_SCHEMA, PAIR_SCHEMA, SCORE_SCHEMA
from ddt.data.tokens import TokenMeta
from ddt.data.tokens import write_shard as write_tokens
from ddt.manifest import Commit, Manifest, write_unit
from ddt.params import Params, load_params
from ddt.records import read_shard, write_shard
from ddt.store import open_store
from pipelines import ingest
from pipelines.engine.runner import StageContext
from pipelines.services.models import publish_model
from tests.data.test_readers import image, write_tar
from tests.pipelines.test_own_data import one_after_another

ROOT = Path(__file__).resolve().parents[2]
META = TokenMeta("d" * 64, 2, 8, "V_T..V_1")


def url(number: int) -> str:
    return f"https://example.org/{'shop' if number % 2 else 'home'}/{number}.jpg"


def write_source(folder: Path, shards: int = 2, rows: int = 4) -> Path:
    """Tars of pictures 0, 1, 2, ... with a caption, a url and what else a set of the web tells."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        members = []
        for number in range(shard * rows, (shard + 1) * rows):
            meta = {
                "url": url(number),
                "punsafe": number / 100,
                "questions": [{"question": "q", "answer": "a"}],
            }
            members += [
                (f"{number:03d}.{'png' if number % 3 else 'jpg'}", picture(number)),
                (f"{number:03d}.txt", f"picture {number}".encode()),
                (f"{number:03d}.json", json.dumps(meta).encode()),
            ]
        write_tar(folder / f"{shard}.tar", members)
    return folder


def picture(number: int) -> bytes:
    return image(number, image_format="PNG" if number % 3 else "JPEG")


class Curated:
    """`made`: the manifests of a run by stage, kept in the store."""

    def __init__(self, folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch, *settings: str) -> None:
        monkeypatch.setattr(ingest, "run_most_units", one_after_another)
        self.folder, self.store = folder, open_store(folder / "store")
        places = (f"paths.store={folder}/store", f"paths.workspace={folder}/workspace")
        self.params: Params = load_params(
            ROOT / "params.yaml",
            None,
            [*places, f"ingest.source={source}", "ingest.min_side_px=8", *settings],
        )
        self.made: dict[str, Manifest] = {}

    def keep(self, stage: str, commits: list[Commit], *inputs: str) -> Manifest:
        made = {name: self.made[name] for name in inputs}
        digests = {name: manifest.digest for name, manifest in made.items()}
        keys = {name: manifest.key for name, manifest in made.items()}
        self.made[stage] = Manifest(stage, self.print(stage), digests, tuple(commits), {}, keys)
        self.made[stage].keep(self.store)
        return self.made[stage]

    def print(self, stage: str) -> str:
        return hashlib.sha256(f"{stage} {sorted(self.made)}".encode()).hexdigest()

    def ingest(self) -> Manifest:
        ctx = StageContext(
            "ingest", self.params, self.params.ingest, self.store, self.folder, self.print("ingest"), {}
        )
        return self.keep("ingest", list(ingest.run(ctx).commits))

    def curate(self, without: tuple[int, ...] = ()) -> Manifest:
        """Captions, scores and pairs of all records but some."""
        found: dict[str, list[Commit]] = {"recaption": [], "score": [], "select": []}
        for commit in self.made["ingest"].commits:
            if commit.stats["role"] == "pairs":
                for stage, made in self._curated(commit, without).items():
                    found[stage].append(made)
        self.keep("recaption", found["recaption"], "ingest")
        self.keep("score", found["score"], "ingest", "recaption")
        return self.keep("select", found["select"], "ingest", "recaption", "score")

    def _curated(self, records: Commit, without: tuple[int, ...]) -> dict[str, Commit]:
        rows = read_shard(self.store.fetch(records.key)).to_pylist()
        for row in rows:
            number = int(row["caption"].split()[1])
            row |= {"long_caption": f"a long text on {number}", "native_score": 0.3 + number / 100}
            row |= {"generated_score": 0.25, "image_sha256": hashlib.sha256(row["image"]).digest()}
            row |= {"short": row["caption"], "long": row["long_caption"], "score": row["native_score"]}
            row["descriptor"] = bytes(DESCRIPTOR_BYTES)
        pairs = [row for row in rows if int(row["caption"].split()[1]) not in without]
        captions = self._unit("recaption", records, CAPTION_SCHEMA, rows)
        told = {"records": records.key, "captions": captions.key}
        scores = self._unit("score", records, SCORE_SCHEMA, rows, told)
        return {
            "recaption": captions, "score": scores,
            "select": self._unit("select", records, PAIR_SCHEMA, pairs),
        }  # fmt: skip

    def _unit(
        self, stage: str, records: Commit, schema: Any, rows: list[dict[str, Any]], stats: Any = None
    ) -> Commit:
        path = self.folder / "made.arrow"
        write_shard(path, [{name: row[name] for name in schema.names} for row in rows], schema)
        stats = stats or {"records": records.key}
        return write_unit(self.store, stage, self.print(stage), records.unit, path, len(rows), stats=stats)

    def tokens(self) -> Manifest:
        made = []
        for pairs in self.made["select"].commits:
            table = read_shard(self.store.fetch(pairs.key)).to_pydict()
            path = self.folder / "tokens.arrow"
            codes = np.zeros((pairs.rows, META.num_tokens), np.int64)
            columns = {name: table[name] for name in ("sample_id", "short", "long")} | {"codes": codes}
            rows = write_tokens(path, columns, META, "pairs")
            made.append(write_unit(self.store, "tokenize_images", self.print("t"), pairs.unit, path, rows))
        return self.keep("tokenize_images", made, "ingest", "select", "train_tokenizer")

    def model(self, stage: str, *inputs: str) -> Manifest:
        folder = self.folder / f"{stage}-{len(self.store.list('manifests/'))}"
        folder.mkdir()
        (folder / "config.json").write_text(folder.name)
        (folder / "_COMPLETE").touch()
        made = publish_model(self.store, stage, self.print(folder.name), folder, 1, {})
        return self.keep(stage, [made], *inputs)
