"""Parts of Diffusers pipelines, from a folder or the hub; diffusers is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddt.weights import check_safetensors, why_not_loaded

NAMED = 3  # weights that don't fit, of possibly hundreds


def load_part(key: str, name: str, kind: str, subfolder: str) -> Any:
    """The `kind` model (a Diffusers class) saved at `name`, or in `subfolder` of the pipeline saved there.

    Frozen, in eval mode, float32. Raises ValueError naming `key` where there is none, it is of another class,
    weights are missing or of another shape, or diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError:
        raise ValueError(f"{key} = {name!r}: needs diffusers: pip install 'ddt-llama[diffusers]'") from None
    wanted, place = getattr(diffusers, kind), f"{key} = {name!r}"
    config, options = _find_config(wanted, place, name, subfolder)
    if config.get("_class_name") != kind:
        raise ValueError(f"{place}: holds {config.get('_class_name')}, expected {kind}")
    check_safetensors(place, Path(name) / options.get("subfolder", ""))
    logging = diffusers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would list all weights that don't fit
    try:
        loaded, info = wanted.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False,
            ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{place}: cannot be loaded as {kind} ({why_not_loaded(error)})") from None
    finally:
        logging.set_verbosity(verbosity)
    faults = list(_faults(info))
    if faults:
        told = "; ".join(faults[:NAMED]) + (f"; {len(faults)} in all" if len(faults) > NAMED else "")
        raise ValueError(f"{place}: its weights do not fit its config: {told}")
    return loaded.float().eval().requires_grad_(False)


def _find_config(
    wanted: Any, place: str, name: str, subfolder: str
) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The config at `name` or in the subfolder, and the options that lead to it."""
    reasons = []
    for options in ({}, {"subfolder": subfolder}):
        try:
            return wanted.load_config(name, **options), options
        except OSError as error:
            reasons.append(why_not_loaded(error))
    raise ValueError(f"{place}: cannot be loaded as {wanted.__name__} ({reasons[0]})")


def _faults(info: Mapping[str, Any]) -> Iterator[str]:
    for weight in sorted(info["missing_keys"]):
        yield f"{weight} is missing"
    for weight, stored, expected in sorted(info["mismatched_keys"]):
        yield f"{weight} has shape {list(stored)}, expected {list(expected)}"
    yield from info["error_msgs"]
