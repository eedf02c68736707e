"""Typed configuration: every kind of mistake is one line that names the key; to_dict is build's inverse."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from ddt.config import ConfigError, Range, build, merge, to_dict


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Range(0, 1)]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Outer:
    inner: Inner
    kind: Literal["a", "b"]
    count: Annotated[int, Range(1)] | None
    weights: dict[str, float]
    flag: bool


GOOD = {
    "inner": {"rate": "1e-3", "sizes": [1, 2]},
    "kind": "a",
    "count": None,
    "weights": {"x": 1},
    "flag": True,
}


def test_build_and_back() -> None:
    outer = build(Outer, GOOD)
    assert outer == Outer(Inner(0.001, (1, 2)), "a", None, {"x": 1.0}, True)
    assert build(Outer, to_dict(outer)) == outer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner": {"rate": 2}}, "inner.rate = 2.0: expected a number >= 0 and <= 1"),
        ({"inner": {"rate": float("nan")}}, "inner.rate = nan"),
        ({"inner": {"rate": True}}, "inner.rate = True: expected a number"),
        ({"inner": {"sizes": [1, "x"]}}, r"inner.sizes\[1\] = 'x': expected a whole number"),
        ({"inner": {"sizes": 3}}, "inner.sizes = 3: expected a list"),
        ({"inner": 7}, "inner = 7: expected a mapping"),
        ({"kind": "c"}, "kind = 'c': expected one of a, b"),
        ({"count": 0}, "count = 0: expected a number >= 1"),
        ({"count": 1.5}, "count = 1.5: expected a whole number"),
        ({"flag": "yes"}, "flag = 'yes': expected true or false"),
        ({"weights": {"x": "heavy"}}, "weights.x = 'heavy': expected a number"),
        ({"colour": 1}, "colour: unknown key; allowed here: count, flag, inner, kind, weights"),
    ],
)
def test_a_mistake_names_its_key(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Outer, merge(GOOD, change))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="inner.sizes: missing"):
        build(Outer, GOOD | {"inner": {"rate": 0.5}})


def test_null_takes_an_entry_out_of_a_mapping() -> None:
    assert build(Outer, merge(GOOD, {"weights": {"x": None, "y": 2}})).weights == {"y": 2.0}


def test_merge_replaces_lists_and_keeps_what_is_not_named() -> None:
    merged = merge(GOOD, {"inner": {"sizes": [9]}})
    assert merged["inner"] == {"rate": "1e-3", "sizes": [9]}
    assert GOOD["inner"] == {"rate": "1e-3", "sizes": [1, 2]}
