"""`ddt export`: a selection as WebDataset tars or Parquet files, for others to read, and for `ingest` again.

Images are the bytes that came in. Each file is of one shard of pairs and named after its content, so an
export that was broken off goes on, and one that is whole reads its files and writes nothing. `manifest.json`
comes last: the data set's digest and what it was made from, each file with its rows, bytes and sha256.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ddt.manifest import Manifest
from ddt.params import Params
from ddt.records import CRAWLED_SCHEMA, FACTS, read_shard
from ddt.store import Store, open_store, sha256_file
from pipelines.commands.ends import find_end
from pipelines.commands.lineage import lineage
from pipelines.engine.actors import map_units
from pipelines.engine.cluster import connect

FORMATS = {"webdataset": ".tar", "parquet": ".parquet"}
MANIFEST = "manifest.json"
ROWS_PER_GROUP = 256  # of a Parquet file: its readers hold a row group
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}

_RECORD = {field.name: field for field in CRAWLED_SCHEMA}
SCHEMA = pa.schema(
    [
        _RECORD["sample_id"],
        _RECORD["image"],
        pa.field("sha256", pa.string(), nullable=False),  # of the image's bytes
        _RECORD["caption"],
        pa.field("long_caption", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # what the selection ranked by
        pa.field("native_score", pa.float32(), nullable=False),
        pa.field("generated_score", pa.float32(), nullable=False),
        *(_RECORD[name] for name in ("width", "height", "format", "questions", "planted", "source")),
        *FACTS,
    ]
)


def run(params: Params, end: str | None, output: str, kind: str) -> None:
    """Export the one selection that `end` (None: the champion) goes back to; says what there is then.

    Raises ValueError where it goes back to none or to several, or where `output` has another export.
    """
    suffix = FORMATS[kind]
    found = find_end(end, params)
    selected = _selection(found.store, found.keys, found.name)
    read = {stage: Manifest.kept(found.store, key) for stage, key in selected.made_from.items()}
    scores = {c.stats["records"]: c.key for c in read["score"].commits}
    target = open_store(output)
    about = {
        "format": 1,
        "kind": kind,
        "digest": selected.digest,
        "manifest": selected.key,
        "store": found.store.root_uri,
        "made_from": dict(sorted(selected.made_from.items())),
    }
    _require_same(target, about)
    units = [
        {"unit": c.unit, "name": f"{c.unit[:8]}-{c.sha256[:16]}{suffix}", "pairs": c.key}
        | {"records": c.stats["records"], "scores": scores[c.stats["records"]]}
        for c in selected.commits
        if c.rows
    ]
    arguments = {"store_uri": found.store.root_uri, "output": output, "kind": kind}
    resources = params.resources.of_stage("select")
    with connect(resources):
        made = list(map_units(units, ExportWorker, arguments, resources, "export"))
    files = sorted(({k: v for k, v in each.items() if k != "unit"} for each in made), key=lambda f: f["file"])
    rows, size = (sum(file[name] for file in files) for name in ("rows", "bytes"))
    text = json.dumps(about | {"rows": rows, "bytes": size, "files": files}, indent=1) + "\n"
    target.put_bytes(MANIFEST, text.encode())
    print(f"{rows:,} pairs in {len(files):,} files, {size:,} bytes: {target.uri(MANIFEST)}")


def _selection(store: Store, keys: Sequence[str], name: str) -> Manifest:
    found = [link for link in lineage(store, keys) if link.stage == "select"]
    if len(found) != 1:
        told = f"{len(found)} selections" if found else "no selection"
        raise ValueError(f"{name}: goes back to {told}; expected one, or its digest")
    if found[0].manifest is None:
        raise ValueError(f"{name}: {found[0].fault}")
    return found[0].manifest


def _require_same(target: Store, about: dict[str, Any]) -> None:
    if target.exists(MANIFEST):
        there = json.loads(target.get_bytes(MANIFEST))
        if any(there.get(name) != about[name] for name in ("kind", "digest")):
            shown = f"{there.get('kind')} of {str(there.get('digest'))[:16]}"
            raise ValueError(f"{target.root_uri}: has another export ({shown}); expected an empty folder")


class ExportWorker:
    """Writes the file of one shard of pairs, unless it is there; returns its name, rows, bytes and sha256."""

    def __init__(self, store_uri: str, output: str, kind: str) -> None:
        self.store, self.target, self.kind = open_store(store_uri), open_store(output), kind

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        pairs = read_shard(self.store.fetch(unit["pairs"]))
        with tempfile.TemporaryDirectory(prefix="ddt-export-") as folder:
            path = Path(folder) / unit["name"]
            if self.target.exists(unit["name"]):
                path = self.target.fetch(unit["name"])
            else:
                rows = exported_rows(self.store, pairs, unit["records"], unit["scores"])
                (write_tar if self.kind == "webdataset" else write_parquet)(path, rows)
                self.target.put_file(unit["name"], path)
            facts = {"rows": len(pairs), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        return {"unit": unit["unit"], "file": unit["name"]} | facts


def exported_rows(store: Store, pairs: pa.Table, records: str, scores: str) -> Iterator[dict[str, Any]]:
    """Rows of SCHEMA for pairs of one record shard, in their order; one image at a time is in memory."""
    table = read_shard(store.fetch(records))
    scored = read_shard(store.fetch(scores), ["native_score", "generated_score"])
    place = {name: row for row, name in reversed(list(enumerate(table["sample_id"].to_pylist())))}
    for pair in pairs.to_pylist():
        row = place[pair["sample_id"]]
        record = table.slice(row, 1).to_pylist()[0]
        values = {name: None for name in SCHEMA.names} | record | scored.slice(row, 1).to_pylist()[0]
        values |= {"sha256": hashlib.sha256(record["image"]).hexdigest()}
        yield values | {"long_caption": pair["long"], "score": pair["score"]}


def write_tar(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """As img2dataset writes them: the image, `txt` with the native caption, `json` with all else.

    The bytes depend on the rows alone.
    """
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, row in enumerate(rows):
            meta = {name: value for name, value in row.items() if name != "image" and value is not None}
            members = {
                EXTENSIONS[row["format"]]: row["image"],
                "txt": row["caption"].encode(),
                "json": json.dumps(meta, sort_keys=True).encode(),
            }
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{number:06d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """A row group for every ROWS_PER_GROUP rows; images, which can't be compressed, as they are."""
    compression = {field.name: "none" if field.name == "image" else "zstd" for field in SCHEMA}
    text = [field.name for field in SCHEMA if field.name in ("source", "format", "planted")]
    with pq.ParquetWriter(path, SCHEMA, compression=compression, use_dictionary=text) as writer:
        while batch := list(islice(rows, ROWS_PER_GROUP)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
