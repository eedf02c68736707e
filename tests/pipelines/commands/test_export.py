"""An exported selection is read again by `ingest` as the records that it is of, every byte the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import pytest

from ddt.records import RECORD_SCHEMA, read_shard
from ddt.store import sha256_file
from pipelines.commands import export
from tests.pipelines.curated import Curated, write_source

CARRIED = [name for name in (*RECORD_SCHEMA.names, "url", "nsfw") if name != "source"]


def one_after_another(units, worker, arguments, resources, desc):
    made = worker(**arguments)
    return [made(unit) for unit in units]


@pytest.fixture
def curated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Curated:
    monkeypatch.setattr(export, "map_units", one_after_another)
    monkeypatch.setattr(export, "connect", lambda _: contextlib.nullcontext())
    made = Curated(tmp_path, write_source(tmp_path / "own", shards=2, rows=5), monkeypatch)
    made.ingest()
    made.curate(without=(1, 7))
    return made


def rows_of(curated: Curated) -> dict[str, dict]:
    shards = [c for c in curated.made["ingest"].commits if c.stats["role"] == "pairs"]
    rows = [row for c in shards for row in read_shard(curated.store.fetch(c.key)).to_pylist()]
    return {row["sample_id"]: {name: row[name] for name in CARRIED} for row in rows}


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_round_trip(curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    output, digest = tmp_path / "out", curated.made["select"].digest
    export.run(curated.params, digest[:16], str(output), kind)
    told = json.loads((output / "manifest.json").read_text())
    assert (
        told["digest"] == digest
        and told["rows"] == 8
        and told["made_from"] == curated.made["select"].made_from
    )
    for file in told["files"]:
        path = output / file["file"]
        assert (path.stat().st_size, sha256_file(path)) == (file["bytes"], file["sha256"])
    again = Curated(tmp_path / "again", output, monkeypatch)
    again.folder.mkdir(exist_ok=True)
    again.ingest()
    before, after = rows_of(curated), rows_of(again)
    captions = {row["caption"] for row in after.values()}
    assert captions == {f"picture {number}" for number in range(10) if number not in (1, 7)}
    assert after == {name: before[name] for name in after} and len(after) == 8
    assert {row["format"] for row in after.values()} == {"JPEG", "PNG"}


def test_what_an_export_tells_of_a_pair(curated: Curated, tmp_path: Path) -> None:
    export.run(curated.params, curated.made["select"].key, str(tmp_path / "out"), "parquet")
    import pyarrow.parquet as pq

    rows = [row for path in (tmp_path / "out").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    for row in rows:
        number = int(row["caption"].split()[1])
        assert row["sha256"] == hashlib.sha256(row["image"]).hexdigest()
        assert row["long_caption"] == f"a long text on {number}"
        assert row["score"] == row["native_score"] == pytest.approx(0.3 + number / 100)
        assert row["generated_score"] == 0.25 and row["source"].endswith(f"{number:03d}")


def test_an_export_goes_on_and_refuses_what_is_another(curated: Curated, tmp_path: Path) -> None:
    output, select = tmp_path / "out", curated.made["select"]
    export.run(curated.params, select.digest, str(output), "webdataset")
    before = {path.name: path.read_bytes() for path in output.glob("[!.]*")}
    gone, kept = sorted(output.glob("*.tar"))
    gone.unlink()
    (output / "manifest.json").unlink()
    stamp = kept.stat().st_mtime_ns
    export.run(curated.params, select.digest, str(output), "webdataset")
    assert {path.name: path.read_bytes() for path in output.glob("[!.]*")} == before
    assert kept.stat().st_mtime_ns == stamp, "what is there is not written again"
    with pytest.raises(ValueError, match="has another export .webdataset of"):
        export.run(curated.params, select.digest, str(output), "parquet")
    with pytest.raises(ValueError, match="goes back to no selection"):
        export.run(curated.params, curated.made["ingest"].digest, str(tmp_path / "none"), "parquet")
    assert not (tmp_path / "none" / "manifest.json").exists()
