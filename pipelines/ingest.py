"""Stage `ingest`: source shards to checked records; what is bad goes to rejects with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ddt.clean import MESSAGE_CHARS, one_line
from ddt.config import to_dict
from ddt.data.losses import Tally, told, too_many_lost
from ddt.data.readers import (
    CONVERSATIONS,
    EDITS,
    PAIRS,
    Part,
    RawSample,
    Source,
    Span,
    check_samples,
    copy_here,
    list_sources,
    read_conversations,
    read_edits,
    read_source,
    split_conversations,
)
from ddt.data.schemas import CONVERSATION_SCHEMA, EDIT_SCHEMA
from ddt.manifest import Commit, Manifest, unit_id
from ddt.records import (
    CRAWLED_SCHEMA,
    FILTERED,
    RECORD_SCHEMA,
    REJECT_REASONS,
    REJECT_SCHEMA,
    Reject,
    iter_shard,
    read_columns,
    sample_id,
    write_shard,
)
from ddt.scenes.photo import jpeg_bytes
from ddt.sections.curation import IngestParams, SceneSource
from pipelines.engine.runner import StageContext, StageError, StageResult
from pipelines.engine.units import Output, UnitWorker, digest_of, run_most_units
from pipelines.reports.curation import planted_rejects, planted_stats
from pipelines.reports.pictures import record_grid, thumbnail
from pipelines.reports.report import Report

CRAWL = tuple(
    f"ddt.scenes.{m}"
    for m in ("world", "words", "sample", "render", "photo", "text", "questions", "edits", "crawl")
)
MODULES = (
    "ddt.clean",
    "ddt.records",
    "ddt.data.decode",
    "ddt.data.filters",
    "ddt.data.metadata",
    "ddt.data.readers",
    "ddt.data.schemas",
    *CRAWL,
    "pipelines.ingest",
)
SCENES = "scenes"
SCHEMAS = {  # of records that come from files the first three have CRAWLED_SCHEMA
    "pairs": RECORD_SCHEMA,
    "holdout": RECORD_SCHEMA,
    "images": RECORD_SCHEMA,
    "edits": EDIT_SCHEMA,
    "chat": CONVERSATION_SCHEMA,
}
CONVERSATIONS_PER_UNIT = 4096  # with their pictures a shard of some hundred MB
HELD_OUT_SCENES = 256  # for what needs pictures with true captions that no training has seen
KINDS = {
    "pairs": "pairs",
    "holdout": "held-out pairs",
    "images": "tokenizer's images",
    "edits": "edits",
    "chat": "conversations",
}
REJECT_EXAMPLES = 12
FILTER_EXAMPLES = (
    2  # pictures of each reason that a shard keeps for the card, which shows as many as of a grid
)
GRID = 24
SHARD_CHARS = 40  # of a shard's name in a line that tells its losses


class IngestWorker(UnitWorker):
    """Reads one source shard, or draws one of the scenes crawl, and writes its records and rejects."""

    def setup(self, params: IngestParams) -> None:  # type: ignore[override]
        self.params = params

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        rejects, recorded = list[Reject](), Counter[str]()
        path, rejects_path = folder / "records.arrow", folder / "rejects.arrow"
        schema = SCHEMAS[unit["role"]]
        if schema is RECORD_SCHEMA and "place" in unit:
            schema = CRAWLED_SCHEMA
        rows = write_shard(path, self._rows(unit, folder, rejects, recorded), schema)
        write_shard(rejects_path, (reject.row() for reject in rejects), REJECT_SCHEMA)
        lost, told = Counter[str](), Counter[str]()
        for reject in rejects:
            if reject.lost:
                lost[reject.reason] += reject.lost
            else:
                told[reject.reason] += 1
        stats = {name: unit[name] for name in ("role", "from", "name", "folder")} | {"told": dict(told)}
        if unit["role"] == "pairs":
            stats |= planted_stats(recorded, (reject for reject in rejects if reject.lost))
        return Output(path, rows, lost, rejects_path, stats)

    def _rows(
        self, unit: dict[str, Any], folder: Path, rejects: list[Reject], recorded: Counter[str]
    ) -> Iterable[dict[str, Any]]:
        """Rows as they come; beside them what is rejected, and what was planted in what is not."""
        shown = Counter[str]()
        for item in self._read(unit, folder):
            if not isinstance(item, Reject):
                recorded.update(filter(None, [item.get("planted")]))
                yield item
                continue
            if item.picture is not None:
                shown[item.reason] += 1
                some = shown[item.reason] <= FILTER_EXAMPLES
                item.picture = jpeg_bytes(np.asarray(thumbnail(item.picture))) if some else None
            rejects.append(item)

    def _read(self, unit: dict[str, Any], folder: Path) -> Iterable[dict[str, Any] | Reject]:
        limits = {"max_pixels": self.params.max_pixels, "min_side_px": self.params.min_side_px}
        if unit["role"] == "chat":
            path = Source(unit["place"], "", "json", unit["version"]).fetch()  # one for many units: kept near
            span = None if unit["span"] is None else Span(**unit["span"])
            part = Part(unit["start"], unit["stop"], "", span)
            return read_conversations(path, unit["images"] or path.parent, **limits, part=part)
        if unit["role"] == "edits":
            drawn = "place" not in unit
            return self._drawn_edits(unit) if drawn else read_edits(self._source(unit, folder), **limits)
        if unit["role"] == "holdout" and "place" not in unit:
            return check_samples(self._held_out_scenes(unit), unit["name"], self.params)
        path, captions = self._source(unit, folder), unit["role"] != "images"
        filters = self.params.filters if unit["role"] == "pairs" else None
        return read_source(path, unit["name"], self.params, captions, filters)

    def _source(self, unit: dict[str, Any], folder: Path) -> Path:
        if "place" in unit:
            return copy_here(unit["place"], unit["version"], folder / "source")
        from ddt.scenes.crawl import write_shard as write_crawl

        scenes = self.params.scenes
        path = folder / f"{unit['index']:05d}.tar"
        rows, faults = scenes.rows_per_shard, scenes.faults
        write_crawl(path, unit["index"], rows, scenes.seed, scenes.image_side_px, faults)
        self.store.put_file(f"raw/{unit['unit']}.tar", path)  # the crawl stays there to be looked at
        return path

    def _drawn_edits(self, unit: dict[str, Any]) -> Iterable[dict[str, Any]]:
        from ddt.scenes.crawl import edit_rows

        scenes = self.params.scenes
        for row in edit_rows(unit["index"], scenes.edits_per_shard, scenes.seed, scenes.image_side_px):
            yield row | {"sample_id": sample_id(row["image"] + row["target"], row["instruction"])}

    def _held_out_scenes(self, unit: dict[str, Any]) -> Iterable[RawSample]:
        from ddt.scenes.render import render
        from ddt.scenes.sample import sample_scene
        from ddt.scenes.text import short_caption
        from ddt.scenes.world import EVALUATION_PARTS

        scenes = self.params.scenes
        rng = np.random.default_rng([scenes.seed, unit["index"], 2])  # 0 and 1 are the crawl's own
        for row in range(HELD_OUT_SCENES):
            scene = sample_scene(rng, parts=EVALUATION_PARTS)
            image = jpeg_bytes(render(scene, scenes.image_side_px))
            yield RawSample(f"{row:04d}", image, short_caption(scene, rng))


def run(ctx: StageContext) -> StageResult:
    """Ingest every source shard; stops where a kind, or a shard, loses more than `max_reject_rate`."""
    params: IngestParams = ctx.section
    units = source_units(params, ctx.fingerprint, ctx.params.train_tokenizer.source)
    made, missing = run_most_units(ctx, IngestWorker, units, params=params)
    _check_losses(ctx, units, {commit.unit: commit for commit in made})
    for key in dict.fromkeys(c.stats["from"] for c in made):
        if not any(c.rows for c in made if c.stats["from"] == key):
            section, _, name = key.partition(".")
            where = getattr(getattr(ctx.params, section), name)
            raise StageError(f"ingest: nothing usable in {key} = {where}")
    return StageResult(made, _report(ctx, made), quarantined=missing)


def _check_losses(ctx: StageContext, units: Iterable[dict[str, Any]], made: dict[str, Commit]) -> None:
    """StageError where too many samples are lost, or turned away by filters, with the counts by reason and
    the first of them.
    """
    section: IngestParams = ctx.section
    damage = tuple(reason for reason in REJECT_REASONS if reason not in FILTERED)
    there = [unit for unit in units if unit["unit"] in made]
    limits = (
        ("max_reject_rate", section.max_reject_rate, damage),
        ("filters.max_share", section.filters.max_share, FILTERED),
    )
    for key, rate, reasons in limits:
        lost = too_many_lost([_tally(unit, made[unit["unit"]], reasons) for unit in there], rate)
        if lost is not None:
            what, shards = lost
            rejects = (reject for s in shards for reject in _rejects(ctx, [made[s.unit]]))
            first = next(reject for reject in rejects if reject["lost"] and reject["reason"] in reasons)
            line = f"ingest: {what}: {told(shards)}, more than ingest.{key} = {rate}; the first: "
            raise StageError(line + one_line(_told(first), max(60, MESSAGE_CHARS - len(line))))


def _tally(unit: dict[str, Any], commit: Commit, reasons: tuple[str, ...]) -> Tally:
    """What came of a shard, of what was lost for these reasons; what was for others is not of its samples."""
    place = unit["name"] if "start" not in unit else f"{unit['name']} from entry {unit['start']}"
    kind = f"{KINDS[unit['role']]} of {unit['from']}"
    lost = {reason: count for reason, count in commit.rejects.items() if reason in reasons}
    return Tally(unit["unit"], kind, one_line(place, SHARD_CHARS), commit.rows, lost)


def _rejects(ctx: StageContext, made: Iterable[Commit]) -> Iterator[dict[str, Any]]:
    """Rows of the rejects of these units, read as they are asked for."""
    for commit in made:
        if commit.rejects or commit.stats["told"]:
            yield from iter_shard(ctx.store.fetch(str(commit.rejects_key)))


def _told(reject: dict[str, Any]) -> str:
    """A reject in a few words: where it came from and why."""
    key = "" if reject["key"] == reject["source"] else f" {reject['key']}"
    return f"{reject['source']}{key}: {reject['reason']}, {reject['detail']}".removesuffix(", ")


def is_current(ctx: StageContext, manifest: Manifest) -> bool:
    """Whether the manifest is of the source as it is now: files change under the same path."""
    units = source_units(ctx.section, ctx.fingerprint, ctx.params.train_tokenizer.source)
    return {unit["unit"] for unit in units} == manifest.units


def source_units(params: IngestParams, fingerprint: str, images: str | None = None) -> list[dict[str, Any]]:
    """One unit for each source shard: pairs, held-out pairs, tokenizer's images, edits, conversations."""
    if params.source == SCENES:
        units = _scene_units(params.scenes, fingerprint, params.holdout is None)
    else:
        units = _file_units(params.source, "pairs", fingerprint, "ingest.source")
    if params.holdout is not None:
        units += _file_units(params.holdout, "holdout", fingerprint, "ingest.holdout")
    if images is not None:
        units += _file_units(images, "images", fingerprint, "train_tokenizer.source")
    if params.edits is not None:
        units += _file_units(params.edits, "edits", fingerprint, "ingest.edits", EDITS)
    if params.conversations is not None:
        units += _chat_units(params, params.conversations, fingerprint)
    return units


def _scene_units(scenes: SceneSource, fingerprint: str, holdout: bool) -> list[dict[str, Any]]:
    shards = {"pairs": scenes.shards, "holdout": int(holdout)}
    shards["edits"] = scenes.shards if scenes.edits_per_shard else 0
    units = []
    for role, count in shards.items():
        for index in range(count):
            digest = digest_of({"scenes": to_dict(scenes), "role": role, "index": index})
            name = f"{SCENES}/{role}/{index:05d}"
            unit = unit_id(digest, fingerprint)
            what = {"unit": unit, "from": "ingest.source", "folder": SCENES}
            units.append(what | {"role": role, "index": index, "name": name})
    return units


def _file_units(
    where: str, role: str, fingerprint: str, key: str, suffixes: tuple[str, ...] = PAIRS
) -> list[dict[str, Any]]:
    units = []
    for shard in list_sources(where, key, suffixes):
        unit = unit_id(f"{role}:{shard.digest}", fingerprint)
        units.append({"unit": unit, "from": key, "role": role} | _place(shard))
    return units


def _chat_units(params: IngestParams, where: str, fingerprint: str) -> list[dict[str, Any]]:
    """Units of some thousand conversations: a published file has hundreds of thousands."""
    key, folder = "ingest.conversations", params.conversation_images
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"ingest.conversation_images: {folder} is not a folder on this machine")
    units = []
    for shard in list_sources(where, key, CONVERSATIONS):
        path = shard.fetch()
        for part in split_conversations(path, folder or path.parent, CONVERSATIONS_PER_UNIT):
            unit: dict[str, Any] = {"unit": unit_id(f"chat:{part.digest}", fingerprint)}
            unit |= {"from": key, "role": "chat"}
            unit |= _place(shard) | {"images": folder, "start": part.start, "stop": part.stop}
            unit["span"] = None if part.span is None else asdict(part.span)
            units.append(unit)
    if not units:
        raise ValueError(f"{key}: no conversation in {where}")
    return units


def _place(shard: Source) -> dict[str, Any]:
    """Where a worker finds the shard, wherever it works."""
    where = {"place": shard.place, "version": shard.version}
    return where | {"name": shard.name, "folder": shard.folder}


def _report(ctx: StageContext, made: list[Commit]) -> Report:
    report = Report("ingest")
    for role in SCHEMAS:
        report.metrics[f"ingest/{role}"] = sum(c.rows for c in made if c.stats["role"] == role)
    report.metrics["ingest/rejected"] = sum(sum(c.rejects.values()) for c in made)
    report.metrics["ingest/bytes"] = sum(c.bytes for c in made)
    pairs = [c for c in made if c.stats["role"] == "pairs" and c.rows]
    path = ctx.folder / "records.png"
    table = read_columns(ctx.store.open(pairs[0].key), ["image", "caption"], range(24))
    record_grid(table.to_pylist()).save(path)
    report.pictures["Records as they came in"] = ctx.relative(path)
    report.tables["Rejected samples by source and reason"] = reject_table(made)
    filtered = (c for c in made if not c.rejects.keys().isdisjoint(FILTERED))
    examples = list(islice((row for row in _rejects(ctx, filtered) if row["picture"]), GRID))
    if examples:
        path = ctx.folder / "filtered.png"
        sheet = [
            {"image": row["picture"], "note": row["reason"], "caption": row["detail"]} for row in examples
        ]
        record_grid(sheet).save(path)
        report.pictures["Pictures that filters turned away (some)"] = ctx.relative(path)
    columns = ["source", "key", "reason", "detail"]
    rejects = list(islice(_rejects(ctx, made), REJECT_EXAMPLES))
    if rejects:
        rows = [[str(row[name])[:80] for name in columns] for row in rejects]
        report.tables["Rejected samples (some)"] = [columns, *rows]
        report.notes = _notes(ctx, made)
    if ctx.section.source == SCENES:
        report.metrics |= planted_rejects(c.stats for c in made)
    return report


def reject_table(made: Iterable[Commit]) -> list[list[str]]:
    """A row for each kind and folder of source shards, a column for each reason that any of them has."""
    kept, lost = Counter[str](), dict[str, Counter[str]]()
    for commit in made:
        where = f"{KINDS[commit.stats['role']]} of {commit.stats['folder']}"
        kept[where] += commit.rows
        lost.setdefault(where, Counter()).update(commit.rejects)
    reasons = [reason for reason in REJECT_REASONS if any(counts[reason] for counts in lost.values())]
    rows = [
        [where, str(kept[where]), *(str(lost[where][reason]) for reason in reasons)] for where in sorted(kept)
    ]
    return [["source", "kept", *reasons], *rows]


def _notes(ctx: StageContext, made: Sequence[Commit]) -> list[str]:
    """Archives that broke off, about whose content one can only guess, and what was told without a loss.

    Counts are the commits'; of the shards of rejects only those are read that an example is taken from.
    """
    broken = _of_reason(ctx, made, "corrupt_archive")
    notes = [f"rejected {_told(row)}" for row in islice(broken, REJECT_EXAMPLES)]
    counts = Counter[str]()
    for commit in made:
        counts.update(commit.stats["told"])
    for reason, count in sorted(counts.items()):
        if reason != "corrupt_archive":
            first = next(row for row in _of_reason(ctx, made, reason) if not row["lost"])
            notes.append(f"{count} x {reason}, not counted as lost; the first: {_told(first)}")
    return [one_line(note) for note in notes]


def _of_reason(ctx: StageContext, made: Iterable[Commit], reason: str) -> Iterator[dict[str, Any]]:
    """Rejects for one reason, from the shards that have some."""
    having = (c for c in made if reason in c.rejects or reason in c.stats["told"])
    return (row for row in _rejects(ctx, having) if row["reason"] == reason)
