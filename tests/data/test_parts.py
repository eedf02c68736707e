"""A file of parts: each comes back as it was, and no other is read for it."""

import io

import numpy as np
import pytest

from ddt.data.parts import read_part, read_parts, write_parts

KIND = np.dtype([("row", "<u4"), ("name", "u1", 3)])


def test_each_part_alone_and_several_together(tmp_path):
    parts = [np.zeros(n, KIND) for n in (3, 0, 1000, 2)]
    for number, part in enumerate(parts):
        part["row"], part["name"] = np.arange(len(part)), number
    path = tmp_path / "parts"
    assert write_parts(path, parts, 4) == 1005
    data = path.read_bytes()
    for number, part in enumerate(parts):
        counting = Counting(data)
        found = read_part(counting, number, KIND)
        assert found.dtype == KIND and np.array_equal(found, part)
        assert counting.bytes_read == 16 + part.nbytes
    assert np.array_equal(read_parts(io.BytesIO(data), 1, 4, KIND), np.concatenate(parts[1:]))


class Counting(io.BytesIO):
    bytes_read = 0

    def read(self, size=-1):
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def test_another_number_of_parts_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="1 parts, not 2"):
        write_parts(tmp_path / "parts", [np.zeros(1, KIND)], 2)
