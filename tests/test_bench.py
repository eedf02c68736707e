"""The benchmarks start: what they measure is not asked here."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCH.glob("*.py") if path.stem != "measure"))
def test_a_benchmark_loads_and_knows_its_options(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main()
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_every_ablation_is_a_valid_configuration():
    ablations = importlib.import_module("ablations")
    options = SimpleNamespace(seeds=[1, 2], steps=600, width=None)
    runs = ablations.runs(list(ablations.VARIANTS), options)
    assert {run.params.fit.seed for run in runs} == {1, 2}
    assert len({run.file(Path()) for run in runs}) == len(runs)
