"""Instruction data as published: LLaVA / ShareGPT-4V conversations, InstructPix2Pix / MagicBrush Parquet."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddt.data.readers import read_conversations, read_edits
from ddt.data.schemas import CONVERSATION_SCHEMA, EDIT_SCHEMA
from ddt.records import Reject, read_shard, write_shard

LIMITS = {"max_pixels": 10_000, "min_side_px": 8}


def png(colour: str, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "coco").mkdir(parents=True)
    (folder / "coco/red.png").write_bytes(png("red"))
    (folder / "blue.png").write_bytes(png("blue"))
    (folder / "tiny.png").write_bytes(png("blue", 4))
    (tmp_path / "secret.png").write_bytes(png("green"))
    return folder


ENTRIES = [
    {
        "id": "a",
        "image": "coco/red.png",
        "conversations": said("<image>\nWhat colour?", "Red.", "Sure?", "Yes."),
    },
    {"id": "b", "image": "blue.png", "conversations": said("What colour?", "Blue.", "Unanswered?")},
    {
        "id": "c",
        "image": ["coco/red.png", "blue.png"],
        "conversations": said("<image> and <image>: same?", "No."),
    },
    {"id": "d", "conversations": said("Hello", "Hi")},
    {
        "id": "e",
        "messages": [
            {"role": "system", "content": "x"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
        ],
    },
]
BAD = [
    ({"id": "no answer", "conversations": said("Hello")}, "bad_record", "without an answer"),
    ({"id": "twice", "conversations": said("q", "a")[:1] * 2 + said("q", "a")}, "bad_record", "by turns"),
    (
        {"id": "marks", "image": "blue.png", "conversations": said("<image> <image>", "a")},
        "bad_record",
        "2 <image> marks for 1",
    ),
    (
        {"id": "outside", "image": "../secret.png", "conversations": said("q", "a")},
        "bad_record",
        "outside the folder",
    ),
    (
        {"id": "absolute", "image": "/etc/passwd", "conversations": said("q", "a")},
        "bad_record",
        "outside the folder",
    ),
    (
        {"id": "missing", "image": "gone.png", "conversations": said("q", "a")},
        "missing_image",
        "no file 'gone.png'",
    ),
    ({"id": "tiny", "image": "tiny.png", "conversations": said("q", "a")}, "too_small", "4 x 4"),
    ({"id": "empty", "conversations": said("q", "")}, "bad_record", "turn 1 is empty"),
    ("nonsense", "bad_record", "expected conversations"),
]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_conversations_as_llava_publishes_them(tmp_path, images, suffix):
    path = tmp_path / f"llava{suffix}"
    entries = [*ENTRIES, *(entry for entry, _, _ in BAD)]
    lines = "\n".join(map(json.dumps, entries)) if suffix == ".jsonl" else json.dumps(entries)
    path.write_text(lines)
    found = list(read_conversations(path, images, **LIMITS))
    rows = [row for row in found if not isinstance(row, Reject)]
    assert [len(row["images"]) for row in rows] == [1, 1, 2, 0, 0]
    assert rows[0]["turns"] == [
        {"role": "user", "text": "<image>\nWhat colour?"},
        {"role": "assistant", "text": "Red."},
        {"role": "user", "text": "Sure?"},
        {"role": "assistant", "text": "Yes."},
    ]
    assert rows[1]["turns"][0]["text"] == "<image>\nWhat colour?" and len(rows[1]["turns"]) == 2
    assert rows[2]["images"] == [png("red"), png("blue")]
    rejects = [row for row in found if isinstance(row, Reject)]
    for reject, (_, reason, detail) in zip(rejects, BAD, strict=True):
        assert reject.reason == reason and detail in reject.detail and reject.source == path.name
    assert len({row["sample_id"] for row in rows}) == len(rows)
    write_shard(tmp_path / "rows", rows, CONVERSATION_SCHEMA)
    assert read_shard(tmp_path / "rows").to_pylist() == rows


def test_files_that_hold_no_conversations_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"conversations": []}')
    with pytest.raises(ValueError, match="a.json: expected a list of conversations, got dict"):
        list(read_conversations(tmp_path / "a.json", tmp_path, **LIMITS))
    (tmp_path / "b.json").write_text("[{")
    with pytest.raises(ValueError, match="b.json: not JSON"):
        list(read_conversations(tmp_path / "b.json", tmp_path, **LIMITS))
    (tmp_path / "c.json").write_text('{\n "a": 1')
    with pytest.raises(ValueError, match="c.json: expected a list of conversations, got not JSON at line 2"):
        list(read_conversations(tmp_path / "c.json", tmp_path, **LIMITS))


LAYOUTS = {
    "instructpix2pix": ("original_image", "edit_prompt", "edited_image"),
    "magicbrush": ("source_img", "instruction", "target_img"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_edits_as_published(tmp_path, layout):
    names = LAYOUTS[layout]

    def image(data: bytes | None) -> dict:
        return {"bytes": data, "path": None}

    columns = {
        names[0]: [image(png("red")), image(png("red")), image(None), image(b"not an image")],
        names[1]: [" make it  blue ", "", "x", "x"],
        names[2]: [image(png("blue"))] * 4,
        "mask_img": [image(png("white"))] * 4,
    }
    path = tmp_path / f"{layout}.parquet"
    pq.write_table(pa.table(columns), path)
    row, *rejects = read_edits(path, **LIMITS)
    assert row["instruction"] == "make it blue"
    assert (row["image"], row["target"]) == (png("red"), png("blue"))
    assert [r.reason for r in rejects] == ["bad_record", "missing_image", "corrupt_image"]
    assert [r.key for r in rejects] == ["row 1", "row 2", "row 3"]
    write_shard(tmp_path / "rows", [row], EDIT_SCHEMA)


def test_a_parquet_without_triples_is_named(tmp_path):
    pq.write_table(pa.table({"original_image": [b"x"], "edit_prompt": ["x"]}), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match="e.parquet: no column for the target image"):
        list(read_edits(tmp_path / "e.parquet", **LIMITS))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    (reject,) = read_edits(tmp_path / "broken.parquet", **LIMITS)
    assert reject.reason == "corrupt_archive"
