"""The promotion gate: thresholds and allowed drops on interval bounds, and metrics that are missing."""

import pytest

from ddt.eval.benchmark import Score
from ddt.sections.quality import PromoteParams
from pipelines.engine.runner import StageError
from pipelines.promote import champion_scores, decide, refuse_wrong_side
from pipelines.services.tracking import Version

PARAMS = PromoteParams(
    min_metric={"psnr": 21.0}, max_metric={"l1": 0.2}, max_drop={"psnr": 0.5, "l1": 0.05, "geneval": 0.05}
)


def around(value: float, half: float, higher_is_better: bool = True) -> Score:
    return Score(value, value - half, value + half, 100, higher_is_better=higher_is_better)


def scores(
    psnr: float = 25.0, l1: float = 0.1, geneval: float = 0.6, noise: float = 0.01
) -> dict[str, Score]:
    return {
        "psnr": around(psnr, noise),
        "l1": around(l1, noise, higher_is_better=False),
        "geneval": around(geneval, noise),
    }


def failed(found: dict[str, Score], champion: dict[str, Score] | None = None) -> list[tuple[str, str]]:
    return [(c.metric, c.rule[:14]) for c in decide(PARAMS, found, champion) if not c.passed]


def test_a_threshold_looks_at_the_worse_bound() -> None:
    assert failed(scores(psnr=21.0, noise=0.0)) == []
    assert failed(scores(psnr=21.05, noise=0.1)) == [
        ("psnr", "lower bound at")
    ]  # its value would have passed
    assert failed(scores(l1=0.195, noise=0.01)) == [("l1", "upper bound at")]
    assert failed(scores(l1=0.19, noise=0.01)) == []


def test_a_missing_metric_fails() -> None:
    assert failed({}) == [("psnr", "lower bound at"), ("l1", "upper bound at")]
    assert ("geneval", "lower bound at") in failed({}, scores())


def test_a_drop_compares_the_same_bounds() -> None:
    assert failed(scores(), scores()) == []
    assert failed(scores(noise=0.04), scores(noise=0.04)) == []  # the same model passes however noisy
    assert failed(scores(geneval=0.56), scores()) == []
    assert failed(scores(geneval=0.54), scores()) == [("geneval", "lower bound at")]
    # 0.56 again, but less certain than the champion was
    assert failed(scores(geneval=0.56, noise=0.03), scores()) == [("geneval", "lower bound at")]
    assert failed(scores(l1=0.16), scores()) == [("l1", "upper bound at")]  # a rise is the drop here
    assert failed(scores(l1=0.01), scores()) == []


def test_every_check_is_listed_with_its_interval() -> None:
    rows = [check.row() for check in decide(PARAMS, scores(), {"psnr": around(25, 0.1)})]
    assert [row[0] for row in rows] == ["psnr", "l1", "geneval", "l1", "psnr"]
    assert rows[0] == ["psnr", "lower bound at least", "21.0000", "25.0000", "24.9900 to 25.0100", "yes"]
    assert rows[2][1:3] == ["the champion was not measured by it", ""] and rows[2][5] == "yes"
    assert rows[4][2] == "24.4000"


def test_a_threshold_on_the_wrong_side_is_named() -> None:
    wrong = PromoteParams(min_metric={"l1": 0.1}, max_metric={}, max_drop={})
    with pytest.raises(
        StageError, match=r"promote.min_metric.l1: lower is better there; expected it in max_"
    ):
        refuse_wrong_side(wrong, scores())
    wrong = PromoteParams(min_metric={}, max_metric={"psnr": 30}, max_drop={})
    with pytest.raises(StageError, match=r"promote.max_metric.psnr: higher is better .* in min_metric"):
        refuse_wrong_side(wrong, scores())
    refuse_wrong_side(PARAMS, scores())


def test_the_champion_is_not_compared_with_itself() -> None:
    champion = Version("ddt-llama", "3", "", {"metric.psnr": "[24.5, 24.1, 24.9]", "stage": "finetune"})
    assert champion_scores(champion, champion) is None
    found = champion_scores(Version("ddt-llama", "4", "", {}), champion)
    assert found is not None and (found["psnr"].value, found["psnr"].low, found["psnr"].high) == (
        24.5,
        24.1,
        24.9,
    )


def test_a_tag_that_is_no_score_is_named() -> None:
    champion = Version("ddt-llama", "3", "", {"metric.psnr": "24.5"})
    with pytest.raises(
        StageError, match=r"version 3 has the tag metric.psnr = '24.5', expected \[value, low"
    ):
        champion_scores(Version("ddt-llama", "4", "", {}), champion)
