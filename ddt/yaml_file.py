"""Safe YAML in which no key is given twice, with every mistake named by file and line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ddt.clean import one_line
from ddt.config import ConfigError


class _Loader(yaml.SafeLoader):
    """Safe YAML in which no mapping has a key twice: PyYAML takes the last without a word."""

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.name = source  # what marks say

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert node is not None
        first: dict[str, yaml.Mark] = {}
        for key, _ in node.value:
            # A key that is itself a list or a mapping is refused later: keys are names.
            mark = first.setdefault(str(key.value), key.start_mark)
            if mark is not key.start_mark:
                raise ConfigError(
                    f"{self.name}, line {key.start_mark.line + 1}: {key.value} is given twice, "
                    f"first on line {mark.line + 1}"
                )
        return node


def parse_yaml(text: str, source: str) -> Any:
    """The content of `text`; `source` names it in errors."""
    loader = _Loader(text, source)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file; ConfigError where it cannot be read or is no mapping."""
    try:
        values = parse_yaml(path.read_text(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({one_line(error)})") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected a mapping of sections")
    return dict(values)
