"""What a field of a benchmark's file must hold, checked as it is read: a fault is told by its place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of value: `holds` tells whether one is of it, `called` is its name for people."""

    called: str
    holds: Callable[[Any], bool]


Fields = Mapping[str, Kind]  # by the field's name
NOTHING_MORE: Fields = {}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, str) and value != "")


def _is_number(value: Any) -> bool:
    # Compared, not converted: a whole number of JSON can be too large for a float.
    return (_is_whole(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max


ANYTHING = Kind("anything", lambda value: True)  # an answer, whose kind is told with its case
TEXT = Kind("a text", lambda value: isinstance(value, str))
BOOL = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0)
NUMBER = Kind("a finite number", _is_number)
ID = Kind("a text or whole number", _is_id)


def one_of(*values: str) -> Kind:
    """One of some texts."""
    return Kind(" or ".join(values), lambda value: isinstance(value, str) and value in values)


def list_of(kind: Kind) -> Kind:
    """A list of at least one value of `kind`."""
    return Kind(
        f"a list of {kind.called}",
        lambda value: isinstance(value, list) and bool(value) and all(map(kind.holds, value)),
    )


def object_of(fields: Fields, optional: Fields = NOTHING_MORE) -> Kind:
    """An object with `fields`; those of `optional` may be absent."""
    return Kind(f"{{{', '.join([*fields, *optional])}}}", lambda value: not fault_of(value, fields, optional))


def fault_of(value: Any, fields: Fields, optional: Fields = NOTHING_MORE) -> str:
    """What is wrong with an object of a file, "" where nothing is."""
    if not (isinstance(value, dict) and fields.keys() <= value.keys()):
        return f"without {', '.join(fields)}"
    for name, kind in {**fields, **optional}.items():
        if name in value and not kind.holds(value[name]):
            return f"whose {name} is not {kind.called}"
    return ""
