"""Token shards: what is written is read, in place; wrong codes and other tokenizers' shards are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ddt.data import tokens
from ddt.data.order import shuffled
from ddt.data.text import DrawnText, JsonLines, check_first_records, line_offsets
from ddt.data.tokens import ShardFacts, TokenDataset, TokenMeta, TokenShard, write_shard

META = TokenMeta("d" * 64, num_tokens=3, codebook_size=500, token_order="V_1..V_T")


def pairs(start: int, rows: int) -> dict:
    numbers = range(start, start + rows)
    return {
        "sample_id": [f"id{n}" for n in numbers],
        "short": [f"short {n}" for n in numbers],
        "long": [f"long {n}" for n in numbers],
        "codes": np.array([[n, 1, 499] for n in numbers]),
    }


def edits() -> dict:
    return {
        "sample_id": ["a", "b"],
        "instruction": ["make it red", "add a ring"],
        "codes": np.array([[1, 2, 3], [4, 5, 6]]),
        "target_codes": [[7, 8, 9], [10, 11, 12]],
    }


def damage(path: Path, codes: list[int], others: list[int]) -> None:
    """Writes other codes over the only place of the file that has these."""
    found, other = (np.array(values, dtype=np.uint16).tobytes() for values in (codes, others))
    data = path.read_bytes()
    assert data.count(found) == 1
    path.write_bytes(data.replace(found, other))


def test_pairs_are_read_as_written_across_shards(tmp_path):
    paths = [tmp_path / "0.arrow", tmp_path / "1.arrow"]
    for number, path in enumerate(paths):
        assert write_shard(path, pairs(number * 4, 4 - number), META, "pairs") == 4 - number
    data = TokenDataset.of_files(paths, META.tokenizer_digest)
    assert len(data) == 7 and data.meta == META
    for n in range(7):
        assert data.text("short", n) == f"short {n}" and data.text("long", n) == f"long {n}"
        assert data.codes(n).tolist() == [n, 1, 499] and data.codes(n).dtype == np.int64


def many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TokenDataset, list[str]]:
    """Eight shards of five pairs by what their commits say, and the keys that are fetched."""
    facts, fetched = [], []
    for n in range(8):
        write_shard(folder / f"{n}", pairs(5 * n, 5), META, "pairs")
        of_file = ShardFacts.of(folder / f"{n}", f"shards/{n}")
        facts.append(ShardFacts.from_stats(of_file.key, of_file.rows, of_file.to_stats()))

    def fetch(key: str) -> Path:
        fetched.append(key)
        return folder / key.removeprefix("shards/")

    monkeypatch.setattr(tokens, "OPEN_SHARDS", 2)
    return TokenDataset(facts, fetch, META.tokenizer_digest, META.codebook_size), fetched


def test_shards_are_fetched_when_they_are_read_and_the_last_few_stay_open(tmp_path, monkeypatch):
    data, fetched = many(tmp_path, monkeypatch)
    assert len(data) == 40 and not fetched
    assert [data.text("short", n) for n in (39, 35, 0, 36, 12)] == [f"short {n}" for n in (39, 35, 0, 36, 12)]
    assert fetched == ["shards/7", "shards/0", "shards/2"]
    assert data.codes(1).tolist() == [1, 1, 499] and fetched[3:] == ["shards/0"]


def test_few_rows_are_shuffled_over_all_and_many_in_blocks_of_shards(tmp_path, monkeypatch):
    data, _ = many(tmp_path, monkeypatch)
    places = np.arange(80)
    assert (data.shuffled(3, "pairs", places) == shuffled(3, "pairs", places, 40)).all()
    monkeypatch.setattr(tokens, "BLOCK_ROWS", 10)
    rows = data.shuffled(3, "pairs", places)
    for epoch in rows[:40], rows[40:]:
        assert sorted(epoch) == list(range(40))
        assert all(len(set(epoch[n : n + 10] // 5)) == 2 for n in range(0, 40, 10))  # two shards a block
    assert rows[:40].tolist() != rows[40:].tolist()
    assert (data.shuffled(3, "pairs", places[::-7]) == rows[::-7]).all()


def test_a_shard_that_is_not_what_its_commit_says_is_named(tmp_path, monkeypatch):
    data, _ = many(tmp_path, monkeypatch)
    write_shard(tmp_path / "4", pairs(20, 4), META, "pairs")
    with pytest.raises(ValueError, match=r"^shards/4: has 4 rows, .*; its commit says 5, "):
        data.codes(21)
    facts = ShardFacts.of(tmp_path / "0", "shards/0")
    with pytest.raises(
        ValueError, match="^shards/0: its commit lacks highest_code; run tokenize_images again"
    ):
        stats = facts.to_stats()
        ShardFacts.from_stats("shards/0", 5, {k: stats[k] for k in stats if k != "highest_code"})


def test_codes_are_views_of_the_file(tmp_path):
    write_shard(tmp_path / "s", pairs(0, 4), META, "pairs")
    codes = TokenShard(tmp_path / "s").codes()
    assert codes.dtype == np.uint16 and not codes.flags.owndata and not codes.flags.writeable


def test_a_code_takes_two_bytes_on_the_disk(tmp_path):
    """200 M images of 480 codes are 192 GB, and captions beside them."""
    rows, meta = 1000, TokenMeta("d", num_tokens=480, codebook_size=1 << 16, token_order="V_1..V_T")
    codes = np.random.default_rng(0).integers(0, 1 << 16, (rows, 480))
    columns = {name: [""] * rows for name in ("sample_id", "short", "long")} | {"codes": codes}
    write_shard(tmp_path / "s", columns, meta, "pairs")
    assert (tmp_path / "s").stat().st_size < 1.02 * 2 * codes.size


def test_edits_have_codes_of_both_pictures(tmp_path):
    write_shard(tmp_path / "s", edits(), META, "edits")
    data = TokenDataset.of_files([tmp_path / "s"])
    assert data.shard(0).kind == "edits" and data.text("instruction", 1) == "add a ring"
    assert data.codes(1).tolist() == [4, 5, 6] and data.codes(1, "target_codes").tolist() == [10, 11, 12]


def test_questions_stay_with_their_picture_across_shards(tmp_path):
    asked = [[{"question": f"how many in {n}?", "answer": str(n)}] * (n % 3) for n in range(7)]
    for number, rows in enumerate((slice(0, 4), slice(4, 7))):
        columns = pairs(rows.start, rows.stop - rows.start) | {"questions": asked[rows]}
        write_shard(tmp_path / f"{number}", columns, META, "pairs")
    write_shard(tmp_path / "none", pairs(7, 2), META, "pairs")
    data = TokenDataset.of_files([tmp_path / name for name in ("0", "1", "none")])
    assert [data.questions(n) for n in range(9)] == [*asked, [], []]
    assert data.asked(np.arange(data.num_asked)).tolist() == [1, 2, 4, 5]
    assert data.asked(np.array([3, 0])).tolist() == [5, 1]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    digests = set()
    for name in ("a", "b"):
        write_shard(tmp_path / name, edits(), META, "edits")
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("codes", [[[1, 2]], [[1, 2, 500]], [[-1, 2, 3]]])
def test_wrong_codes_are_refused(tmp_path, codes):
    with pytest.raises(ValueError, match="expected 3 codes below 500"):
        write_shard(tmp_path / "s", {**pairs(0, 1), "codes": codes}, META, "pairs")


def test_another_tokenizer_is_refused(tmp_path):
    write_shard(tmp_path / "s", pairs(0, 2), META, "pairs")
    with pytest.raises(
        ValueError, match="were made by tokenizer dddddddddddddddd, .* given is eeeeeeeeeeeeeeee"
    ):
        TokenDataset.of_files([tmp_path / "s"], "e" * 64)
    other = TokenMeta("e" * 64, 3, 500, "V_1..V_T")
    write_shard(tmp_path / "t", pairs(0, 2), other, "pairs")
    with pytest.raises(ValueError, match="differs from the first shard's"):
        TokenDataset.of_files([tmp_path / "s", tmp_path / "t"])


def test_a_code_beyond_the_codebook_is_refused_when_the_shard_is_opened(tmp_path):
    write_shard(tmp_path / "good", pairs(0, 4), META, "pairs")
    write_shard(tmp_path / "s", pairs(0, 4), META, "pairs")
    damage(tmp_path / "s", [2, 1, 499], [2, 1, 600])
    with pytest.raises(ValueError, match="/s: holds code 600, expected codes from 0 to 499"):
        TokenDataset.of_files([tmp_path / "good", tmp_path / "s"])
    write_shard(tmp_path / "edits", edits(), META, "edits")
    damage(tmp_path / "edits", [10, 11, 12], [10, 500, 12])
    with pytest.raises(ValueError, match="/edits: holds code 500, expected"):
        TokenDataset.of_files([tmp_path / "edits"])
    turns = [[{"role": "user", "text": "<image>"}], []]
    chats = {"sample_id": ["a", "b"], "turns": turns, "codes": [[[1, 2, 3], [4, 5, 6]], []]}
    write_shard(tmp_path / "chats", chats, META, "chat")
    damage(tmp_path / "chats", [4, 5, 6], [4, 5, 65535])
    with pytest.raises(ValueError, match="/chats: holds code 65535, expected"):
        TokenDataset.of_files([tmp_path / "chats"])


def test_metadata_that_say_something_else_are_refused(tmp_path):
    path = tmp_path / "s"
    write_shard(path, pairs(0, 2), META, "pairs")
    with pytest.raises(ValueError, match="/s: its codebook_size is 500, the tokenizer's is 499"):
        TokenDataset.of_files([path], META.tokenizer_digest, 499)
    table = pa.ipc.open_file(path).read_all()
    for lie, columns, message in (
        ({"num_tokens": "4"}, table, r"/s: column codes is of type .*\[3\], expected .*\[4\]"),
        ({}, table.drop_columns("long"), "/s: not a token shard, it has no column long"),
    ):
        lying = columns.replace_schema_metadata(META.to_schema() | lie)
        with pa.ipc.new_file(path, lying.schema) as writer:
            writer.write_table(lying)
        with pytest.raises(ValueError, match=message):
            TokenDataset.of_files([path])


def test_unreadable_and_empty_shards_are_named(tmp_path):
    (tmp_path / "bad").write_bytes(b"no arrow")
    with pytest.raises(ValueError, match="bad: not a readable token shard"):
        TokenShard(tmp_path / "bad")
    write_shard(tmp_path / "empty", {**pairs(0, 0), "codes": []}, META, "pairs")
    with pytest.raises(ValueError, match="no rows in 1 token shards"):
        TokenDataset.of_files([tmp_path / "empty"])


def test_json_lines_are_found_by_index(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "zwei äöü"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\n')
    texts = JsonLines.of_files([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert [texts[i] for i in range(3)] == ["one", "zwei äöü", "three"] and len(texts) == 3


NO_TEXT = [
    b'{"title": "no text"}', b'{"text": 7}', b'{"text": null}', 
    b'{"text": "cut', b"[1]", b"7", b'{"text": " "}',
    b'{"text": "\\ud83d"}', b"[" * 100_000, b'{"text": "\x81\x8d\x8f\x90"}',
]  # fmt: skip


@pytest.mark.parametrize("bad", NO_TEXT)
def test_a_line_without_text_is_left_out_and_many_are_told_before_any_is_used(tmp_path, bad):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"text": "%d"}\n' % i for i in range(4)) + b"\n" + bad + b'\n{"text": "4"}\n')
    offsets, told = line_offsets(path)
    assert "a.jsonl: 1 of 6 lines hold no text, the first: line 6: " in told
    assert len(told) < 320 and "\n" not in told
    np.save(tmp_path / "lines.npy", offsets)
    texts = JsonLines([path], [np.load(tmp_path / "lines.npy", mmap_mode="r")])
    assert [texts[i] for i in range(len(texts))] == ["0", "1", "2", "3", "4"]
    path.write_bytes(b'{"text": "one"}\n\n' + bad)
    with pytest.raises(ValueError, match="a.jsonl: 1 of 2 lines hold no text, the first: line 3: "):
        JsonLines.of_files([path])


def test_a_file_of_something_else_is_told_by_its_first_lines(tmp_path):
    for bad in NO_TEXT:
        (tmp_path / "b.jsonl").write_bytes(bad)
        with pytest.raises(ValueError, match="b.jsonl: line 1: "):
            check_first_records(tmp_path / "b.jsonl")
        (tmp_path / "b.jsonl").write_bytes(bad + b'\n{"text": "good"}')
        check_first_records(tmp_path / "b.jsonl")
    (tmp_path / "b.jsonl").write_text('{"text": "wide"}', encoding="utf-16")
    for read in (check_first_records, lambda path: JsonLines.of_files([path])):
        with pytest.raises(ValueError, match="b.jsonl: UTF-16 or UTF-32, expected JSON lines in UTF-8"):
            read(tmp_path / "b.jsonl")
        with pytest.raises(ValueError, match="missing.jsonl: cannot be read"):
            read(tmp_path / "missing.jsonl")


def test_text_alone_is_cleaned(tmp_path):
    lines = [b'\xef\xbb\xbf{"text": "mark"}', b'{"text": "caf\xe9"}', b'{"text": "half \\ud83d \\u0000 NUL"}',
             b'{"text": "a\\u2028b", "n": NaN, "text": "last\\u2028of two"}']  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    texts = JsonLines.of_files([tmp_path / "a.jsonl"])
    assert [texts[i] for i in range(4)] == ["mark", "café", "half   NUL", "last\nof two"]


def test_drawn_text_is_a_function_of_its_index():
    texts = DrawnText(lambda rng: str(rng.integers(1 << 30)), size=5, seed=3)
    assert texts[2] == texts[2] != texts[3] and len(texts) == 5
