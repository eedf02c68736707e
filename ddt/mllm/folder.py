"""A saved DDT-LLaMA: a Hugging Face folder with ddt.json, image_tokenizer/ and `_COMPLETE`, written last.

What ddt.json says is read and checked here; `ddt.mllm.model` writes the folder and loads what is in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddt.mllm.build import load_config, load_tokenizer
from ddt.mllm.vocabulary import Vocabulary, check_rows, extend_tokenizer

SETTINGS, MARKER, IMAGE_TOKENIZER = "ddt.json", "_COMPLETE", "image_tokenizer"
FORMAT_VERSION = 2


def folder_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a model folder, from its tokenizer and settings alone."""
    settings = read_settings(folder)
    return extend_tokenizer(
        load_tokenizer(folder), settings["codebook_size"], len(settings.get("classes", ()))
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """The checked ddt.json of a model folder; ValueError where it is missing, incomplete or unreadable."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected a saved DDT-LLaMA model")
    if not (folder / MARKER).exists():
        raise ValueError(f"{folder}: has no {MARKER} marker, so it was not written to its end")
    try:
        settings = json.loads((folder / SETTINGS).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / SETTINGS}: cannot be read ({error})") from None
    found = settings.get("format_version") if isinstance(settings, dict) else None
    if found != FORMAT_VERSION:
        raise ValueError(f"{folder / SETTINGS}: format_version = {found!r}, expected {FORMAT_VERSION}")
    missing = sorted({"tokenizer_digest", "sampling", "made_from", "codebook_size"} - settings.keys())
    if missing:
        raise ValueError(
            f"{folder / SETTINGS}: lacks {', '.join(missing)}; expected what save_pretrained writes"
        )
    return settings


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes ddt.json in the present format."""
    text = json.dumps({"format_version": FORMAT_VERSION, **settings}, indent=2)
    (folder / SETTINGS).write_text(text + "\n")


def check_checkpoint(path: str | Path, vocabulary: Vocabulary, tokenizer_digest: str) -> None:
    """ValueError where training can't start from a checkpoint; only its config and settings are read.

    That is another model class, too few embedding rows, or a model that knows the codes of another tokenizer.
    """
    rows = load_config(path).vocab_size
    settings = read_settings(Path(path)) if (Path(path) / SETTINGS).is_file() else None
    if settings is None:
        check_rows(rows, vocabulary)
    elif settings["tokenizer_digest"] != tokenizer_digest:
        raise ValueError(
            f"{path}: knows the codes of tokenizer {settings['tokenizer_digest'][:16]}, "
            f"the data those of {tokenizer_digest[:16]}"
        )
    elif rows != vocabulary.size:
        raise ValueError(f"{path}: has {rows} embedding rows, its tokenizers need {vocabulary.size}")
