"""The paper's tables, and this model beside them: what is measured, not run, or different."""

import json

import pytest

from ddt.eval.benchmark import Score
from ddt.eval.report.compare import NOT_RUN, beside_the_paper, result_remarks, text_rows, to_json
from ddt.eval.report.evaluation import Evaluation, official_result, write_html
from ddt.eval.report.paper import OURS, TABLES
from ddt.eval.report.results import score_table

RESULT = {
    "benchmark": "seed",
    "scores": {
        "seed/all": Score(0.5, 0.45, 0.55, 100, floor=0.26, floor_is="always B").to_dict(),
        "seed/image": Score(0.6, 0.5, 0.7, 80).to_dict(),
    },
    "coverage": {"scored": 100, "cases": 200, "share": 0.5},
    "problems": {"missing prediction": {"count": 100, "first": ["x"]}},
    "settings": {"answers": "ranking"},
    "scorers": {},
    "data": {"SEED-Bench.json": "ab"},
    "examples": {
        "right": [],
        "wrong": [{"case": "1", "task": "image", "prompt": "What?", "value": 0.0, "output": "A",
                   "reason": "expected B", "images": {"source": "gone.png"}}],
    },
}  # fmt: skip


def lines(own=None, official=()):
    found = beside_the_paper(own or {}, "scenes of 32 px", official)
    return {line.column.title: line for _, table in found for line in table}


def test_the_tables_have_the_papers_own_row():
    ours = [list(table.rows[OURS]) for table in TABLES]
    assert ours[0] == [
        0.66,
        0.99,
        0.64,
        0.56,
        0.87,
        0.39,
        0.48,
        0.728,
        0.514,
        0.642,
        0.176,
        0.314,
        0.345,
        0.267,
    ]
    assert ours[1] == [14.5, 85.5, 14.2, 29.6, 7.1, 92.4]
    assert ours[2] == [124.2, 88.5, 76.4, 66.3, 65.9, 57.3, 1378.9, 67.9, 86.9]
    assert ours[3] == [21.7, 6.1]
    # GenEval's overall is the mean of the six tasks, in every row that has them.
    for name, (overall, *tasks) in ((n, row[:7]) for n, row in TABLES[0].rows.items() if row[1] is not None):
        assert overall == pytest.approx(sum(tasks) / 6, abs=0.011), name


def test_nothing_measured_is_not_run():
    found = lines()
    assert len(found) == 31
    rows = [row for table in (text_rows(list(found.values())),) for row in table[1:]]
    assert {row[3] for row in rows} == {NOT_RUN}
    assert found["GenEval overall"].best_other == "0.74 SD3"
    assert found["class-conditional FID"].best_other == "7.1 MoVQ"  # lower is better


def test_own_data_is_marked_as_another_scale():
    line = lines({"edit/l1": Score(0.05, 0.04, 0.06, 200, higher_is_better=False)})["MagicBrush L1"]
    assert line.own is not None and line.text(line.own) == "5.0 (4.0 to 6.0)"
    assert line.own.remarks == ("another scale: scenes of 32 px", "exact targets of drawn scenes")
    assert line.official == ()


def test_an_official_result_tells_what_is_different():
    line = lines(official=[RESULT])["SEED-Bench"]
    assert [each.score.value for each in line.official] == [50, 60]
    assert "partial: 100 of 200 cases" in line.official[0].remarks
    assert "found in its files: 100 x missing prediction" in line.official[0].remarks
    assert any("images or all not stated" in remark for remark in line.official[0].remarks)
    assert "the model that made the outputs is not recorded" in line.official[0].remarks
    known = RESULT | {"generated": {"digest": "ab" * 32}}
    assert not any("model" in each for each in result_remarks(known, "ab" * 32))
    assert "another model: abababababababab" in result_remarks(known, "cd" * 32)
    found = [each for each in to_json(beside_the_paper({}, "", [RESULT])) if each["metric"] == "SEED-Bench"]
    assert json.loads(json.dumps(found))[0]["official"][0]["name"] == "seed/all"


def test_the_page_has_what_is_right_without_the_picture(tmp_path):
    score = Score(0.31, 0.27, 0.35, 100, floor=0.26, floor_is="always B").to_dict()
    asked = official_result(RESULT | {"without_the_picture": {"seed/all": score}})
    assert list(asked.scores) == ["seed/all", "seed/all, question without the picture", "seed/image"]
    assert score_table(asked.scores)[2][1:] == ["0.310", "0.270 to 0.350", "100", "0.260 (always B)", "", ""]


def test_the_page_shows_official_results(tmp_path):
    path = tmp_path / "page.html"
    write_html(path, Evaluation([], "scenes", official=[RESULT]))
    page = path.read_text()
    assert "seed, official files" in page and "50.0 (45.0 to 55.0) seed/all" in page
    assert "What? | -&gt; A | expected B" in page  # its picture is gone, the text stays
    assert "always B" in page and page.count("not run") >= 30
