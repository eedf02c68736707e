"""Parts of Diffusers pipelines, from a folder or the hub; diffusers is imported when one is asked for."""

from __future__ import annotations

from typing import Any


def load_part(key: str, name: str, kind: str, subfolder: str) -> Any:
    """The `kind` model (a Diffusers class) saved at `name`, or in `subfolder` of the pipeline saved there.

    Frozen, in eval mode. Raises ValueError naming `key` where there is none or diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError:
        raise ValueError(f"{key} = {name!r}: needs the diffusers package, which is not installed") from None
    reasons = []
    for options in ({}, {"subfolder": subfolder}):
        try:
            loaded = getattr(diffusers, kind).from_pretrained(name, use_safetensors=True, **options)
            return loaded.eval().requires_grad_(False)
        except OSError as error:
            reasons.append(str(error).splitlines()[0])
    raise ValueError(f"{key} = {name!r}: cannot be loaded as {kind} ({reasons[0]})")
