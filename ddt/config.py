"""Typed configuration: frozen dataclasses built from plain mappings, with every mistake named by its key.

A field's annotation is its contract: `Annotated[int, Range(1)]`, `Literal["a", "b"]`, `X | None`,
`tuple[X, ...]`, `dict[str, X]` or a nested dataclass. Nothing is coerced except int -> float and the
strings YAML makes of numbers such as `1e-4`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration key is unknown, missing, of the wrong type or out of range."""


@dataclass(frozen=True)
class Range:
    """Closed interval of allowed numbers; an absent bound is open."""

    low: float | None = None
    high: float | None = None

    def check(self, key: str, value: float) -> None:
        below = self.low is not None and value < self.low
        above = self.high is not None and value > self.high
        if below or above or math.isnan(value):
            raise ConfigError(f"{key} = {value!r}: expected a number {self}")

    def __str__(self) -> str:
        low = "" if self.low is None else f">= {self.low:g}"
        high = "" if self.high is None else f"<= {self.high:g}"
        return " and ".join(part for part in (low, high) if part)


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(1e-9)]


def build(cls: type[T], values: Mapping[str, Any], key: str = "") -> T:
    """`values` as an instance of the dataclass `cls`.

    Raises ConfigError naming the dotted key, the value given and what is allowed.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key or 'the file'} = {values!r}: expected a mapping of settings")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    prefix = f"{key}." if key else ""
    for name in values:
        if name not in fields:
            raise ConfigError(f"{prefix}{name}: unknown key; allowed here: {', '.join(sorted(fields))}")
    hints = typing.get_type_hints(cls, include_extras=True)
    built = {}
    for name, field in fields.items():
        if name in values:
            built[name] = _convert(hints[name], values[name], prefix + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{name}: missing; every key of this section must be set")
    try:
        return cls(**built)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{key or 'configuration'}: {error}") from None


def to_dict(config: Any) -> Any:
    """A dataclass (or container of them) as plain JSON types: the inverse of `build`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {name: to_dict(value) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return config


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `overlay`, mappings merged key by key, anything else replaced."""
    merged = dict(base)
    for name, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = merge(merged[name], value)
        else:
            merged[name] = value
    return merged


def _convert(hint: Any, value: Any, key: str) -> Any:
    origin = get_origin(hint)
    if origin is typing.Annotated:
        inner, *constraints = get_args(hint)
        converted = _convert(inner, value, key)
        if converted is not None:
            for constraint in constraints:
                constraint.check(key, converted)
        return converted
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, key)
    if origin is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{key} = {value!r}: expected one of {', '.join(map(str, get_args(hint)))}")
        return value
    if origin is tuple:
        return _convert_tuple(hint, value, key)
    if origin is dict:
        item = get_args(hint)[1]
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} = {value!r}: expected a mapping")
        # Null takes an entry out: that is how an overlay removes one.
        entries = {str(name): v for name, v in value.items() if v is not None}
        return {name: _convert(item, v, f"{key}.{name}") for name, v in entries.items()}
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        return build(typing.cast(type, hint), value, key)
    return _convert_scalar(hint, value, key)


def _convert_union(hint: Any, value: Any, key: str) -> Any:
    options = [option for option in get_args(hint) if option is not type(None)]
    if value is None:
        if len(options) == len(get_args(hint)):
            raise ConfigError(f"{key} = null: expected a value")
        return None
    errors = []
    for option in options:
        try:
            return _convert(option, value, key)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _convert_tuple(hint: Any, value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key} = {value!r}: expected a list")
    items = get_args(hint)
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise ConfigError(f"{key} = {value!r}: expected a list of {len(items)} values")
    return tuple(
        _convert(item, v, f"{key}[{i}]") for i, (item, v) in enumerate(zip(items, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, key: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            raise ConfigError(f"{key} = {value!r}: expected a number") from None
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise ConfigError(f"{key} = {value!r}: expected {names.get(hint, hint.__name__)}")
