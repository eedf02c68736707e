"""The promotion gate: thresholds and allowed drops on interval bounds, and metrics that are missing."""

from pathlib import Path

import pytest

from ddt.config import ConfigError
from ddt.eval.benchmark import Score
from ddt.params import load_params
from ddt.sections.quality import PromoteParams
from pipelines.engine.runner import StageError
from pipelines.promote import champion_scores, checks_of, refuse_unfit
from pipelines.services.registry import Version

ROOT = Path(__file__).resolve().parents[2]
PSNR, L1, GENEVAL, VQA = "reconstruct/psnr", "edit/l1", "geneval/overall", "vqa/accuracy"
PARAMS = PromoteParams({}, {PSNR: 21.0}, {L1: 0.2}, {PSNR: 0.5, L1: 0.05, GENEVAL: 0.05})


def around(value: float, half: float, higher_is_better: bool = True) -> Score:
    return Score(value, value - half, value + half, 100, higher_is_better=higher_is_better)


def scores(
    psnr: float = 25.0, l1: float = 0.1, geneval: float = 0.6, noise: float = 0.01
) -> dict[str, Score]:
    return {
        PSNR: around(psnr, noise),
        L1: around(l1, noise, higher_is_better=False),
        GENEVAL: around(geneval, noise),
    }


def failed(found: dict[str, Score], champion: dict[str, Score] | None = None) -> list[tuple[str, str]]:
    return [(c.metric, c.rule[:14]) for c in checks_of(PARAMS, found, champion) if not c.passed]


def test_a_threshold_looks_at_the_worse_bound() -> None:
    assert failed(scores(psnr=21.0, noise=0.0)) == []
    assert failed(scores(psnr=21.05, noise=0.1)) == [(PSNR, "lower bound at")]  # its value would have passed
    assert failed(scores(l1=0.195, noise=0.01)) == [(L1, "upper bound at")]
    assert failed(scores(l1=0.19, noise=0.01)) == []


def test_a_missing_metric_fails() -> None:
    assert failed({}) == [(PSNR, "lower bound at"), (L1, "upper bound at")]
    assert (GENEVAL, "lower bound at") in failed({}, scores())


def test_a_drop_compares_the_same_bounds() -> None:
    assert failed(scores(), scores()) == []
    assert failed(scores(noise=0.04), scores(noise=0.04)) == []  # the same model passes however noisy
    assert failed(scores(geneval=0.56), scores()) == []
    assert failed(scores(geneval=0.54), scores()) == [(GENEVAL, "lower bound at")]
    # 0.56 again, but less certain than the champion was
    assert failed(scores(geneval=0.56, noise=0.03), scores()) == [(GENEVAL, "lower bound at")]
    assert failed(scores(l1=0.16), scores()) == [(L1, "upper bound at")]  # a rise is the drop here
    assert failed(scores(l1=0.01), scores()) == []


@pytest.mark.parametrize(
    ("low", "high", "floor", "passes"),
    [
        (0.493, 0.553, 0.46, True),  # seen on a Xeon
        (0.528, 0.588, 0.445, True),  # and on an EPYC
        (0.47, 0.53, 0.46, False),  # above it, not by the margin
        (0.45, 0.51, 0.46, False),  # the interval has the floor in it
        (0.40, 0.44, 0.46, False),
    ],
)
def test_an_interval_must_be_above_the_floor(low: float, high: float, floor: float, passes: bool) -> None:
    params = PromoteParams({VQA: 0.01}, {}, {}, {})
    score = Score((low + high) / 2, low, high, 1000, floor=floor, floor_is="question without the picture")
    [check] = checks_of(params, {VQA: score}, None)
    assert check.passed == passes and check.limit == pytest.approx(floor + 0.01)


def test_a_refusal_says_by_how_much() -> None:
    params = PromoteParams({VQA: 0.01, L1: 0.0}, {}, {}, {})
    vqa = Score(0.48, 0.45, 0.51, 1000, floor=0.46, floor_is="question without the picture")
    l1 = Score(0.30, 0.25, 0.35, 100, floor=0.3, floor_is="the unedited source", higher_is_better=False)
    assert [check.reason() for check in checks_of(params, {VQA: vqa, L1: l1}, None)] == [
        "edit/l1: upper bound over 0 below the floor of 0.3000 (the unedited source), 0.3000: it is 0.3000 "
        "(0.2500 to 0.3500), 0.05 short",
        "vqa/accuracy: lower bound over 0.01 above the floor of 0.4600 (question without the picture), "
        "0.4700: it is 0.4800 (0.4500 to 0.5100), 0.02 short",
    ]
    touching = Score(0.5, 0.46, 0.54, 1000, floor=0.46)
    assert not checks_of(PromoteParams({VQA: 0.0}, {}, {}, {}), {VQA: touching}, None)[0].passed
    [absent] = checks_of(PromoteParams({VQA: 0.01}, {}, {}, {}), {}, None)
    assert absent.reason() == "vqa/accuracy: lower bound over 0.01 above the floor, it is missing"


def test_a_metric_without_a_floor_is_named() -> None:
    with pytest.raises(
        StageError, match="promote.min_above_floor.reconstruct/psnr: it has no floor; expected"
    ):
        refuse_unfit(PromoteParams({PSNR: 6.0}, {}, {}, {}), scores())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "min_above_floor={vqa/accuracy: -0.1}",
            "min_above_floor.vqa/accuracy = -0.1: expected a number >= 0",
        ),
        (
            "min_above_floor={vqa/accuracy: .nan}",
            "min_above_floor.vqa/accuracy = nan: expected a number >= 0",
        ),
        (
            "min_above_floor={vqa/accuracy: .inf}",
            "min_above_floor.vqa/accuracy = inf: expected a number >= 0",
        ),
        ("min_above_floor={vqa/accuracy: high}", "min_above_floor.vqa/accuracy = 'high': expected a number"),
        ("min_above_floor=0.1", "min_above_floor = 0.1: expected a mapping"),
        ("min_metric={vqa/accuracy: .nan}", "min_metric.vqa/accuracy = nan: expected a number"),
        ("max_metric={edit/l1: .inf}", "max_metric.edit/l1 = inf: expected a number"),
        ("max_drop={vqa/accuracy: -1}", "max_drop.vqa/accuracy = -1.0: expected a number >= 0"),
        (
            "min_above_floor={vqaa/accuracy: 0}",
            "min_above_floor.vqaa/accuracy: expected a metric as vqa/accuracy,",
        ),
        ("max_drop={vqa: 0}", "max_drop.vqa: expected a metric as vqa/accuracy,"),
    ],
)
def test_what_is_no_threshold_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_params(ROOT / "params.yaml", None, [f"promote.{override}"])
    assert str(error.value).startswith(f"promote.{message}") and len(str(error.value)) <= 300


def test_the_gates_of_the_profiles_ask_for_what_their_data_have() -> None:
    """Photographs have no ground truth of scenes; null in an overlay takes a check away."""
    default = load_params(ROOT / "params.yaml").promote
    assert set(default.min_above_floor) == {PSNR, GENEVAL, VQA} and not default.min_metric
    for profile in ("photos", "paper"):
        gate = load_params(ROOT / "params.yaml", profile).promote
        asked = {*gate.min_above_floor, *gate.min_metric, *gate.max_metric, *gate.max_drop}
        assert asked == {PSNR}, profile
    smoke = load_params(ROOT / "params.yaml", "smoke").promote
    assert smoke.min_above_floor == {} and set(smoke.min_metric) == {PSNR, GENEVAL, VQA}


def test_every_check_is_listed_with_its_interval() -> None:
    rows = [check.row() for check in checks_of(PARAMS, scores(), {PSNR: around(25, 0.1)})]
    assert [row[0] for row in rows] == [PSNR, L1, L1, GENEVAL, PSNR]
    assert rows[0] == [PSNR, "lower bound at least", "21.0000", "25.0000", "24.9900 to 25.0100", "yes"]
    assert rows[3][1:3] == ["the champion was not measured by it", ""] and rows[3][5] == "yes"
    assert rows[4][2] == "24.4000"


def test_a_threshold_on_the_wrong_side_is_named() -> None:
    wrong = PromoteParams({}, {L1: 0.1}, {}, {})
    with pytest.raises(
        StageError, match=r"promote.min_metric.edit/l1: lower is better there; expected it in max_"
    ):
        refuse_unfit(wrong, scores())
    wrong = PromoteParams({}, {}, {PSNR: 30}, {})
    with pytest.raises(
        StageError, match=r"promote.max_metric.reconstruct/psnr: higher is better .* in min_metric"
    ):
        refuse_unfit(wrong, scores())
    refuse_unfit(PARAMS, scores())


def test_the_champion_is_not_compared_with_itself() -> None:
    champion = Version("ddt-llama", "3", None, {f"metric.{PSNR}": "[24.5, 24.1, 24.9]", "stage": "finetune"})
    assert champion_scores(champion, champion) is None
    found = champion_scores(Version("ddt-llama", "4", None, {}), champion)
    assert found is not None and (found[PSNR].value, found[PSNR].low, found[PSNR].high) == (
        24.5,
        24.1,
        24.9,
    )


def test_a_tag_that_is_no_score_is_named() -> None:
    champion = Version("ddt-llama", "3", None, {f"metric.{PSNR}": "24.5"})
    with pytest.raises(
        StageError, match=r"version 3 has the tag metric.reconstruct/psnr = '24.5', expected \[value, low"
    ):
        champion_scores(Version("ddt-llama", "4", None, {}), champion)
