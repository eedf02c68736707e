"""What the file of a drawn picture says of its origin, as a text chunk that `ddt trace` reads back.

JSON: the digest of the model's folder, the digests that this names, its version in the registry where it came
from there, what was asked, seeds and sampling. No path, and nothing of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddt.clean import parse_json
from ddt.config import to_dict
from ddt.data.decode import read_png_text, read_size
from ddt.manifest import canonical_json
from ddt.store import marked_digest
from pipelines.services.models import Found

if TYPE_CHECKING:
    from ddt.mllm.config import VisualSampling

NAME = "ddt"  # of the chunk
DIGEST = re.compile(r"[0-9a-f]{64}")


def of_picture(
    found: Found,
    made_from: Mapping[str, str],
    asked: Mapping[str, Any],
    sampling: VisualSampling,
    cfg_scale: float | None,
) -> str:
    """The text for a picture that the model `found` drew as `asked`; `cfg_scale` None: that of `sampling`."""
    version = found.version
    drawn = to_dict(sampling) | ({} if cfg_scale is None else {"cfg_scale": cfg_scale})
    said = {
        "model": marked_digest(found.folder),
        "made_from": _digests(made_from),
        "reference": f"models:/{version.name}/{version.number}" if version else None,
        "sampling": drawn,
    }
    return canonical_json({**said, **asked})


def read_origin(path: Path) -> dict[str, Any]:
    """What a picture's file says; ValueError where it is no picture, says nothing, or something else."""
    read_size(path)  # names what is no picture
    text = read_png_text(path, NAME)
    if text is None:
        raise ValueError(
            f"{path}: says nothing of its origin; expected a PNG as `ddt generate` or `ddt edit` wrote it"
        )
    try:
        said = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: its text `{NAME}` is {error}") from None
    digest = said.get("model") if isinstance(said, dict) else None
    if not (isinstance(digest, str) and DIGEST.fullmatch(digest)):
        raise ValueError(f"{path}: its text `{NAME}` names no model by its digest")
    return said | {"made_from": _digests(said.get("made_from"))}


def _digests(made_from: Any) -> dict[str, str]:
    """Those of its values that are digests: who saves a model may write there what he likes."""
    given = made_from.items() if isinstance(made_from, Mapping) else ()
    return {name: value for name, value in given if isinstance(value, str) and DIGEST.fullmatch(value)}
