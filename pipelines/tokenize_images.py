"""Stage `tokenize_images`: images of pairs, edits and conversations to T codes each, checked by a gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ddt.data.ahead import ahead
from ddt.data.decode import decode_image
from ddt.data.tokens import ShardFacts, TokenMeta, TokenShard, write_shard
from ddt.manifest import Commit, unit_id
from ddt.records import read_columns, read_shard
from ddt.sections.tokenizer import TokenizeImagesParams
from ddt.store import open_store
from pipelines.engine.cluster import connect
from pipelines.engine.runner import StageContext, StageResult
from pipelines.engine.sums import add_up
from pipelines.engine.units import Output, UnitWorker, digest_of, run_most_units
from pipelines.reports.overhead import overhead
from pipelines.reports.pictures import usage_plot
from pipelines.reports.report import Report
from pipelines.services.expectations import Expectation, GateResult, validate
from pipelines.services.models import model_key

MODULES = (
    "ddt.data.tokens",
    "ddt.data.decode",
    "ddt.data.metadata",
    "ddt.tokenizer",
    "ddt.baselines",
    "pipelines.tokenize_images",
)
BY_SHARD = ("ingest", "select")
POSITION_SHARDS = 64  # whose codes are looked at position by position


class TokenizeWorker(UnitWorker):
    """Encodes the images of one shard; codes are stored V_1..V_T whatever order a language model reads."""

    def setup(self, tokenizer: str, params: TokenizeImagesParams) -> None:  # type: ignore[override]
        import torch

        from ddt.baselines.kinds import load_image_tokenizer

        self.batch_size, self.threads = params.batch_size, torch.get_num_threads()  # the actor's cores
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = load_image_tokenizer(self.store.fetch_tree(tokenizer)).to(device).eval()
        config = self.tokenizer.config
        self.meta = TokenMeta(
            self.tokenizer.digest, config.num_tokens, config.codebook_size, config.token_order
        )

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        makers = {
            "pairs": self._pairs,
            "holdout": self._held_out,
            "edits": self._edits,
            "chat": self._conversations,
        }
        columns = makers[unit["role"]](unit)
        path = folder / "tokens.arrow"
        kind = "pairs" if unit["role"] == "holdout" else unit["role"]
        rows = write_shard(path, columns, self.meta, kind)
        codes, facts = TokenShard(path).codes(), ShardFacts.of(path)
        counts = np.bincount(codes.reshape(-1), minlength=self.meta.codebook_size)
        stats = {
            "role": unit["role"],
            **facts.to_stats(),
            "images": len(codes),
            "codes_used": int((counts > 0).sum()),
            "largest_share": float(counts.max() / max(1, counts.sum())),
        }
        return Output(path, rows, stats=stats)

    def _pairs(self, unit: dict[str, Any]) -> dict[str, Any]:
        pairs = read_shard(self.store.fetch(unit["pairs"])).to_pydict()
        records = read_shard(self.store.fetch(unit["records"]), ["sample_id", "image", "questions"])
        place = {name: i for i, name in enumerate(records["sample_id"].to_pylist())}
        rows = [place[name] for name in pairs["sample_id"]]
        columns = {name: pairs[name] for name in ("sample_id", "short", "long")}
        columns["questions"] = records["questions"].take(pa.array(rows, pa.int64())).to_pylist()
        return columns | {"codes": self._encode([records["image"][row] for row in rows])}

    def _held_out(self, unit: dict[str, Any]) -> dict[str, Any]:
        records = read_shard(
            self.store.fetch(unit["records"]), ["sample_id", "image", "caption", "questions"]
        )
        columns = records.select(["sample_id", "questions"]).to_pydict()
        columns |= {"short": records["caption"].to_pylist(), "long": [None] * len(records)}
        return columns | {"codes": self._encode(list(records["image"]))}

    def _edits(self, unit: dict[str, Any]) -> dict[str, Any]:
        records = read_shard(self.store.fetch(unit["records"]))
        columns = records.select(["sample_id", "instruction"]).to_pydict()
        codes, target_codes = (self._encode(list(records[name])) for name in ("image", "target"))
        return columns | {"codes": codes, "target_codes": target_codes}

    def _conversations(self, unit: dict[str, Any]) -> dict[str, Any]:
        records = read_shard(self.store.fetch(unit["records"]))
        shown = [list(images.values) for images in records["images"]]
        codes_nT = self._encode([image for images in shown for image in images])
        ends = np.cumsum([len(images) for images in shown])
        codes = np.split(codes_nT, ends[:-1])
        return records.select(["sample_id", "turns"]).to_pydict() | {"codes": codes}

    def _encode(self, images: Sequence[pa.BinaryScalar]) -> np.ndarray:
        """Encoded images, of which a few at a time are in memory at full size, to int64 codes [n, T]."""
        import torch

        codes = [np.zeros((0, self.meta.num_tokens), np.int64)]
        device, side_px = next(self.tokenizer.parameters()).device, self.tokenizer.config.image_size
        starts = range(0, len(images), self.batch_size)
        batches = [images[start : start + self.batch_size] for start in starts]
        for decoded in ahead(lambda image: decode_image(image.as_py(), side_px), batches, self.threads):
            images_BHWC = torch.from_numpy(np.stack(decoded)).to(device)
            images_BCHW = images_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1
            codes.append(self.tokenizer.encode(images_BCHW).cpu().numpy())
        return np.concatenate(codes)


def run(ctx: StageContext) -> StageResult:
    """Tokenize every selected pair, held-out picture, edit and conversation."""
    ingest, select = ctx.inputs["ingest"], ctx.inputs["select"]
    units = []
    for c in select.commits:
        if c.rows:
            digest = digest_of([c.stats["records"], c.sha256])
            unit = unit_id(digest, ctx.fingerprint)
            units.append({"unit": unit, "role": "pairs", "records": c.stats["records"], "pairs": c.key})
    for c in ingest.commits:
        if c.stats["role"] in ("holdout", "edits", "chat") and c.rows:
            unit = unit_id(c.sha256, ctx.fingerprint)
            units.append({"unit": unit, "role": c.stats["role"], "records": c.key})
    tokenizer = model_key(ctx.inputs["train_tokenizer"])
    with connect(ctx.params.resources):
        made, missing = run_most_units(ctx, TokenizeWorker, units, tokenizer=tokenizer, params=ctx.section)
        use = code_use(ctx, made)
    with overhead("great_expectations"):
        gate = check_tokens(made, use, ctx.section, ctx.folder)
    report = Report("tokenize_images")
    entropy = entropy_nats(use.counts_K)
    report.metrics = {
        "tokenize/pairs": sum(c.rows for c in made if c.stats["role"] == "pairs"),
        "tokenize/pairs_with_questions": sum(c.stats["asked"] for c in made if c.stats["role"] == "pairs"),
        "tokenize/edits": sum(c.rows for c in made if c.stats["role"] == "edits"),
        "tokenize/conversations": sum(c.rows for c in made if c.stats["role"] == "chat"),
        "tokenize/bytes": sum(c.bytes for c in made),
        "tokenize/codes_used": float((use.counts_K > 0).mean()),
        "tokenize/perplexity": math.exp(entropy),
        "tokenize/unigram_entropy_nats": entropy,
        "tokenize/bits_an_image": float(use.bits_T.sum()),
    }
    report.pages["Data Docs of the gate"] = ctx.relative(gate.page)
    path = ctx.folder / "usage.png"
    usage_plot(use.counts_K).save(path)
    report.pictures["Use of the codebook"] = ctx.relative(path)
    return StageResult(made, report, gate=gate, quarantined=missing)


@dataclass(frozen=True)
class CodeUse:
    """How often each code was used in all shards, and the entropy in bits of the code at each position in a
    seeded sample of them.

    Added up, the latter are the most that the codes of an image can say: less than `bits_per_image` where
    positions use different parts of the codebook. Of few images they come out too low.
    """

    counts_K: np.ndarray
    bits_T: np.ndarray


def code_use(ctx: StageContext, made: Sequence[Commit]) -> CodeUse:
    """Of these token shards, inside `connect`: workers count the codes, the sample's positions are counted
    here.
    """
    filled = [c for c in made if c.rows]
    chosen = np.random.default_rng(0).permutation(len(filled))[:POSITION_SHARDS]
    shards = [TokenShard(ctx.store.fetch(filled[number].key)) for number in sorted(chosen.tolist())]
    codebook_size = shards[0].meta.codebook_size
    units = [{"unit": c.unit, "tokens": c.key} for c in filled]
    resources = replace(ctx.params.resources, gpus_per_actor=0.0)
    told = {"store": ctx.store.root_uri, "codebook_size": codebook_size}
    counts_K = add_up(count_codes, told, units, resources, desc=f"{ctx.name}/count")
    return CodeUse(counts_K, bits_of_positions([shard.codes() for shard in shards], codebook_size))


def count_codes(unit: dict[str, Any], store: str, codebook_size: int) -> np.ndarray:
    """int64[K]: how often each code is in a shard. Of the shard the codes alone are read."""
    with open_store(store).open(unit["tokens"]) as file:
        column = read_columns(file, ["codes"])["codes"].combine_chunks()
    while not pa.types.is_integer(column.type):
        column = column.flatten()
    return np.bincount(column.to_numpy(), minlength=codebook_size)


def bits_of_positions(shards: Sequence[np.ndarray], codebook_size: int) -> np.ndarray:
    """float64[T] of shards of codes [N, T], one position at a time."""
    bits = []
    for position in range(shards[0].shape[1]):
        codes_N = np.concatenate([codes_NT[:, position] for codes_NT in shards])
        bits.append(entropy_nats(np.bincount(codes_N, minlength=codebook_size)) / math.log(2))
    return np.array(bits)


def entropy_nats(counts_K: np.ndarray) -> float:
    """Of the distribution that counts make."""
    share = counts_K[counts_K > 0] / counts_K.sum()
    return float(-(share * np.log(share)).sum())


def check_tokens(
    made: Sequence[Commit], use: CodeUse, params: TokenizeImagesParams, folder: Path
) -> GateResult:
    """The gate on the token shards, each by its statistics, and on how the codebook was used in all."""
    names = ("num_tokens", "tokenizer_digest", "largest_share")
    table = pd.DataFrame([{"rows": c.rows} | {name: c.stats[name] for name in names} for c in made])
    codebook = pd.DataFrame({"usage": [float((use.counts_K > 0).mean())]})
    shard_expectations = [
        Expectation("ExpectColumnValuesToBeBetween", {"column": "rows", "min_value": 1}),
        Expectation(
            "ExpectColumnUniqueValueCountToBeBetween", {"column": "tokenizer_digest", "max_value": 1}
        ),
        Expectation("ExpectColumnUniqueValueCountToBeBetween", {"column": "num_tokens", "max_value": 1}),
        # One code for everything is what a collapsed codebook looks like.
        Expectation("ExpectColumnValuesToBeBetween", {"column": "largest_share", "max_value": 0.5}),
    ]
    usage = Expectation(
        "ExpectColumnValuesToBeBetween", {"column": "usage", "min_value": params.gate_min_usage}
    )
    tables = {"shards": (table, shard_expectations), "codebook": (codebook, [usage])}
    return validate("tokenize_images", tables, folder)
