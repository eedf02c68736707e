"""What a captioner has answered before, by the sha256 of the image's bytes.

One object for each captioner (its weights, prompt and all that decides an answer) and source shard: an object
for each image would be hundreds of millions of requests. A shard is where to look for an image; whether it is
the same one its digest tells, so that a shard with other images under the same name takes no wrong caption.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping

import pyarrow as pa

from ddt.data.caption_faults import Answer
from ddt.records import read_columns
from ddt.store import NotFound, Store

CACHE = "captions/"  # in a store

CAPTIONER = "captioner"  # in a manifest: whose answers its captions are
Answers = dict[bytes, list[Answer]]  # of each attempt

_ANSWER = pa.struct([pa.field("text", pa.string()), pa.field("ended", pa.bool_())])
_SCHEMA = pa.schema([pa.field("image_sha256", pa.binary(32)), pa.field("answers", pa.list_(_ANSWER))])


def cache_key(captioner: str, shard: str) -> str:
    """Where the answers of a captioner to a source shard's images are; both by hex digits."""
    return f"{CACHE}{captioner}/{shard}.arrow"


def read_answers(store: Store, key: str) -> Answers:
    """All that is known; nothing where there is no such object."""
    try:
        data = store.get_bytes(key)
    except NotFound:
        return {}
    table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    digests, answers = (table[name].to_pylist() for name in _SCHEMA.names)
    return {digest: [Answer(**a) for a in each] for digest, each in zip(digests, answers, strict=True)}


def write_answers(store: Store, key: str, answers: Mapping[bytes, list[Answer]]) -> None:
    """In the place of what was there."""
    rows = [
        {"image_sha256": digest, "answers": [{"text": a.text, "ended": a.ended} for a in each]}
        for digest, each in answers.items()
    ]
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
    store.put_bytes(key, sink.getvalue())


def answered(store: Store, key: str, images: Collection[bytes]) -> list[bytes]:
    """Which of these images, by sha256, an object has answers about; of the answers nothing is read."""
    try:
        found = read_columns(store.open(key), [_SCHEMA.names[0]])
    except NotFound:  # removed since it was listed
        return []
    return sorted(set(images).intersection(found.column(0).to_pylist()))


def forget(store: Store, key: str, images: Collection[bytes]) -> None:
    """Remove the answers about these images; an object that has no others goes as a whole."""
    left = {digest: each for digest, each in read_answers(store, key).items() if digest not in set(images)}
    if left:
        write_answers(store, key, left)
    else:
        store.delete(key)
