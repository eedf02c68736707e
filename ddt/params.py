"""The parameters of a run: one frozen class for each section of params.yaml.

`load_params` reads params.yaml, lays a profile over it, then single overrides (`section.key=value`), and
checks everything before anything runs. `paths`, `resources`, `tracking` and `notify` say where, how fast and
who is told; they are not part of any stage's identity. All others are named after the stage they steer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ddt.config import ConfigError, build, merge, to_dict
from ddt.sections.curation import IngestParams, RecaptionParams, ScoreParams, SelectParams
from ddt.sections.language_model import FinetuneParams, PretrainParams
from ddt.sections.quality import EvaluateParams, PromoteParams
from ddt.sections.run import Notify, Paths, Resources, Tracking
from ddt.sections.tokenizer import TokenizeImagesParams, TrainTokenizerParams
from ddt.tokenizer.config import presets
from ddt.yaml_file import parse_yaml, read_yaml

PROFILES_DIR = "profiles"


@dataclass(frozen=True)
class Params:
    """A whole run; one attribute a section of params.yaml."""

    paths: Paths
    resources: Resources
    tracking: Tracking
    notify: Notify
    ingest: IngestParams
    recaption: RecaptionParams
    score: ScoreParams
    select: SelectParams
    train_tokenizer: TrainTokenizerParams
    tokenize_images: TokenizeImagesParams
    pretrain: PretrainParams
    finetune: FinetuneParams
    evaluate: EvaluateParams
    promote: PromoteParams

    def __post_init__(self) -> None:
        """What is on S3 brings MLflow's artifacts along."""
        if self.tracking.artifacts is None and self.paths.store.startswith("s3://"):
            artifacts = f"{self.paths.store.rstrip('/')}/mlartifacts"
            object.__setattr__(self, "tracking", replace(self.tracking, artifacts=artifacts))


def load_params(
    path: str | Path = "params.yaml", profile: str | None = None, overrides: Iterable[str] = ()
) -> Params:
    """Parameters of a run from `path`, overlaid by a profile and by `section.key=value` overrides.

    `profile` is a name under profiles/ beside `path`, or a YAML file. Raises ConfigError naming the key or
    file at fault and what was expected.
    """
    return build(Params, load_mapping(path, profile, overrides))


def load_mapping(
    path: str | Path, profile: str | None = None, overrides: Iterable[str] = ()
) -> dict[str, Any]:
    """The merged mapping behind `load_params`, unchecked."""
    return overlay(read_yaml(Path(path)), profile, overrides, Path(path).parent)


def overlay(
    values: Mapping[str, Any], profile: str | None, overrides: Iterable[str], folder: Path
) -> dict[str, Any]:
    """`values` under a profile (looked up in `folder`/profiles) and single overrides, unchecked."""
    merged = _lay_over({}, values)
    if profile:
        merged = _lay_over(merged, read_yaml(_profile_path(folder, profile)))
    for override in overrides:
        merged = _lay_over(merged, _parse_override(override))
    return merged


def _lay_over(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """`layer` over `base`. A tokenizer's model that names a `preset` starts from it, not from `base`'s."""
    section = layer.get("train_tokenizer")
    model = section.get("model") if isinstance(section, Mapping) else None
    if section is None or not isinstance(model, Mapping) or "preset" not in model:
        return merge(base, layer)
    name, known = model["preset"], presets()
    if name not in known:
        raise ConfigError(f"train_tokenizer.model.preset = {name!r}: expected one of {', '.join(known)}")
    own = {key: value for key, value in model.items() if key != "preset"}
    return merge(base, {**layer, "train_tokenizer": {**section, "model": {**to_dict(known[name]), **own}}})


def _profile_path(folder: Path, profile: str) -> Path:
    if profile.endswith((".yaml", ".yml")):
        return Path(profile)
    found = folder / PROFILES_DIR / f"{profile}.yaml"
    if not found.is_file():
        names = sorted(p.stem for p in found.parent.glob("*.yaml"))
        raise ConfigError(f"profile {profile!r} not found; there are: {', '.join(names) or 'none'}")
    return found


def _parse_override(override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"override {override!r}: expected section.key=value")
    try:
        value = parse_yaml(text, f"override {override!r}")
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from None
    for part in reversed(name.strip().split(".")):
        value = {part: value}
    return value
