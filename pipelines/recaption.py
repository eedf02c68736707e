"""Stage `recaption`: a detailed caption for each image, by a LLaVA-class model (ShareGPT-4V in the paper).

A caption that says nothing, refuses, repeats itself or does not end is asked for once more, sampled, and else
rejected with its reason. Shards have a row for each record, in its order; a rejected caption is empty there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from ddt.config import to_dict
from ddt.data.ahead import ahead
from ddt.data.caption_cache import CAPTIONER, Answers, cache_key, read_answers, write_answers
from ddt.data.caption_faults import REJECTED_CAPTION_SCHEMA, fault
from ddt.data.losses import Tally, told, too_many_lost
from ddt.data.refs import model_digest
from ddt.data.schemas import CAPTION_SCHEMA
from ddt.manifest import Commit, fingerprint, unit_id
from ddt.records import iter_shard, read_shard, write_shard
from ddt.sections.curation import RecaptionParams
from pipelines.engine.runner import StageContext, StageError, StageResult
from pipelines.engine.units import Output, UnitWorker, digest_of, run_most_units
from pipelines.reports.pictures import captioned_grid
from pipelines.reports.report import Report

# What an answer of the model depends on; what is made of answers is another matter.
CAPTIONER_MODULES = ("ddt.data.captioner", "ddt.data.decode", "ddt.data.metadata", "ddt.data.pretrained")
MODULES = (*CAPTIONER_MODULES, "ddt.data.caption_faults", "pipelines.recaption")
BY_SHARD = ("ingest",)
ATTEMPTS = 2
WARMER = 0.5  # each attempt than the one before: the likeliest words were the fault, or one draw was
REJECT_EXAMPLES = 12


def models(section: RecaptionParams) -> dict[str, str]:
    """Digest of the captioner: another model gives another dataset."""
    return {"captioner": model_digest(section.model)}


def captioner_id(section: RecaptionParams) -> str:
    """Names all that an answer depends on beside the image."""
    asked = {key: value for key, value in to_dict(section).items() if key != "max_reject_rate"}
    return fingerprint(asked, models(section), CAPTIONER_MODULES)[:16]


class RecaptionWorker(UnitWorker):
    """Captions the images of one record shard, each once however often it is there."""

    def setup(self, params: RecaptionParams) -> None:  # type: ignore[override]
        import torch  # here: only workers need it

        from ddt.data.captioner import Captioner

        self.threads = torch.get_num_threads()  # the actor's cores
        self.params, self.captioner_id = params, captioner_id(params)
        self.captioner = Captioner(
            params.model,
            prompt=params.prompt,
            max_new_tokens=params.max_new_tokens,
            batch_size=params.batch_size,
        )

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        table = read_shard(self.store.fetch(unit["records"]), ["sample_id", "image"])
        digests = [hashlib.sha256(data.as_buffer()).digest() for data in table["image"]]
        images = dict(zip(digests, range(len(digests)), strict=True))  # of copies one place
        key = cache_key(self.captioner_id, unit["shard"])
        found = read_answers(self.store, key)
        known: Answers = {digest: list(found.get(digest, ())) for digest in images}
        asked = [self._attempt(table["image"], images, known, attempt) for attempt in range(ATTEMPTS)]
        if any(asked):
            write_answers(self.store, key, known)
        return self._output(unit, folder, table["sample_id"].to_pylist(), [known[d] for d in digests], asked)

    def _attempt(
        self, images: pa.ChunkedArray, places: dict[bytes, int], known: Answers, attempt: int
    ) -> int:
        """Add what the model answers where all answers so far have a fault; to how many images."""
        wanted = [
            digest
            for digest, answers in known.items()
            if len(answers) == attempt and all(map(fault, answers))
        ]
        size, temperature = self.params.batch_size, self.params.temperature + attempt * WARMER
        batches = [wanted[start : start + size] for start in range(0, len(wanted), size)]

        def read(digest: bytes) -> Any:
            return self.captioner.read(images[places[digest]].as_py())

        for batch, pictures in zip(batches, ahead(read, batches, self.threads), strict=True):
            seeds = [int.from_bytes(digest[:7], "big") + attempt for digest in batch]
            for digest, answer in zip(
                batch, self.captioner.answer(pictures, temperature, seeds), strict=True
            ):
                known[digest].append(answer)
        return len(wanted)

    def _output(
        self,
        unit: dict[str, Any],
        folder: Path,
        sample_ids: Sequence[str],
        answers: Sequence[Sequence[Any]],
        asked: Sequence[int],
    ) -> Output:
        """The shards of captions and of rejects."""
        rows, rejects = [], []
        for sample_id, attempts in zip(sample_ids, answers, strict=True):
            sound = next((answer.text for answer in attempts if not fault(answer)), "")
            rows.append({"sample_id": sample_id, "long_caption": sound})
            if not sound:
                last = attempts[-1]
                rejects.append({"sample_id": sample_id, "reason": str(fault(last)), "text": last.text})
        path, rejects_path = folder / "captions.arrow", folder / "rejects.arrow"
        write_shard(path, rows, CAPTION_SCHEMA)
        write_shard(rejects_path, rejects, REJECTED_CAPTION_SCHEMA)
        stats = {
            "records": unit["records"],
            "words": sum(len(row["long_caption"].split()) for row in rows),
            "retried": sum(bool(fault(attempts[0])) for attempts in answers),
        }
        counts = Counter(reject["reason"] for reject in rejects)
        return Output(path, len(rows), counts, rejects_path, stats)


def run(ctx: StageContext) -> StageResult:
    """Caption every training record; stops where more captions are rejected than `max_reject_rate`."""
    pairs = [c for c in ctx.inputs["ingest"].commits if c.stats["role"] == "pairs"]
    units = [
        {"unit": unit_id(c.key, ctx.fingerprint), "records": c.key, "shard": _source_shard(c)} for c in pairs
    ]
    made, missing = run_most_units(ctx, RecaptionWorker, units, params=ctx.section)
    _check_rejects(ctx, made)
    extra = {CAPTIONER: captioner_id(ctx.section)}
    return StageResult(made, _report(ctx, made), extra, quarantined=missing)


def _source_shard(records: Commit) -> str:
    """The same for the records of a source shard however they were filtered."""
    return digest_of([records.stats.get("folder"), records.stats.get("name")])[:32]


def _check_rejects(ctx: StageContext, made: Sequence[Commit]) -> None:
    """StageError where too many captions are rejected, of all or of a shard's."""
    rate = ctx.section.max_reject_rate
    names = {c.key: str(c.stats.get("name")) for c in ctx.inputs["ingest"].commits}
    tallies = [
        Tally(c.unit, "captions", names[c.stats["records"]], c.rows - sum(c.rejects.values()), c.rejects)
        for c in made
    ]
    lost = too_many_lost(tallies, rate)
    if lost is not None:
        what, shards = lost
        units = {shard.unit for shard in shards}
        first = next(_rejects(ctx, [c for c in made if c.unit in units]))
        raise StageError(
            f"recaption: {what}: {told(shards)}, more than recaption.max_reject_rate = {rate}; the first: "
            f"{first['sample_id'][:16]}: {first['reason']}, {first['text']!r}"
        )


def _rejects(ctx: StageContext, made: Sequence[Commit]) -> Any:
    """Rows of the rejects of these units, read as they are asked for."""
    for commit in made:
        if commit.rejects:
            yield from iter_shard(ctx.store.fetch(str(commit.rejects_key)))


def _report(ctx: StageContext, made: Sequence[Commit]) -> Report:
    report = Report("recaption")
    rejected = sum(sum(c.rejects.values()) for c in made)
    captions = sum(c.rows for c in made) - rejected
    report.metrics = {
        "recaption/captions": captions,
        "recaption/words_per_caption": sum(c.stats["words"] for c in made) / max(1, captions),
        "recaption/retried": sum(c.stats["retried"] for c in made),
        "recaption/rejected": rejected,
    }
    examples = list(islice(_rejects(ctx, made), REJECT_EXAMPLES))
    if examples:
        head = ["sample", "reason", "last answer"]
        rows = [[row["sample_id"][:16], row["reason"], row["text"][:80]] for row in examples]
        report.tables["Rejected captions (some)"] = [head, *rows]
    first = next(c for c in made if c.rows)  # a source shard that held nothing usable has none
    images = read_shard(ctx.store.fetch(first.stats["records"]), ["image"]).slice(0, 8)
    captions_shown = read_shard(ctx.store.fetch(first.key)).slice(0, 8)
    path = ctx.folder / "captions.png"
    captioned_grid(images["image"].to_pylist(), captions_shown["long_caption"].to_pylist()).save(path)
    report.pictures["Generated captions"] = ctx.relative(path)
    return report
