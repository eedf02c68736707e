"""The gates on real shards: good data pass, bad data is stopped and named; Data Docs are written."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddt.data.schemas import PAIR_SCHEMA
from ddt.data.tokens import TokenMeta
from ddt.data.tokens import write_shard as write_tokens
from ddt.manifest import Commit, write_unit
from ddt.params import load_params
from ddt.records import write_shard
from ddt.store import Store, open_store
from pipelines.reports.drift import distribution_distance
from pipelines.services.expectations import GateFailed
from pipelines.services.pairs_gate import check_pairs, pair_stats
from pipelines.tokenize_images import CodeUse, bits_of_positions, check_tokens, count_codes

ROOT = Path(__file__).resolve().parents[3]
PAIRS, TOKENS, CODES = 40, 4, 16


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def pair(index: int) -> dict[str, Any]:
    short, long = f"a red circle {index}", f"One object {index}. A large red circle in the centre."
    return {"sample_id": f"{index:064x}", "short": short, "long": long, "score": 0.5}


def write_pairs(store: Store, tmp_path: Path, spoil: Callable[[list[dict[str, Any]]], None]) -> Commit:
    rows = [pair(i) for i in range(PAIRS)]
    spoil(rows)
    path = tmp_path / "pairs.arrow"
    write_shard(path, rows, PAIR_SCHEMA)
    return write_unit(store, "select", "f" * 64, "a" * 32, path, len(rows), stats=pair_stats(rows, 60))


def select_params() -> Any:
    return replace(load_params(ROOT / "params.yaml").select, keep=PAIRS, gate_min_mean_score=0.3)


def test_good_pairs_pass_and_docs_are_written(store: Store, tmp_path: Path) -> None:
    made = write_pairs(store, tmp_path, lambda rows: None)
    result = check_pairs(store, [made], select_params(), tmp_path / "gate")
    result.require("select")
    assert result.checked == 13
    assert told(result.page) == {
        "select_rows": "Succeeded, 6 of 6 expectations", "select_selection": "Succeeded, 2 of 2 expectations",
        "select_shards": "Succeeded, 5 of 5 expectations",
    }  # fmt: skip


def told(index: Path) -> dict[str, str]:
    """What Data Docs tell of each table: the pages that the index links to, as a person reads them."""
    found = {}
    for link in re.findall(r"validations/[^'\"]+\.html", index.read_text()):
        text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", (index.parent / link).read_text()))
        status = re.search(
            r"Status: (\w+) Statistics Evaluated Expectations (\d+) Successful Expectations (\d+)", text
        )
        assert status, link
        found[link.split("/")[1]] = f"{status[1]}, {status[3]} of {status[2]} expectations"
    return found


def spoil(rows: list[dict[str, Any]]) -> None:
    """A pair too few, an id twice, a score that is no cosine, an endless and an empty caption."""
    rows.pop()
    rows[3].update(sample_id=rows[4]["sample_id"])
    for row in rows:
        row.update(score=0.1)
    rows[0].update(score=1.5, long="word " * 500)
    rows[7].update(short="")


def test_bad_pairs_are_stopped_with_each_expectation_named(store: Store, tmp_path: Path) -> None:
    made = write_pairs(store, tmp_path, spoil)
    result = check_pairs(store, [made], select_params(), tmp_path / "gate")
    assert sorted(result.failed) == [
        "ExpectColumnValuesToBeBetween(long_captions_outside: max_value 0.01) observed 0.02564",  # 1 / 39
        "ExpectColumnValuesToBeBetween(long_words: min_value 1, max_value 60) observed in 1 of 39 rows: 500",
        "ExpectColumnValuesToBeBetween(max_score: max_value 1) observed 1.5",
        "ExpectColumnValuesToBeBetween(mean_score: min_value 0.3) observed 0.1359",  # (38 x 0.1 + 1.5) / 39
        "ExpectColumnValuesToBeBetween(min_short_words: min_value 2) observed 0",
        "ExpectColumnValuesToBeBetween(pairs: min_value 40, max_value 40) observed 39",
        "ExpectColumnValuesToBeBetween(repeated_ids: min_value 0, max_value 0) observed 1",
        "ExpectColumnValuesToBeBetween(score: min_value -1, max_value 1) observed in 1 of 39 rows: 1.5",
        "ExpectColumnValuesToBeBetween(short_words: min_value 2) observed in 1 of 39 rows: 0",
        f"ExpectColumnValuesToBeUnique(sample_id) observed in 2 of 39 rows: {4:064x}",
    ]
    assert told(result.page) == {
        "select_rows": "Failed, 2 of 6 expectations", "select_selection": "Failed, 0 of 2 expectations",
        "select_shards": "Failed, 1 of 5 expectations",
    }  # fmt: skip
    with pytest.raises(GateFailed, match="gate select: Expect.* observed .*index.html"):
        result.require("select")


def write_codes(
    store: Store, tmp_path: Path, unit: str, codes_nT: np.ndarray, digest: str = "d" * 64
) -> Commit:
    path = tmp_path / "tokens.arrow"
    meta = TokenMeta(digest, TOKENS, CODES, "V_1..V_T")
    names = [f"{unit[0]}{i}" for i in range(len(codes_nT))]
    columns = {"sample_id": names, "short": names, "long": names, "codes": codes_nT}
    write_tokens(path, columns, meta, "pairs")
    largest = float(np.bincount(codes_nT.reshape(-1)).max() / codes_nT.size)
    stats = {"role": "pairs", "largest_share": largest}
    return write_unit(store, "tokenize_images", "f" * 64, unit, path, len(codes_nT), stats=stats)


def test_the_bits_of_the_codes_are_those_of_each_position():
    # Half the codes each at two positions, of which the second uses only one of its half: 1 bit and none.
    shards = [np.array([[0, 2], [1, 2], [0, 2]], np.uint16), np.array([[1, 2]], np.uint16)]
    np.testing.assert_allclose(bits_of_positions(shards, 4), [1.0, 0.0], atol=1e-12)


def test_codes_are_counted_in_every_kind_of_shard(store: Store, tmp_path: Path) -> None:
    meta, path = TokenMeta("d" * 64, TOKENS, CODES, "V_1..V_T"), tmp_path / "tokens.arrow"
    codes_nT = np.random.default_rng(0).integers(0, CODES, (6, TOKENS))
    names = [str(i) for i in range(6)]
    turns = [[{"role": "user", "text": "<image>"}]] * 3
    kinds = {
        "pairs": {"sample_id": names, "short": names, "long": names, "codes": codes_nT},
        "edits": {"sample_id": names, "instruction": names, "codes": codes_nT, "target_codes": codes_nT * 0},
        "chat": {
            "sample_id": names[:3],
            "turns": turns,
            "codes": [codes_nT[:2], codes_nT[2:2], codes_nT[2:]],
        },
    }
    for kind, columns in kinds.items():
        write_tokens(path, columns, meta, kind)
        key = write_unit(store, "tokenize_images", "f" * 64, kind * 8, path, 6).key
        counts = count_codes({"unit": kind, "tokens": key}, store.root_uri, CODES)
        assert counts.tolist() == np.bincount(codes_nT.ravel(), minlength=CODES).tolist(), kind


def test_the_token_gate_looks_at_every_shard(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml").tokenize_images
    use = CodeUse(np.ones(CODES, np.int64), np.ones(TOKENS))

    def shard(number: int, **stats: Any) -> Commit:
        told = {"num_tokens": TOKENS, "tokenizer_digest": "d" * 64, "largest_share": 0.1} | stats
        return Commit(f"{number:032x}", f"{number}", 10, 100, f"{number:064x}", stats=told)

    made = [shard(number) for number in range(100)]
    check_tokens(made, use, params, tmp_path / "gate").require("tokenize_images")
    for spoiled, named in (
        ({"largest_share": 0.9}, "largest_share"), ({"tokenizer_digest": "e" * 64}, "tokenizer_digest"),
        ({"num_tokens": 7}, "num_tokens"),
    ):  # fmt: skip
        result = check_tokens([*made, shard(100, **spoiled)], use, params, tmp_path / "gate")
        assert [text.split("(")[1].split(":")[0] for text in result.failed] == [named]
    unused = CodeUse(np.r_[np.ones(CODES // 4), np.zeros(CODES - CODES // 4)].astype(int), np.ones(TOKENS))
    assert "usage" in check_tokens(made, unused, params, tmp_path / "gate").failed[0]


def test_scores_that_moved_away_from_the_version_before_fail(store: Store, tmp_path: Path) -> None:
    made = write_pairs(store, tmp_path, lambda rows: None)
    params = replace(select_params(), gate_max_score_drift=0.1)
    for drift, failed in ((None, 0), (0.1, 0), (0.11, 1)):
        assert len(check_pairs(store, [made], params, tmp_path / "gate", drift).failed) == failed
    counts = np.array([0, 10, 10, 0])
    assert distribution_distance(counts, counts * 7) == 0
    assert distribution_distance(counts, np.array([0, 0, 10, 10])) == 0.5
    assert distribution_distance(counts, np.array([0, 0, 0, 1])) == 1
