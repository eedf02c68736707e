"""What the tokens are on a folder of photographs: outputs hold what was measured, scores come from them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ddt.eval.official import evaluate, open_benchmark
from ddt.eval.official.problems import IncompleteError
from ddt.eval.official.recursion import read_values
from ddt.eval.scorers import Scorers
from pipelines.commands.benchmark import write_plots
from tests.eval.official.fake import generate
from tests.eval.transform import SIDE_PX, photos, raster

SETTINGS = {"side_px": str(SIDE_PX)}


@pytest.fixture
def folder(tmp_path):
    for k, photo in enumerate(photos(6)):
        path = tmp_path / "photos" / f"class{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)
    return tmp_path / "photos"


def test_a_tokenizer_of_places_is_seen_as_one(folder, tmp_path) -> None:
    benchmark = open_benchmark("recursion", [folder], settings=SETTINGS)
    assert generate(benchmark, raster(), tmp_path / "out", 4) == 6
    assert generate(benchmark, raster(), tmp_path / "out", 4) == 0
    result = evaluate(benchmark, tmp_path / "out", Scorers())
    score = result["scores"]["recursion/place_unevenness"]
    assert score["value"] == pytest.approx(1, abs=0.02) and score["baseline"] == pytest.approx(1)
    assert score["n"] == 6 and result["coverage"] == {"scored": 6, "cases": 6, "share": 1.0}
    assert not any("valid" in name or "kept" in name for name in result["scores"])
    assert len(result["examples"]["right"]) + len(result["examples"]["wrong"]) == 6
    write_plots(benchmark, tmp_path / "out")
    plots = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert plots == [f"recursion_{i}.png" for i in range(4)]  # it has no times
    again = evaluate(benchmark, tmp_path / "out", Scorers())
    assert again["problems"] == result["problems"]  # plots are no outputs


def test_pictures_are_taken_evenly_from_the_folder(folder) -> None:
    names = [case.id for case in open_benchmark("recursion", [folder], settings=SETTINGS).cases]
    some = open_benchmark("recursion", [folder], settings={**SETTINGS, "pictures": "3"})
    assert [case.id for case in some.cases] == [names[0], names[2], names[5]]


@pytest.mark.parametrize("pictures", ["1", "65", "all"])
def test_a_number_of_pictures_out_of_range_is_told(folder, pictures) -> None:
    with pytest.raises(ValueError, match=f"recursion: pictures '{pictures}', expected a number"):
        open_benchmark("recursion", [folder], settings={**SETTINGS, "pictures": pictures})


def test_what_is_no_folder_or_of_another_size_is_told(folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        open_benchmark("recursion", [tmp_path / "nowhere"], settings=SETTINGS)
    benchmark = open_benchmark("recursion", [folder])
    with pytest.raises(ValueError, match="for 16 px, asked are 256: give --setting side_px=16"):
        benchmark.make(raster(), benchmark.cases, tmp_path)


def test_one_picture_is_too_few(folder, tmp_path) -> None:
    (alone := tmp_path / "alone").mkdir()
    (alone / "a.png").write_bytes(photos(1)[0])
    benchmark = open_benchmark("recursion", [alone], settings=SETTINGS)
    with pytest.raises(ValueError, match="got 1 picture, expected 2 or more"):
        benchmark.make(raster(), benchmark.cases, tmp_path)


def test_pictures_without_numbers_are_told(folder, tmp_path) -> None:
    benchmark = open_benchmark("recursion", [folder], settings=SETTINGS)
    generate(benchmark, raster(), tmp_path / "out", 6)
    path = tmp_path / "out" / benchmark.cases[0].output
    assert read_values(path)["codes"]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    with pytest.raises(IncompleteError, match="picture without what was measured"):
        evaluate(benchmark, tmp_path / "out", Scorers())
    result = evaluate(benchmark, tmp_path / "out", Scorers(), partial=True)
    assert result["coverage"]["scored"] == 5
