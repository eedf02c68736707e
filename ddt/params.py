"""The parameters of a run: one frozen class for each section of params.yaml.

`load_params` reads params.yaml, lays a profile over it, then single overrides (`section.key=value`), and
checks everything before anything runs. `paths`, `resources` and `tracking` say where and how fast; they are
not part of any stage's identity. All other sections are named after the stage they steer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from ddt.baselines.config import SpatialConfig, SpatialSizes
from ddt.config import ConfigError, Range, build, merge
from ddt.mllm.config import TASKS, LanguageModelConfig, LoraConfig, NewRowsKind, SamplingConfig, check_init
from ddt.tokenizer.config import DDTConfig
from ddt.train.config import FitConfig

PROFILES_DIR = "profiles"
Fraction = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]


@dataclass(frozen=True)
class Paths:
    """Where things are kept. `store` may be s3://bucket/prefix; `workspace` holds manifests and reports."""

    store: str
    workspace: str


@dataclass(frozen=True)
class Resources:
    """What the run may use. `cpus` null: every core there is.

    The language model's layers are split over `tensor_parallel` workers each, and its weights with their
    gradients and moments are spread over all where `shard_weights`. `checkpoint_activations` computes a
    layer's inside again in the backward pass. None of the three changes what is computed.

    Where a worker was lost and no place is left for another, training goes on with as few as
    `min_train_workers`; null: it waits for a place.
    """

    cpus: Count | None
    object_store_mb: Annotated[int, Range(80)]
    cpus_per_actor: Annotated[float, Range(0.1)]
    gpus_per_actor: Annotated[float, Range(0)]
    train_workers: Count
    min_train_workers: Count | None
    train_cpus_per_worker: Count | None
    tokenizer_cpus_per_worker: Count | None
    gpus_per_worker: Annotated[float, Range(0)]
    max_failures: Annotated[int, Range(-1)]
    tensor_parallel: Count
    shard_weights: bool
    checkpoint_activations: bool

    def __post_init__(self) -> None:
        if self.train_workers % self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel = {self.tensor_parallel}: expected a divisor of "
                f"train_workers = {self.train_workers}"
            )
        least = self.min_train_workers
        if least is not None and least > self.train_workers:
            raise ValueError(
                f"min_train_workers = {least}: expected at most train_workers = {self.train_workers}"
            )
        if least is not None and least % self.tensor_parallel:
            raise ValueError(
                f"min_train_workers = {least}: expected a multiple of "
                f"tensor_parallel = {self.tensor_parallel}, whose workers share each layer"
            )

    def of_stage(self, stage: str) -> Resources:
        """What a training stage may use. The tokenizer's has cores of its own: curation runs beside it."""
        cpus = self.tokenizer_cpus_per_worker
        if stage != "train_tokenizer" or cpus is None:
            return self
        return dataclasses.replace(self, train_cpus_per_worker=cpus)


@dataclass(frozen=True)
class Tracking:
    """The MLflow server or database and the experiment's name."""

    uri: str
    experiment: str
    tokenizer_name: str
    model_name: str


@dataclass(frozen=True)
class SceneSource:
    """The raw crawl drawn when `ingest.source` is `scenes`, and the faults planted in it."""

    shards: Count
    rows_per_shard: Count
    instruct_rows_per_shard: Natural
    image_side_px: Annotated[int, Range(16, 512)]
    seed: int
    faults: dict[str, Fraction]


@dataclass(frozen=True)
class IngestParams:
    """Sources to checked records. `source` is `scenes`, or a folder, file or glob of tars or Parquet.

    `conversations` (JSON or JSON lines, their pictures below `conversation_images`) and `edits` (Parquet)
    are data for instruction tuning beside it.
    """

    source: str
    holdout: str | None
    conversations: str | None
    conversation_images: str | None
    edits: str | None
    caption_column: str | None
    image_column: str | None
    min_side_px: Count
    max_pixels: Count
    max_reject_rate: Fraction
    scenes: SceneSource


@dataclass(frozen=True)
class RecaptionParams:
    """The captioner: a LLaVA-class checkpoint (ShareGPT-4V in the paper)."""

    model: str
    prompt: str
    max_new_tokens: Count
    batch_size: Count


@dataclass(frozen=True)
class ScoreParams:
    """The CLIP model that scores native and generated captions."""

    model: str
    batch_size: Count


@dataclass(frozen=True)
class SelectParams:
    """Which pairs are kept: filters first, then exactly `keep` pairs with the highest score."""

    keep: Count
    rank_by: Literal["native", "generated", "mean"]
    min_native_score: Annotated[float, Range(-1, 1)]
    min_generated_score: Annotated[float, Range(-1, 1)]
    min_caption_words: Natural
    drop_near_duplicates: bool
    seed: int
    gate_min_mean_score: Annotated[float, Range(-1, 1)]
    gate_max_long_caption_words: Count


@dataclass(frozen=True)
class TrainTokenizerParams:
    """The DDT tokenizer and its training. `init`: SD3 weights for the decoder's image stream, or null.

    `spatial`: sizes of the baseline to train in its place, with the tokens, codes and quantizer of `model`.
    """

    init: str | None
    spatial: SpatialSizes | None
    model: DDTConfig
    fit: FitConfig

    def __post_init__(self) -> None:
        if self.spatial is not None and self.init is not None:
            raise ValueError(f"init = {self.init!r}: expected null with spatial, which has nothing of SD3's")
        _ = self.image_tokenizer  # the baseline's own checks

    @property
    def image_tokenizer(self) -> DDTConfig | SpatialConfig:
        """The configuration of what is trained."""
        return self.model if self.spatial is None else SpatialConfig.like(self.model, self.spatial)


@dataclass(frozen=True)
class TokenizeImagesParams:
    """Bulk tokenization and its gate."""

    batch_size: Count
    gate_min_usage: Fraction


@dataclass(frozen=True)
class PretrainParams:
    """Multimodal next-token training. `init`: a Hugging Face folder, or null for `model` from scratch.

    The rows that `init` lacks begin at the mean of its text rows, or `new_rows` draws them around it.
    `z_loss` weighs the square of each token's log-sum-exp, which keeps logits from drifting (0: off).
    `class_conditional` takes the native captions for names of classes and gives each a token of its own.
    `lora` freezes the checkpoint's weights and trains adapters beside them, and the new rows whole.
    """

    init: str | None
    new_rows: NewRowsKind
    text_tokenizer: str
    model: LanguageModelConfig | None
    row_length: Count
    long_caption_rate: Fraction
    caption_drop_rate: Fraction
    text_rate: Fraction
    text_source: str | None
    class_conditional: bool
    z_loss: Annotated[float, Range(0)]
    lora: LoraConfig | None
    fit: FitConfig

    def __post_init__(self) -> None:
        check_init(self.init, self.model)
        if self.lora is not None and self.init is None:
            raise ValueError("lora: adapts a checkpoint; expected one in init")
        if self.model is not None and self.row_length > self.model.max_length:
            raise ValueError(
                f"row_length = {self.row_length}: expected at most model.max_length = {self.model.max_length}"
            )


@dataclass(frozen=True)
class FinetuneParams:
    """Instruction tuning; `mix` weighs the tasks text_to_image, edit, caption, vqa, chat and class_to_image.

    `lora` is as in pre-training. `sampling` is how the finished model draws and answers; it is saved with it.
    """

    row_length: Count
    mix: dict[str, Annotated[float, Range(0)]]
    long_caption_rate: Fraction
    caption_drop_rate: Fraction
    z_loss: Annotated[float, Range(0)]
    lora: LoraConfig | None
    fit: FitConfig
    sampling: SamplingConfig

    def __post_init__(self) -> None:
        for task in self.mix:
            if task not in TASKS:
                raise ValueError(f"mix.{task}: unknown task; allowed here: {', '.join(TASKS)}")


# Known here, without what computes them, so that a wrong name is told before a run and not at its end.
BenchmarkName = Literal[
    "reconstruct", "geneval", "t2i", "vqa", "pope", "mme", "choice", "caption", "edit", "perplexity"
]


@dataclass(frozen=True)
class EvaluateParams:
    """Benchmarks and the cases of each; `questions` of those that only ask, which takes less time."""

    benchmarks: tuple[BenchmarkName, ...]
    cases: Count
    questions: Count
    seed: int
    batch_size: Count
    decode_steps: Count


@dataclass(frozen=True)
class PromoteParams:
    """A candidate becomes champion if every check holds for the worse bound of the metric's 95 % interval.

    That is the lower bound, which must reach `min_metric`, or, where lower is better, the upper one, which
    `max_metric` limits. `max_drop`: by how much it may be worse than the same bound of the champion.
    """

    min_metric: dict[str, float]
    max_metric: dict[str, float]
    max_drop: dict[str, Annotated[float, Range(0)]]


@dataclass(frozen=True)
class Params:
    """A whole run; one attribute a section of params.yaml."""

    paths: Paths
    resources: Resources
    tracking: Tracking
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
    return overlay(_read_yaml(Path(path)), profile, overrides, Path(path).parent)


def overlay(
    values: Mapping[str, Any], profile: str | None, overrides: Iterable[str], folder: Path
) -> dict[str, Any]:
    """`values` under a profile (looked up in `folder`/profiles) and single overrides, unchecked."""
    merged = dict(values)
    if profile:
        merged = merge(merged, _read_yaml(_profile_path(folder, profile)))
    for override in overrides:
        merged = merge(merged, _parse_override(override))
    return merged


def _profile_path(folder: Path, profile: str) -> Path:
    if profile.endswith((".yaml", ".yml")):
        return Path(profile)
    found = folder / PROFILES_DIR / f"{profile}.yaml"
    if not found.is_file():
        names = sorted(p.stem for p in found.parent.glob("*.yaml"))
        raise ConfigError(f"profile {profile!r} not found; there are: {', '.join(names) or 'none'}")
    return found


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


def _load_yaml(text: str, source: str) -> Any:
    """The content of `text`; `source` names it in errors."""
    loader = _Loader(text, source)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = _load_yaml(path.read_text(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected a mapping of sections")
    return dict(values)


def _parse_override(override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"override {override!r}: expected section.key=value")
    try:
        value = _load_yaml(text, f"override {override!r}")
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from None
    for part in reversed(name.strip().split(".")):
        value = {part: value}
    return value
