"""Columns of the shards between `ingest` and `tokenize_images`; records and rejects are in ddt/records.py."""

from __future__ import annotations

import pyarrow as pa


def _required(*fields: tuple[str, pa.DataType]) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in fields]


EDIT_SCHEMA = pa.schema(
    _required(
        ("sample_id", pa.string()),
        ("image", pa.binary()),
        ("instruction", pa.string()),
        ("target", pa.binary()),
    )
)
TURN = pa.struct(_required(("role", pa.string()), ("text", pa.string())))
# A conversation: `<image>` in a turn's text stands for the next of the images.
CONVERSATION_SCHEMA = pa.schema(
    _required(("sample_id", pa.string()), ("turns", pa.list_(TURN)), ("images", pa.list_(pa.binary())))
)
CAPTION_SCHEMA = pa.schema(_required(("sample_id", pa.string()), ("long_caption", pa.string())))
SCORE_SCHEMA = pa.schema(
    _required(
        ("sample_id", pa.string()),
        ("native_score", pa.float32()),
        ("generated_score", pa.float32()),
        ("image_sha256", pa.binary()),
        ("descriptor", pa.binary()),
    )
)
PAIR_SCHEMA = pa.schema(
    _required(
        ("sample_id", pa.string()), ("short", pa.string()), ("long", pa.string()), ("score", pa.float32())
    )
)
