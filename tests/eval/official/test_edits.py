"""EVR, MA5K and MagicBrush on small official files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddt.eval.official import edits, evaluate, open_benchmark
from ddt.eval.official.edits import MA5K
from ddt.eval.official.problems import IncompleteError
from ddt.eval.scorers import Scorers
from tests.eval.official import tiny
from tests.eval.official.fake import FakeModel, generate, save_image

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def scorers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorers")
    return Scorers({"clip": tiny.clip(folder / "clip"), "lpips": tiny.lpips(folder / "lpips")}, device="cpu")


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_evr_asks_every_request(tmp_path, monkeypatch, scorers):
    monkeypatch.setattr(edits, "PAIRS_EVR", 1)
    pair = {
        "img0": "a.jpg",
        "img1": "b.png",
        "sents": ["invert it", "make it dark", "x"],
        "uid": "Reddit_1052",
    }
    path = write(tmp_path / "test.json", [pair])
    save_image(tmp_path / "images" / "a.jpg", (0, 0, 0))
    save_image(tmp_path / "images" / "b.png", (255, 255, 255), (20, 10))
    benchmark, out = open_benchmark("evr", [path], tmp_path / "images"), tmp_path / "out"
    generate(benchmark, FakeModel(), out, 2)
    assert sorted(path.name for path in out.iterdir()) == [f"Reddit_1052_{k}.png" for k in range(3)]
    scores = evaluate(benchmark, out, scorers)["scores"]
    assert scores["evr/l1"]["value"] == 0 and scores["evr/l1"]["floor"] == 1
    assert scores["evr/l1"]["floor_is"] == "unedited source" and not scores["evr/l1"]["higher_is_better"]
    assert scores["evr/cvs"]["value"] == pytest.approx(1, abs=1e-5)
    assert len(open_benchmark("evr", [path], settings={"requests": "first"}).cases) == 1


def test_ma5k_with_lpips(tmp_path, monkeypatch, scorers):
    monkeypatch.setattr(MA5K, "published", 1)
    path = write(tmp_path / "test.json", [{"input": "1_O.jpg", "output": "1_B.jpg", "request": "x"}])
    rng = np.random.default_rng(0)
    for name in ("1_O.jpg", "1_B.jpg"):
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    benchmark, out = open_benchmark("ma5k", [path], tmp_path), tmp_path / "out"
    generate(benchmark, FakeModel(), out, 2)
    scores = evaluate(benchmark, out, scorers)["scores"]
    assert set(scores) == {"ma5k/l1", "ma5k/lpips"} and scores["ma5k/lpips"]["value"] > 0
    assert set(evaluate(benchmark, out, Scorers())["scores"]) == {"ma5k/l1"}


def test_pictures_of_the_data_are_named_by_item_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(MA5K, "published", 3)
    items = [{"input": f"{k}_O.png", "output": f"{k}_B.png", "request": "x"} for k in range(3)]
    path, out = write(tmp_path / "test.json", items), tmp_path / "out"
    for k in range(3):
        for name in ("O", "B"):
            save_image(tmp_path / "images" / f"{k}_{name}.png", (40 * k, 0, 0))
    generate(open_benchmark("ma5k", [path], tmp_path / "images"), FakeModel(), out, 2)
    (tmp_path / "images" / "0_B.png").unlink()
    (tmp_path / "images" / "2_O.png").write_bytes(b"no picture")
    benchmark = open_benchmark("ma5k", [path], tmp_path / "images")
    benchmark.measure(benchmark.cases[0], out / "00000.png", Scorers())  # told by what follows
    with pytest.raises(IncompleteError) as refused:
        evaluate(benchmark, out, Scorers())
    for named in (
        "2 x picture of the data missing or unreadable",
        f"0_B.png: no such file, for {path} item 1",
        f"2_O.png: not a readable image (begins like none of JPEG, PNG, WEBP, GIF, BMP), for {path} item 3",
    ):
        assert named in str(refused.value)
    result = evaluate(benchmark, out, Scorers(), partial=True)
    assert result["coverage"]["scored"] == 1 and result["scores"]["ma5k/l1"]["n"] == 1
    with pytest.raises(ValueError, match=r"2_O.png: not a readable image .*, for .*test.json item 3"):
        generate(benchmark, FakeModel(), tmp_path / "again", 2)
    (tmp_path / "images" / "2_O.png").unlink()
    told = r"1 x picture of the data missing \(.*2_O.png, for .*test.json item 3\); generate from complete"
    with pytest.raises(IncompleteError, match=told):
        generate(benchmark, FakeModel(), tmp_path / "again", 2)


def test_a_bad_item_of_ma5k_keeps_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(MA5K, "published", 3)
    items = [{"input": f"{k}_O.png", "output": f"{k}_B.png", "request": f"request {k}"} for k in range(3)]
    path = write(tmp_path / "test.json", [items[0], {"input": "1_O.png"}, items[2]])
    benchmark = open_benchmark("ma5k", [path], tmp_path)
    assert [(case.output, case.text) for case in benchmark.cases] == [
        ("00000.png", "request 0"), ("00002.png", "request 2"),
    ]  # fmt: skip
    assert benchmark.problems.to_dict()["item without input, output, request"]["first"] == [f"{path} item 2"]


def test_a_session_of_magicbrush_with_a_bad_turn_is_left_out(tmp_path):
    """Its later turns would take the names of others, and start from an edit that is not there."""
    turns = [{"input": f"{k}", "output": f"{k}", "instruction": f"turn {k}"} for k in range(3)]
    path = write(tmp_path / "s.json", {"1": [turns[0], {"input": "1"}, turns[2]], "2": turns[:1]})
    benchmark = open_benchmark("magicbrush", [path], tmp_path)
    assert [case.id for case in benchmark.cases] == ["2/1"]
    assert benchmark.problems.to_dict()["item without input, output, instruction"]["first"] == [
        f"{path} 1 item 2"
    ]


def test_magicbrush_turns(tmp_path, scorers):
    def turn(key, number, source):
        return {"input": source, "mask": f"{key}-mask{number}.png", "output": f"{key}-output{number}.png",
                "instruction": f"turn {number}"}  # fmt: skip

    sessions = {
        "30": [turn("30", 1, "30-input.png")],
        "139": [turn("139", 1, "139-input.png"), turn("139", 2, "139-output1.png"),
                turn("139", 3, "139-output2.png")],
    }  # fmt: skip
    images = tmp_path / "images"
    for key, turns in sessions.items():
        save_image(images / key / f"{key}-input.png", (10, 0, 0))
        for number in range(1, len(turns) + 1):
            save_image(images / key / f"{key}-output{number}.png", (40 * number, 0, 0))
    path = write(tmp_path / "edit_sessions.json", sessions)
    benchmark, out = open_benchmark("magicbrush", [path], images), tmp_path / "out"
    assert generate(benchmark, FakeModel(), out, 2) == 6
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    # The pairing of the official script for these names: tests/eval/goldens/editing.json.
    golden = json.loads((GOLDENS / "editing.json").read_text())
    generated = [
        f"{k}/{n}" for case in golden["turn_pairing"] for k, v in case["generated"].items() for n in v
    ]
    assert names == sorted(generated)
    for setting in ("all_turn", "final_turn"):
        expected = {tuple(pair) for case in golden["turn_pairing"] for pair in case["expected"][setting]}
        mine = {
            (f"gen/{c.output}", f"gt/{c.target}") for c in benchmark.cases if setting in c.data["settings"]
        }
        assert mine == expected
    with Image.open(out / "139" / "139_iter_2.png") as image:
        assert image.getpixel((0, 0)) == (10, 0, 0)  # inverted twice, from the first turn's output
    with Image.open(out / "139" / "139_inde_2.png") as image:
        assert image.getpixel((0, 0)) == (215, 255, 255)  # from the first turn's ground truth
    scores = evaluate(benchmark, out, scorers)["scores"]
    assert scores["magicbrush/all_turn/l1"]["n"] == 4 and scores["magicbrush/final_turn/cvs"]["n"] == 2
