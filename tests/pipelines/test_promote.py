"""The promotion gate: thresholds, allowed drops, and metrics that are missing."""

from ddt.params import PromoteParams
from pipelines.promote import champion_metrics, decide
from pipelines.tracking import Version

PARAMS = PromoteParams(min_metric={"psnr": 21.0}, max_drop={"psnr": 0.5, "geneval": 0.05})


def failed(metrics: dict[str, float], champion: dict[str, float] | None) -> list[tuple[str, str]]:
    return [(c.metric, c.rule.split(" ")[0]) for c in decide(PARAMS, metrics, champion) if not c.passed]


def test_without_a_champion_only_thresholds_count() -> None:
    assert failed({"psnr": 21.0}, None) == []
    assert failed({"psnr": 20.99}, None) == [("psnr", "at")]


def test_a_missing_metric_fails() -> None:
    assert failed({}, None) == [("psnr", "at")]
    assert failed({"psnr": 30.0}, {"geneval": 0.6}) == [("geneval", "not")]


def test_a_drop_beyond_the_allowed_one_fails() -> None:
    champion = {"psnr": 24.0, "geneval": 0.6}
    assert failed({"psnr": 23.5, "geneval": 0.55}, champion) == []
    assert failed({"psnr": 23.4, "geneval": 0.54}, champion) == [("geneval", "not"), ("psnr", "not")]


def test_the_champion_is_not_compared_with_itself() -> None:
    champion = Version("ddt-llama", "3", "", {"metric.psnr": "24.5", "stage": "finetune"})
    assert champion_metrics(champion, champion) is None
    assert champion_metrics(Version("ddt-llama", "4", "", {}), champion) == {"psnr": 24.5}
