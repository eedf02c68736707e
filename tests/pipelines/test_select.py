"""`select` against the same rules in memory: whatever the order, the groups, the deals and what was killed.

But for the last test, Ray's actors and Great Expectations are left out: the same workers run here one after
the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddt.data.decode import decode_rgb
from ddt.data.dedup import NEAR_ENTRY, find_duplicates
from ddt.data.descriptor import DESCRIPTOR_BYTES, distance
from ddt.data.schemas import CAPTION_SCHEMA, SCORE_SCHEMA
from ddt.data.topk import tie_hash
from ddt.data.verdicts import KINDS, SCORE_EDGES, VERDICTS, Tally
from ddt.manifest import Commit, Manifest, write_unit
from ddt.params import Params, load_params
from ddt.records import CRAWLED_SCHEMA, FACTS, RECORD_SCHEMA, read_shard, write_shard
from ddt.store import Store, open_store
from pipelines import select
from pipelines.engine.cluster import connect
from pipelines.engine.runner import FAILED_GATE, StageContext, StageError
from pipelines.engine.selection import plan
from pipelines.engine.selection.outcome import Outcome
from pipelines.reports import selection
from pipelines.reports.workspace import manifest_path
from tests.data.pictures import encode
from tests.pipelines.ray_support import RESOURCES

ROOT = Path(__file__).resolve().parents[2]
SHARDS, ROWS, KEEP = 5, 40, 60
PRINT = "a" * 64
IMAGE = b"a picture"  # nobody looks at it here

Rows = list[dict[str, Any]]


def looks(generator: np.random.Generator) -> np.ndarray:
    """A descriptor: smooth brightness, as of a picture of a few large things."""
    coarse = Image.fromarray(generator.integers(0, 256, (5, 5), dtype=np.uint8))
    luma = np.asarray(coarse.resize((32, 32), Image.Resampling.BICUBIC))
    return np.r_[luma.ravel(), generator.integers(90, 160, 128, dtype=np.uint8)].astype(np.uint8)


@functools.cache
def crawl(shard: int) -> Rows:
    """Rows of one shard: every fourth copies a row of another shard, bytes and all or only nearly.

    Scores have two digits, so that many are equal.
    """
    pictures = [looks(np.random.default_rng([7, n])) for n in range(SHARDS * ROWS)]
    rows = []
    for row in range(ROWS):
        number = source = shard * ROWS + row
        generator = np.random.default_rng([8, number])
        if row % 4 == 3:
            source = int(generator.integers(SHARDS)) * ROWS + 4 * int(generator.integers(ROWS // 4))
        near = source != number and row % 8 == 3
        descriptor = pictures[source].copy()
        if near:
            descriptor = np.clip(descriptor + generator.integers(-1, 2, DESCRIPTOR_BYTES), 0, 255).astype(
                np.uint8
            )
        look = number if near else source
        scores = generator.integers(20, 40, 2) / 100
        rows.append(
            {
                "sample_id": np.random.default_rng([9, number]).bytes(32).hex(),
                "image_sha256": np.random.default_rng([10, look]).bytes(32),
                "descriptor": descriptor.tobytes(),
                "native_score": float("nan") if number == 17 else float(scores[0]),
                "generated_score": float(scores[1]),
                "caption": "word" if row == 5 else f"a picture {number}",
                "planted": "clean" if source == number else "near_duplicate" if near else "duplicate",
            }
        )
    return rows


def scored(store: Store, shards: Sequence[Rows]) -> Manifest:
    """What the stages before leave of these shards, made in this order."""
    made = []
    for place, rows in enumerate(shards):
        unit, path = f"{place:032x}", Path(store.root_uri) / "made.arrow"
        keys = {}
        records = [
            {"image": IMAGE, "width": 8, "height": 8, "format": "PNG", "questions": [], "source": "s"}
            | dict.fromkeys(field.name for field in FACTS)
            | row
            for row in rows
        ]
        of_records = CRAWLED_SCHEMA if any("url" in row for row in rows) else RECORD_SCHEMA
        for name, schema, table in (
            ("records", of_records, records),
            ("captions", CAPTION_SCHEMA, [{**row, "long_caption": f"long {row['caption']}"} for row in rows]),
        ):
            write_shard(path, [{k: row[k] for k in schema.names} for row in table], schema)
            keys[name] = write_unit(store, name, PRINT, unit, path, len(rows)).key
        write_shard(path, [{k: row[k] for k in SCORE_SCHEMA.names} for row in rows], SCORE_SCHEMA)
        made.append(write_unit(store, "score", PRINT, unit, path, len(rows), stats=keys))
    return Manifest("score", PRINT, {}, tuple(made))


def parameters(**section: Any) -> Params:
    params = load_params(ROOT / "params.yaml")
    chosen = {"keep": KEEP, "min_native_score": 0.22, "min_generated_score": -1.0} | section
    return dataclasses.replace(
        params, select=dataclasses.replace(params.select, **chosen), resources=RESOURCES
    )


def context(folder: Path, params: Params, shards: Sequence[Rows] | None = None) -> StageContext:
    """Of these shards, or of the whole crawl."""
    store = open_store(folder / "store")
    inputs = {"score": scored(store, shards or [crawl(shard) for shard in range(SHARDS)])}
    return StageContext("select", params, params.select, store, folder, PRINT, inputs)


def one_after_another(ctx: StageContext, worker: Any, units: list[dict[str, Any]], **arguments: Any) -> Any:
    made = worker(ctx.name, ctx.fingerprint, ctx.store.root_uri, arguments)
    return [Commit(**made(unit)) for unit in sorted(units, key=lambda unit: unit["unit"])]


def added_up(function: Any, arguments: dict[str, Any], units: list[dict[str, Any]], **_: Any) -> np.ndarray:
    return sum(function(unit, **arguments) for unit in units)  # type: ignore[return-value]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray and no Great Expectations."""
    monkeypatch.setattr(select, "run_units", one_after_another)
    monkeypatch.setattr(select, "add_up", added_up)
    monkeypatch.setattr(select, "connect", lambda _: contextlib.nullcontext())
    without_gate(monkeypatch)


def without_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = SimpleNamespace(page=ROOT, checked=0, failed=())
    monkeypatch.setattr(select, "check_pairs", lambda *_: passed)
    monkeypatch.setattr(StageContext, "relative", lambda self, path: path.name)
    monkeypatch.setattr(select, "selection_pictures", lambda *_: {})


def digest(ctx: StageContext) -> str:
    return Manifest("select", PRINT, {}, tuple(select.run(ctx).commits)).digest


def pairs_of(ctx: StageContext, made: Sequence[Commit]) -> Rows:
    return [row for c in made for row in read_shard(ctx.store.fetch(c.key)).to_pylist()]


def in_memory(params: Params) -> tuple[set[str], dict[str, int]]:
    """Ids of the crawl's pairs by the rules as they are told, and the counts of verdicts."""
    section, rows = params.select, [row for shard in range(SHARDS) for row in crawl(shard)]
    verdicts = []
    for row in rows:
        if np.isnan(row["native_score"]):
            verdicts.append("no_score")
        elif len(row["caption"].split()) < section.min_caption_words:
            verdicts.append("short_caption")
        else:
            low = np.float32(row["native_score"]) < section.min_native_score
            verdicts.append("low_native_score" if low else "kept")
    ids = np.array([list(bytes.fromhex(row["sample_id"])) for row in rows], np.uint8)
    ties, scores = tie_hash(ids, section.seed), np.float32([row["native_score"] for row in rows])
    entries = np.zeros(len(rows), NEAR_ENTRY)
    entries["score"], entries["tie"] = scores, ties
    for name in ("image_sha256", "descriptor"):
        entries[name.removeprefix("image_")] = [list(row[name]) for row in rows]
    passing = [n for n, verdict in enumerate(verdicts) if verdict == "kept"]
    for n, code in zip(passing, find_duplicates(entries[passing]), strict=True):
        verdicts[n] = VERDICTS[code]
    best = np.lexsort((ties, -scores))
    left = [n for n in best.tolist() if verdicts[n] == "kept"]
    for n in left[section.keep :]:
        verdicts[n] = "below_top_k"
    counts = {name: verdicts.count(name) for name in sorted(set(verdicts))}
    return {rows[n]["sample_id"] for n in left[: section.keep]}, counts


def test_pairs_are_those_of_the_rules_in_memory(alone: None, tmp_path: Path) -> None:
    params = parameters()
    ctx = context(tmp_path, params)
    result = select.run(ctx)
    want, counts = in_memory(params)
    assert counts["duplicate"] > 5 and counts["near_duplicate"] > 5 and counts["no_score"] == 1
    pairs = pairs_of(ctx, result.commits)
    assert len(pairs) == KEEP and {pair["sample_id"] for pair in pairs} == want
    assert all(pair["long"] == f"long {pair['short']}" for pair in pairs)
    assert {name: result.report.metrics[f"select/{name}"] for name in counts} == counts
    assert result.report.metrics["select/ties_at_threshold"] > 1
    assert result.report.metrics["select/threshold"] == min(pair["score"] for pair in pairs)
    assert not ctx.store.list("shards/select/duplicates"), "what workers hand on is removed"
    assert not ctx.store.list("units/select/filter")


def test_order_groups_and_deals_do_not_matter(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = digest(context(tmp_path / "a", parameters()))
    for folder, order, groups, rows in (("b", [3, 1, 4, 0, 2], 100, 30), ("c", range(SHARDS), 2, 1000)):
        monkeypatch.setattr(plan, "MAX_GROUPS", groups)
        monkeypatch.setattr(plan, "DEAL_ROWS", rows)
        assert digest(context(tmp_path / folder, parameters(), list(map(crawl, order)))) == want


def test_killed_anywhere_and_run_again(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = digest(context(tmp_path / "whole", parameters()))
    ctx = context(tmp_path / "killed", parameters())
    original, made = select.UnitWorker.__call__, []

    def call(self: Any, unit: dict[str, Any]) -> dict[str, Any]:
        if len(made) % 5 == 4:
            made.append("killed")
            raise KeyboardInterrupt
        made.append(unit["unit"])
        return original(self, unit)

    monkeypatch.setattr(select.UnitWorker, "__call__", call)
    monkeypatch.setattr(select, "run_units", only_missing)
    kills = 0
    while True:
        try:
            assert digest(ctx) == want
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 5
    done = [unit for unit in made if unit != "killed"]
    assert len(done) == len(set(done)), "what was committed is not made again"
    before = len(made)
    assert digest(ctx) == want and len(made) == before, "with nothing missing nothing is made"


def only_missing(ctx: StageContext, worker: Any, units: list[dict[str, Any]], **arguments: Any) -> Any:
    done = select.commits(ctx.store, ctx.name, ctx.fingerprint)
    missing = [unit for unit in units if unit["unit"] not in done]
    made = {c.unit: c for c in one_after_another(ctx, worker, missing, **arguments)} | done
    return [made[name] for name in sorted(unit["unit"] for unit in units)]


def test_equal_bytes_alone(alone: None, tmp_path: Path) -> None:
    metrics = select.run(context(tmp_path, parameters(drop_near_duplicates=False))).report.metrics
    assert "select/near_duplicate" not in metrics and metrics["select/duplicate"] > 5


def test_planted_copies_are_measured(alone: None, tmp_path: Path) -> None:
    metrics = select.run(context(tmp_path, parameters(min_native_score=-1.0, keep=140))).report.metrics
    assert metrics["select/duplicate_dropped"] == 1 and metrics["select/near_duplicate_dropped"] == 1
    clean = SHARDS * ROWS * 3 // 4
    lost = SHARDS + 1  # captions too short and a score that is none
    assert metrics["select/clean_lost_to_filters"] == pytest.approx(lost / clean)


def unlike(count: int, native: Sequence[float], generated: float = 0.3) -> Rows:
    """Rows with nothing wrong but for their scores, each another picture."""
    plain = [row for shard in range(SHARDS) for row in crawl(shard) if row["planted"] == "clean"]
    good = [row for row in plain if len(row["caption"].split()) > 1][:count]
    scores = zip(good, np.resize(native, count).tolist(), strict=True)
    return [row | {"native_score": score, "generated_score": generated} for row, score in scores]


@pytest.mark.parametrize("seed", [0, 1])
def test_of_equal_scores_the_lowest_hashes_stay(alone: None, tmp_path: Path, seed: int) -> None:
    """Two rows are above the threshold, ten at it, of which three stay, and four below."""
    rows = unlike(16, [0.5] * 2 + [0.25] * 10 + [0.125] * 4)
    ctx = context(
        tmp_path, parameters(keep=5, seed=seed, min_native_score=-1.0), [rows[:3], rows[3:9], rows[9:]]
    )
    result = select.run(ctx)
    ids = np.array([list(bytes.fromhex(row["sample_id"])) for row in rows], np.uint8)
    ties = 2 + np.argsort(tie_hash(ids[2:12], seed))[:3]
    kept = {pair["sample_id"] for pair in pairs_of(ctx, result.commits)}
    assert kept == {rows[i]["sample_id"] for i in (0, 1, *ties.tolist())}
    metrics = result.report.metrics
    assert metrics["select/threshold"] == 0.25 and metrics["select/ties_at_threshold"] == 10
    assert metrics["select/below_top_k"] == 11


def test_a_shard_without_rows_and_one_without_pairs(alone: None, tmp_path: Path) -> None:
    """The first group holds nothing at all; neither it nor rows that all fail are an error."""
    shards = [[], unlike(6, [0.3]), unlike(4, [0.1])]
    ctx = context(tmp_path, parameters(keep=6), shards)
    made = select.run(ctx).commits
    assert sorted(c.rows for c in made) == [0, 0, 6]
    assert {pair["sample_id"] for pair in pairs_of(ctx, made)} == {row["sample_id"] for row in shards[1]}


@pytest.mark.parametrize("rank_by", ["native", "generated", "mean"])
def test_a_row_without_either_score_is_dropped_however_rows_are_ranked(
    alone: None, tmp_path: Path, rank_by: str
) -> None:
    rows = unlike(6, [0.3])
    rows[2]["native_score"] = rows[4]["generated_score"] = float("nan")
    ctx = context(tmp_path, parameters(keep=4, rank_by=rank_by), [rows])
    result = select.run(ctx)
    assert result.report.metrics["select/no_score"] == 2
    assert {pair["sample_id"] for pair in pairs_of(ctx, result.commits)} == {
        rows[i]["sample_id"] for i in (0, 1, 3, 5)
    }


@pytest.mark.parametrize(
    ("native", "reason"), [(0.1, "low_native_score"), (float("nan"), "no_score")], ids=["low", "nan"]
)
def test_with_nothing_left_the_reason_is_told(
    alone: None, tmp_path: Path, native: float, reason: str
) -> None:
    ctx = context(tmp_path, parameters(keep=1), [unlike(6, [native]), []])
    with pytest.raises(StageError) as told:
        select.run(ctx)
    assert (
        str(told.value) == f"select: 0 pairs pass the filters, select.keep asks for 1 (dropped: {reason} 6)"
    )
    assert not ctx.store.list("shards/select"), "with other thresholds nothing of it is of use"


def test_a_caption_is_dropped_for_what_is_wrong_with_it(alone: None, tmp_path: Path) -> None:
    captions = {
        "a red circle above a blue square": "kept",
        "goldfish in a small round bowl": "kept",
        "": "empty_caption",
        "fish": "short_caption",
        "a red fish " * 4: "long_caption",
        "IMG 2034": "boilerplate",
        "click here to see more": "boilerplate",
        "Ein Hund spielt im Garten mit einem Ball": "foreign_caption",
        "собака на пляже": "foreign_caption",
        "Nike Air Max 90": "kept",
        "a photo of two squares": "kept",
    }
    rows = unlike(len(captions), [0.3])
    for row, caption in zip(rows, captions, strict=True):
        row["caption"] = caption
    filters = {"max_caption_words": 10, "drop_boilerplate": True, "caption_languages": ("en",)}
    ctx = context(tmp_path, parameters(keep=4, **filters), [rows])
    result = select.run(ctx)
    assert {pair["short"] for pair in pairs_of(ctx, result.commits)} == {
        caption for caption, verdict in captions.items() if verdict == "kept"
    }
    for verdict, count in Counter(captions.values()).items():
        assert result.report.metrics[f"select/{verdict}"] == count
    head, counts = result.report.tables["By source, before the cut at K"]
    assert dict(zip(head, counts, strict=True)) == {
        "source": "unknown", "left": "4", "empty_caption": "1", "short_caption": "1", "long_caption": "1",
        "boilerplate": "2", "foreign_caption": "2",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"select.caption_languages = \['xx'\]: expected null or codes"):
        select.run(context(tmp_path / "b", parameters(caption_languages=("xx",)), [rows]))


def test_a_takedown_list_makes_another_version_without_its_samples(alone: None, tmp_path: Path) -> None:
    """By id, by the image's bytes (both copies of them) and by url; the list is part of the version."""
    rows = unlike(8, [0.3])
    copy = rows[2] | {"sample_id": "9" * 64, "native_score": 0.4}
    rows = [*rows, copy]
    for number, row in enumerate(rows):
        row["url"] = None if number == 7 else f"https://Example.org/{'private/' * (number > 5)}{number}.jpg"
    taken = tmp_path / "taken.txt"
    taken.write_text(
        f"# by mail\n{rows[0]['sample_id'].upper()}\n{rows[2]['image_sha256'].hex()}  # a picture\n\n"
        "https://example.org/private/*\n"
    )
    whole = context(tmp_path / "whole", parameters(keep=4), [rows])
    params = parameters(keep=4, takedown=str(taken))
    ctx = context(tmp_path / "without", params, [rows])
    result = select.run(ctx)
    kept = {pair["sample_id"] for pair in pairs_of(ctx, result.commits)}
    assert kept <= {rows[n]["sample_id"] for n in (1, 3, 4, 5, 7)} and len(kept) == 4
    assert result.report.metrics["select/taken_down"] == 4  # rows 0, 2, 6 and the copy of 2
    assert copy["sample_id"] in {pair["sample_id"] for pair in pairs_of(whole, select.run(whole).commits)}
    assert select.models(params.select).keys() == {"takedown"} and select.models(whole.section) == {}
    before = select.models(params.select)
    taken.write_text("f" * 64)
    assert select.models(params.select) != before
    taken.unlink()
    with pytest.raises(ValueError, match="select.takedown: .*taken.txt: no such file"):
        select.models(params.select)


def test_scores_are_compared_with_those_of_the_last_version_that_passed(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = context(tmp_path, parameters(keep=60))
    made = {60: select.run(first)}
    assert "select/score_drift" not in made[60].report.metrics, "there is none before"
    path, before = manifest_path(tmp_path, "select"), Manifest("select", PRINT, {}, tuple(made[60].commits))
    before.save(path)
    before.keep(first.store)
    second = dataclasses.replace(context(tmp_path, parameters(keep=20)), fingerprint="b" * 64)
    made[20] = select.run(second)
    scores = {
        keep: np.histogram([pair["score"] for pair in pairs_of(first, result.commits)], SCORE_EDGES)[0]
        for keep, result in made.items()
    }
    shares = [np.cumsum(counts) / counts.sum() for counts in scores.values()]
    drift = made[20].report.metrics["select/score_drift"]
    assert drift == pytest.approx(np.abs(shares[0] - shares[1]).max()) and drift > 0.2
    failed = SimpleNamespace(page=ROOT, checked=0, failed=("drift",))
    monkeypatch.setattr(select, "check_pairs", lambda *_: failed)
    again = select.run(second)
    assert again.extra == {select.BEFORE: before.key} and again.gate is failed
    extra = again.extra | {FAILED_GATE: ["drift"]}
    Manifest("select", second.fingerprint, {}, tuple(again.commits), extra).save(path)
    third = select.run(dataclasses.replace(second, fingerprint="c" * 64))
    assert third.report.metrics["select/score_drift"] == drift, "against the first, as the failed one was"


def test_too_few_are_told_with_the_reasons(alone: None, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"select.keep asks for 199 \(dropped: .*duplicate \d+.*no_score 1"):
        select.run(context(tmp_path, parameters(keep=199)))


class KilledOnce(select.DuplicatesWorker):
    """Ends its process at its first unit of all."""

    def process(self, unit: dict[str, Any], folder: Path) -> Any:
        if self.store.put_if_absent("killed", b""):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().process(unit, folder)


@pytest.mark.ray
def test_workers_and_kills_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_gate(monkeypatch)
    found = {}
    with connect(RESOURCES):
        for workers in (1, 2):
            params = dataclasses.replace(parameters(), resources=dataclasses.replace(RESOURCES, cpus=workers))
            monkeypatch.setattr(plan, "MAX_GROUPS", workers)
            if workers > 1:
                monkeypatch.setattr(select, "DuplicatesWorker", KilledOnce)
            ctx = context(tmp_path / str(workers), params)
            found[workers] = digest(ctx)
    assert ctx.store.exists("killed")
    assert found[1] == found[2]


def test_people_are_shown_what_stands_at_the_threshold_and_what_copies_lost_to(
    alone: None, tmp_path: Path
) -> None:
    ctx = context(tmp_path, parameters())
    result = select.run(ctx)
    shown = Outcome.load(ctx).examples  # type: ignore[union-attr]
    rows = {
        (c.stats["records"], place): row
        for c in ctx.inputs["score"].commits
        for place, row in enumerate(read_shard(ctx.store.fetch(c.key)).to_pylist())
    }
    kept = {pair["sample_id"] for pair in pairs_of(ctx, result.commits)}
    threshold = result.report.metrics["select/threshold"]

    around = [(rows[e["records"], e["row"]], e["note"]) for e in shown["threshold"]]
    scores = [row["native_score"] for row, _ in around]
    assert len(around) == 16 and scores == sorted(scores, reverse=True)
    for row, note in around:
        score, what = note.split(" ", 1)
        assert float(score) == pytest.approx(row["native_score"], abs=1e-4)
        assert ("not kept" not in what) == (row["sample_id"] in kept)
        assert what.startswith("tie") == (row["native_score"] == threshold)
    best_left_out = max(scores[8:])
    assert all(row["sample_id"] in kept for row, _ in around[:8])
    assert scores[7] == threshold >= best_left_out

    copies = [(rows[e["records"], e["row"]], e["note"]) for e in shown["copies"]]
    assert len(copies) >= 12
    for (better, of_better), (copy, verdict) in zip(copies[::2], copies[1::2], strict=True):
        assert of_better == "the better one" and copy["sample_id"] not in kept
        assert better["native_score"] >= copy["native_score"]
        same = better["image_sha256"] == copy["image_sha256"]
        looks = (np.frombuffer(row["descriptor"], np.uint8) for row in (better, copy))
        near = distance(*(look[None] for look in looks))[0] <= 1
        assert same if verdict == "duplicate" else near and not same
    assert {note for _, note in copies} == {"the better one", "duplicate", "near_duplicate"}


def test_the_pictures_are_those_of_the_examples(tmp_path: Path) -> None:
    rows = unlike(4, [0.3])
    for number, row in enumerate(rows):
        row["image"] = encode(Image.new("RGB", (8, 8), (number, 0, 0)))
    store = open_store(tmp_path / "store")
    records = [c.stats["records"] for c in scored(store, [rows[:3], rows[3:]]).commits]
    by_rows = {len(read_shard(store.fetch(key))): key for key in records}
    wanted = [(by_rows[3], 2), (by_rows[1], 0), (by_rows[3], 0), (by_rows[3], 2)]
    found = selection._rows(store, [{"records": key, "row": row, "note": str(row)} for key, row in wanted])
    assert [decode_rgb(row["image"]).getpixel((0, 0))[0] for row in found] == [2, 3, 0, 2]
    assert [row["note"] for row in found] == ["2", "0", "0", "2"]
    counts = np.zeros((len(KINDS), len(VERDICTS)), np.int64)
    bins = np.ones(len(SCORE_EDGES) - 1, np.int64)
    example = {"records": by_rows[3], "row": 1, "note": "0.3000 tie, kept"}
    pictures = selection.selection_pictures(
        store, Tally(counts, counts, bins, bins), 0.3, {"threshold": [example], "copies": []}, tmp_path
    )
    assert [path.name for path in pictures.values()] == ["scores.png", "threshold.png"]
    assert all(path.is_file() for path in pictures.values())
