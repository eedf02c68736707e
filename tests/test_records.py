"""Identity of records, and the shards that hold them."""

import hashlib
import io

from hypothesis import given
from hypothesis import strategies as st

from ddt.records import (
    RECORD_SCHEMA,
    REJECT_SCHEMA,
    ROWS_PER_BATCH,
    Reject,
    canonical_caption,
    iter_shard,
    read_columns,
    read_shard,
    sample_id,
    write_shard,
)


def test_canonical_caption():
    assert canonical_caption("  a\tred \n circle\u00a0 ") == "a red circle"
    assert canonical_caption("cafe\u0301") == "caf\u00e9"
    assert canonical_caption("a\x00b \x07 c") == "ab c"
    assert canonical_caption("\ud800x").encode() == b"x"


@given(st.text())
def test_canonical_caption_is_idempotent_and_encodable(text):
    once = canonical_caption(text)
    assert canonical_caption(once) == once
    once.encode()


def test_sample_id_is_of_bytes_and_canonical_caption():
    # by the definition: 8 bytes of length, the image, the caption
    want = hashlib.sha256((3).to_bytes(8, "little") + b"img" + b"a cat").hexdigest()
    assert sample_id(b"img", " a  cat ") == want
    assert sample_id(b"img", "a dog") != want
    assert sample_id(b"ima", "g") != sample_id(b"im", "ag")


def rows(n):
    return [
        {"sample_id": f"{i:064x}", "image": b"picture %d" % i, "caption": "", "width": 4, "height": 4,
         "format": "PNG", "questions": None, "planted": None if i % 2 else "clean", "source": "s"}
        for i in range(n)
    ]  # fmt: skip


def test_shard_round_trip_and_stable_bytes(tmp_path):
    want = rows(ROWS_PER_BATCH + 3)
    assert write_shard(tmp_path / "a.arrow", iter(want), RECORD_SCHEMA) == len(want)
    write_shard(tmp_path / "b.arrow", want, RECORD_SCHEMA)
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()
    assert list(iter_shard(tmp_path / "a.arrow")) == want
    assert read_shard(tmp_path / "a.arrow", ["sample_id"]).column_names == ["sample_id"]


def test_columns_alone_are_read_without_the_images(tmp_path):
    path, want = tmp_path / "a.arrow", rows(3 * ROWS_PER_BATCH)
    for row in want:
        row["image"] = bytes(10_000)
    write_shard(path, want, RECORD_SCHEMA)
    table = read_columns(file := Counting(path.read_bytes()), ["caption", "sample_id"])
    assert table.to_pylist() == [{k: row[k] for k in ("caption", "sample_id")} for row in want]
    assert file.bytes_read < 500 * len(want)
    some = [0, ROWS_PER_BATCH - 1, ROWS_PER_BATCH, ROWS_PER_BATCH + 5]
    table = read_columns(file := Counting(path.read_bytes()), ["image", "caption"], some)
    assert table.to_pylist() == [{k: want[n][k] for k in ("image", "caption")} for n in some]
    assert file.bytes_read < 2.2 * ROWS_PER_BATCH * 10_000, "the third batch is not read"
    assert read_columns(Counting(path.read_bytes()), ["image"], []).num_rows == 0
    later = read_columns(
        Counting(path.read_bytes()), ["caption"], [ROWS_PER_BATCH + 5]
    )  # none of the first batch
    assert later.to_pylist() == [{"caption": want[ROWS_PER_BATCH + 5]["caption"]}]


class Counting(io.BytesIO):
    bytes_read = 0

    def read(self, size=-1):
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def test_empty_shard_and_rejects(tmp_path):
    assert write_shard(tmp_path / "none.arrow", [], RECORD_SCHEMA) == 0
    assert read_shard(tmp_path / "none.arrow").num_rows == 0
    reject = Reject("corrupt_image", "cut", key="0001", source="00000.tar", planted="corrupt")
    write_shard(tmp_path / "r.arrow", [reject.row()], REJECT_SCHEMA)
    assert list(iter_shard(tmp_path / "r.arrow")) == [
        {
            "source": "00000.tar",
            "key": "0001",
            "reason": "corrupt_image",
            "detail": "cut",
            "lost": 1,
            "planted": "corrupt",
            "picture": None,
        }
    ]
