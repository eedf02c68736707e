"""Words of the scenes: number words, plurals, articles, noun phrases of objects and of groups of objects."""

from __future__ import annotations

from collections.abc import Sequence

from ddt.scenes.world import Object

NUMBER_WORDS = ("zero", "one", "two", "three", "four")

Group = tuple[str, list[Object]]  # a noun phrase without article or number, and the objects it covers


def plural(noun: str) -> str:
    """Plural of one of the shapes' names ("crosses", "squares")."""
    return noun + ("es" if noun.endswith("s") else "s")


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def counted(phrase: str, count: int) -> str:
    """ "a red circle", "two red circles": the phrase ends in a shape's name."""
    return article(phrase) if count == 1 else f"{NUMBER_WORDS[count]} {plural(phrase)}"


def describe(item: Object, named: Sequence[str]) -> str:
    """Noun phrase such as "large striped green triangle" with the named attributes; solid goes unsaid."""
    words = []
    if "size" in named:
        words.append(item.size)
    if "texture" in named and item.texture != "solid":
        words.append(item.texture)
    if "color" in named:
        words.append(item.color)
    words.append(item.shape)
    return " ".join(words)


def group_objects(objects: Sequence[Object], named: Sequence[str]) -> list[Group]:
    """Objects that share a phrase, together, in order of first appearance."""
    groups: dict[str, list[Object]] = {}
    for item in objects:
        groups.setdefault(describe(item, named), []).append(item)
    return list(groups.items())


def join(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
