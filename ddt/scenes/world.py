"""The embedded world: what a scene is made of, its geometry, and which combinations are held out of training.

Coordinates are in units of the image side: x to the right, y downwards, (0, 0) the upper left corner.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

RGB = tuple[int, int, int]
Box = tuple[float, float, float, float]

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross", "ring", "diamond")
TEXTURES: tuple[str, ...] = ("solid", "striped", "checkered")
SIZES: tuple[str, ...] = ("small", "large")
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
OPPOSITE: dict[str, str] = {
    "left of": "right of", "right of": "left of", "above": "below", "below": "above",
}  # fmt: skip
MAX_OBJECTS = 4

COLOR_RGB: dict[str, RGB] = {
    "red": (218, 32, 40),
    "orange": (250, 132, 16),
    "yellow": (252, 222, 40),
    "green": (38, 156, 62),
    "blue": (36, 76, 214),
    "purple": (132, 44, 168),
    "white": (252, 252, 252),
    "black": (22, 22, 26),
}
COLORS: tuple[str, ...] = tuple(COLOR_RGB)

# Second tone of striped and checkered objects: darker for the bright colours, lighter for the dark ones,
# each nearer to its own colour than to any other colour or background.
TONE_RGB: dict[str, RGB] = {
    "red": (140, 14, 24),
    "orange": (190, 92, 6),
    "yellow": (212, 184, 20),
    "green": (112, 204, 116),
    "blue": (98, 136, 246),
    "purple": (178, 100, 214),
    "white": (206, 212, 222),
    "black": (74, 70, 74),
}

BACKGROUND_RGB: dict[str, RGB] = {
    "grey": (146, 148, 152),
    "beige": (216, 200, 170),
    "cyan": (158, 210, 222),
}
BACKGROUNDS: tuple[str, ...] = tuple(BACKGROUND_RGB)

# Centres lie on a grid of eighths of the side (4 px at 32 px), and each size has one radius: a small object
# is about 8 px wide at 32 px, a large one about 12.
GRID = 8
RADIUS: dict[str, float] = {"small": 0.125, "large": 0.1875}

# Every scene belongs to one of these parts, by its hash. The last is for evaluation alone, and a shard of the
# crawl draws from one of the others: on a grid, scenes of one object would often be drawn again.
PARTS = 9
TRAINING_PARTS: tuple[int, ...] = tuple(range(PARTS - 1))
EVALUATION_PARTS: tuple[int, ...] = (PARTS - 1,)

# (color, shape) never in training data: one for each of five colours and five shapes, so that every
# colour and every shape is still seen often. Evaluation reports seen and unseen apart.
HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {("red", "cross"), ("yellow", "square"), ("green", "diamond"), ("blue", "ring"), ("purple", "circle")}
)

# Half-widths and the vertical span of each shape, as multiples of its radius: (half width, top, bottom).
# Chosen so that all shapes look about equally large.
EXTENT: dict[str, tuple[float, float, float]] = {
    "circle": (1.0, -1.0, 1.0),
    "square": (0.9, -0.9, 0.9),
    "triangle": (1.1, -0.95, 0.95),
    "cross": (1.0, -1.0, 1.0),
    "ring": (1.05, -1.05, 1.05),
    "diamond": (1.15, -1.15, 1.15),
}


@dataclass(frozen=True, slots=True)
class Object:
    """One coloured shape. `x`, `y` are the centre of its box, `radius` its nominal radius, in image sides."""

    shape: str
    color: str
    texture: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def kind(self) -> tuple[str, str]:
        """(color, shape): what makes two objects "the same" for counting and for the held-out set."""
        return self.color, self.shape

    @property
    def box(self) -> Box:
        """Tight box (x1, y1, x2, y2) in image sides."""
        half, top, bottom = EXTENT[self.shape]
        r = self.radius
        return self.x - half * r, self.y + top * r, self.x + half * r, self.y + bottom * r


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and one to four objects that do not overlap."""

    background: str
    objects: tuple[Object, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; `scene_from_dict` is the inverse."""
        return {"background": self.background, "objects": [asdict(item) for item in self.objects]}


def check_name(key: str, value: Any, allowed: Iterable[str]) -> str:
    """`value` if it is one of `allowed`, else a ValueError naming key, value and what is allowed."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{key}: got {value!r}, allowed are {', '.join(allowed)}")
    return str(value)


def scene_from_dict(data: Mapping[str, Any]) -> Scene:
    """Inverse of `Scene.to_dict`. ValueError for an unknown shape, colour, texture, size or background."""
    objects = tuple(
        Object(
            shape=check_name("shape", item.get("shape"), SHAPES),
            color=check_name("color", item.get("color"), COLORS),
            texture=check_name("texture", item.get("texture"), TEXTURES),
            size=check_name("size", item.get("size"), SIZES),
            x=float(item["x"]),
            y=float(item["y"]),
            radius=float(item["radius"]),
        )
        for item in data["objects"]
    )
    return Scene(check_name("background", data.get("background"), BACKGROUNDS), objects)


def content(scene: Scene) -> str:
    """The same for scenes that look the same: the order of objects does not count."""
    return repr((scene.background, sorted(map(repr, scene.objects))))


def part(scene: Scene) -> int:
    """The part of `range(PARTS)` that the scene belongs to."""
    return zlib.crc32(content(scene).encode()) % PARTS


def is_held_out(scene: Scene) -> bool:
    """Whether the scene shows a (color, shape) combination that training data never has."""
    return any(item.kind in HELD_OUT for item in scene.objects)


def relations(box_a: Box, box_b: Box) -> frozenset[str]:
    """Where `a` lies as seen from `b`, by GenEval's rule; empty, one, or two relations on a diagonal.

    The offset of the centres is reduced by a tenth of the boxes' summed sides, divided by the length of
    the unreduced offset; a relation holds where a component exceeds one half.
    """
    dx = (box_a[0] + box_a[2] - box_b[0] - box_b[2]) / 2
    dy = (box_a[1] + box_a[3] - box_b[1] - box_b[3]) / 2
    norm = (dx * dx + dy * dy) ** 0.5
    if norm == 0:
        return frozenset()
    width = box_a[2] - box_a[0] + box_b[2] - box_b[0]
    height = box_a[3] - box_a[1] + box_b[3] - box_b[1]
    across = max(abs(dx) - 0.1 * width, 0.0) / norm
    along = max(abs(dy) - 0.1 * height, 0.0) / norm
    found = set()
    if across > 0.5:
        found.add("left of" if dx < 0 else "right of")
    if along > 0.5:
        found.add("above" if dy < 0 else "below")
    return frozenset(found)


def group_relations(group_a: Iterable[Object], group_b: Iterable[Object]) -> frozenset[str]:
    """Relations that hold between every object of `a` and every object of `b`, as GenEval asks of groups."""
    targets = tuple(group_b)
    found = frozenset(RELATIONS)
    for a in group_a:
        for b in targets:
            found &= relations(a.box, b.box)
    return found


def place(item: Object) -> str:
    """The cell of a 3x3 grid that holds the object's centre: "upper left", "top", ..., "center", ..."""
    column = min(2, max(0, int(item.x * 3)))
    row = min(2, max(0, int(item.y * 3)))
    return PLACES[row * 3 + column]


def place_box(name: str) -> Box:
    """The cell of the 3x3 grid that `place` calls by this name."""
    row, column = divmod(PLACES.index(name), 3)
    return column / 3, row / 3, (column + 1) / 3, (row + 1) / 3


PLACES: tuple[str, ...] = (
    "upper left", "top", "upper right",
    "left", "center", "right",
    "lower left", "bottom", "lower right",
)  # fmt: skip
