"""The model card of a saved tokenizer: README.md as the Hub shows it, with the numbers there are."""

from __future__ import annotations

from collections.abc import Mapping

CARD = """---
library_name: ddt-llama
tags:
{tags}
---

# {title}

{summary}

```python
{usage}
```

| | |
|---|--:|
{facts}
"""


def model_card(
    title: str,
    tags: list[str],
    summary: str,
    usage: str,
    facts: Mapping[str, object],
    metrics: Mapping[str, float],
    made_from: Mapping[str, str],
) -> str:
    """Markdown with YAML metadata. `metrics` were measured by whoever saves."""
    card = CARD.format(
        tags="\n".join(f"- {tag}" for tag in tags),
        title=title,
        summary=summary,
        usage=usage,
        facts=_rows({name: _text(value) for name, value in facts.items()}),
    )
    if metrics:
        measured = _rows({name: f"{value:.4g}" for name, value in sorted(metrics.items())})
        card += f"\n## Measured\n| | |\n|---|--:|\n{measured}\n"
    if made_from:
        card += f"\n## Made from\n| | |\n|---|---|\n{_rows(dict(sorted(made_from.items())))}\n"
    return card


def _rows(cells: Mapping[str, str]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in cells.items())


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
