"""`ingest` on damaged sources: what it stops for, what it only tells, and that a line is all it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddt.params import load_params
from ddt.records import read_shard
from pipelines import ingest
from pipelines.engine.runner import StageError
from tests.data.test_instruction_readers import png, said
from tests.data.test_readers import image, write_tar
from tests.pipelines.test_own_data import PARAMS, Stages


def pairs(folder: Path, name: str, good: int, lost: int = 0, cut: int = 0) -> None:
    """A tar of `good` pairs, `lost` more under one key, and `cut` whose picture is damaged."""
    members = []
    for i in range(good):
        members += [(f"{i:05d}.jpg", image(i)), (f"{i:05d}.txt", f"text {i}".encode())]
    members += [("photo.jpg", image(999)), ("photo.txt", b"one")] * (lost + 1 if lost else 0)
    for i in range(cut):
        members += [(f"cut{i}.jpg", image(i)[:200]), (f"cut{i}.txt", b"x")]
    write_tar(folder / name, members)


def chats(folder: Path, good: int, lost: int) -> None:
    (folder / "red.png").write_bytes(png("red"))
    names = ["gone.png"] * lost + ["red.png"] * good
    entries = [
        {"id": f"id{i}", "image": name, "conversations": said("q", f"a {i}")} for i, name in enumerate(names)
    ]
    (folder / "chat.json").write_text(json.dumps(entries))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Any:
    params = load_params(PARAMS, overrides=[f"ingest.source={folder}", "ingest.min_side_px=8", *overrides])
    stages = Stages(params, tmp_path, monkeypatch)
    return stages, stages.run(ingest, "ingest")


def stopped(*arguments: Any) -> str:
    with pytest.raises(StageError) as caught:
        run(*arguments)
    told = str(caught.value)
    assert len(told) <= 300 and told.isprintable()
    return told


def test_conversations_are_not_hidden_behind_pairs(own, tmp_path, monkeypatch):
    pairs(own, "0.tar", 60)
    chats(own, good=7, lost=2)
    line = stopped(own, tmp_path, monkeypatch, f"ingest.conversations={own}/chat.json")
    assert line == (
        "ingest: conversations of ingest.conversations: 2 of 9 samples lost (missing_image 2), more than "
        "ingest.max_reject_rate = 0.2; the first: chat.json entry 0 (id0): missing_image, no file 'gone.png'"
    )


def test_a_shard_is_not_hidden_behind_others_and_each_lost_pair_counts(own, tmp_path, monkeypatch):
    pairs(own, "0.tar", 200)
    pairs(own, "1.tar", 19, lost=40)
    assert stopped(own, tmp_path, monkeypatch) == (
        "ingest: pairs of ingest.source, 1.tar: 40 of 60 samples lost (bad_record 40), more than "
        "ingest.max_reject_rate = 0.2; the first: 1.tar photo: bad_record, repeated members: 40 more .jpg, "
        "40 more .txt"
    )
    _, report = run(own, tmp_path, monkeypatch, "ingest.max_reject_rate=0.7")
    assert report.metrics["ingest/rejected"] == 40 and report.metrics["ingest/pairs"] == 220


def test_a_small_shard_may_lose_much(own, tmp_path, monkeypatch):
    pairs(own, "0.tar", 40)
    pairs(own, "1.tar", 3, cut=8)
    _, report = run(own, tmp_path, monkeypatch)
    assert report.metrics["ingest/rejected"] == 8


def test_a_line_stays_a_line_whatever_the_names_are(own, tmp_path, monkeypatch):
    name = "a" * 100 + "\x1b[31m" + "b" * 100 + ".tar"
    members = [("k" * 300 + "\u2028.txt", b"no picture"), ("l" * 90 + ".png", b"II*\0"), ("m.gif", b"GIF89a")]
    write_tar(own / name, members * 9)
    line = stopped(own, tmp_path, monkeypatch)
    assert (
        "27 of 27 samples lost" in line and "ingest.max_reject_rate = 0.2" in line and "missing_image" in line
    )


def test_captions_that_are_not_understood_and_failed_downloads_are_told(own, tmp_path, monkeypatch):
    write_tar(own / "0.tar", [("a.jpg", image(0)), ("a.json", b'{"beschreibung": "ein Bild"}'),
                              ("b.jpg", image(1)), ("b.json", b'{"caption": ["one", "two"]}')])  # fmt: skip
    columns = {"jpg": [image(2), None, None], "caption": ["c"] * 3, "status": ["success", "failed", "failed"]}
    pq.write_table(pa.table(columns), own / "1.parquet")
    stages, report = run(own, tmp_path, monkeypatch)
    assert report.metrics["ingest/rejected"] == 0 and report.metrics["ingest/pairs"] == 3
    assert report.notes == [
        "2 x not_downloaded, not counted as lost; the first: 1.parquet row 1: not_downloaded, failed",
        "1 x unread_caption, not counted as lost; the first: 0.tar a: unread_caption, no caption under a "
        "usual name (caption, text, title ...); there are: beschreibung",
    ]
    commits = stages.inputs["ingest"].commits
    found = [read_shard(stages.store.fetch(c.key))["caption"].to_pylist() for c in commits]
    assert sorted(found) == [["", "one"], ["c"]]


def test_a_column_that_does_not_fit_names_file_column_and_type(own, tmp_path, monkeypatch):
    pq.write_table(pa.table({"image": [1.5], "caption": ["c"]}), own / "p.parquet")
    with pytest.raises(
        ValueError, match=r"p\.parquet: column 'image' is of type double, expected image bytes"
    ):
        run(own, tmp_path, monkeypatch)


def test_the_planted_faults_of_the_scenes_pass(tmp_path, monkeypatch):
    overrides = [f"ingest.scenes.{key}" for key in ("shards=1", "rows_per_shard=200", "edits_per_shard=4")]
    params = load_params(PARAMS, overrides=overrides)
    report = Stages(params, tmp_path, monkeypatch).run(ingest, "ingest")
    faults = params.ingest.scenes.faults
    assert report.metrics["ingest/rejected"] == 200 * (faults["corrupt"] + faults["tiny"])
    assert report.metrics["ingest/false_rejects"] == 0 and report.notes == []


def test_filters_turn_away_pairs_alone_and_are_counted_apart_from_damage(own, tmp_path, monkeypatch):
    (own / "laion").mkdir()
    (own / "coyo").mkdir()
    pairs(own / "laion", "0.tar", 30, cut=2)
    unsafe = [("u.jpg", image(90)), ("u.txt", b"u"), ("u.json", b'{"punsafe": 0.9}')]
    blank = [("b.png", png("red")), ("b.txt", b"b")]
    write_tar(own / "coyo/1.tar", [*unsafe, *blank, ("c.jpg", image(91)), ("c.txt", b"c")])
    write_tar(tmp_path / "held.tar", blank)
    settings = [
        "ingest.filters.max_nsfw=0.5",
        "ingest.filters.min_contrast=2",
        f"ingest.holdout={tmp_path}/held.tar",
    ]
    with pytest.raises(
        StageError, match=r"pairs of ingest.source: 2 of .* lost \(.*\), more than ingest.filters"
    ):
        run(own, tmp_path, monkeypatch, *settings, "ingest.filters.max_share=0.01")
    _, report = run(own, tmp_path, monkeypatch, *settings)
    assert report.tables["Rejected samples by source and reason"] == [
        ["source", "kept", "corrupt_image", "blank", "nsfw"],
        ["held-out pairs of " + tmp_path.name, "1", "0", "0", "0"],
        ["pairs of coyo", "1", "0", "1", "1"],
        ["pairs of laion", "30", "2", "0", "0"],
    ]
    assert (tmp_path / report.pictures["Pictures that filters turned away (some)"]).is_file()
