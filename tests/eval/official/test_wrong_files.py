"""Annotation files that are cut, empty or hold something else: each benchmark names the file in one line."""

import json
from itertools import product

import pytest

from ddt.eval.official import evaluate
from ddt.eval.official.registry import OFFICIAL, open_benchmark
from ddt.eval.scorers import Scorers

WRONG = {
    "empty": b"", "cut": b'{"questions": [{"id": 1', "object": b'{"a": 1}', "items": b'[1, "x", null, []]',
    "number": b"5", "null": b"null", "binary": b"\xff\xfe\x00\x01", "deep": b"[" * 99_999,
}  # fmt: skip
NAMES = {
    "mme": ("existence.txt", "count.txt", "color.txt"),
    "t2i_complex": ("complex_val.txt", "complex_val_spatial.txt", "complex_val_action.txt"),
}
QUESTION = {"question": "q", "imageId": "a", "answer": "x", "isBalanced": True}
KINDS = {
    "evr": [{"img0": "a.jpg", "img1": "b.jpg", "sents": 5, "uid": "1"}],
    "gqa": {"1": QUESTION, "2": None},
    "nocaps": {"images": [{"id": [], "file_name": "a.jpg"}], "annotations": []},
    "vizwiz": [{"image": {}, "question": "q", "answers": [{"answer": "a"}]}],
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_files_that_are_none_are_named(name, tmp_path):
    (tmp_path / "out").mkdir()
    for (what, content), count in product(WRONG.items(), (1, 2, 3)):
        (tmp_path / what).mkdir(exist_ok=True)
        names = NAMES.get(name, ("a.json", "b.json", "c.json"))[:count]
        files = [tmp_path / what / each for each in names]
        for file in files:
            file.write_bytes(content)
        with pytest.raises(ValueError) as told:
            evaluate(open_benchmark(name, files, tmp_path), tmp_path / "out", Scorers({}), partial=True)
        line = str(told.value)
        assert str(tmp_path) in line or "data files, expected" in line or "no case" in line, (what, line)


@pytest.mark.parametrize("name", KINDS)
def test_values_of_the_wrong_kind_are_named(name, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(KINDS[name]))
    with pytest.raises(ValueError, match="file.json: a value of the wrong kind for"):
        open_benchmark(name, [path], tmp_path)
