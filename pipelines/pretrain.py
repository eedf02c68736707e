"""Stage `pretrain`: multimodal next-token training (paper section 4), on Ray Train."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddt.manifest import Commit, fingerprint, unit_id
from ddt.sections.language_model import PretrainParams
from pipelines.engine.language_checks import check_language_model
from pipelines.engine.language_model import LanguageModelJob, token_shards
from pipelines.engine.runner import StageContext, StageResult
from pipelines.engine.training import run_training
from pipelines.engine.units import Output, UnitWorker, run_units
from pipelines.services.models import model_key

if TYPE_CHECKING:
    from ddt.data.tokens import ShardFacts, TokenDataset

MODULES = (
    "ddt.mllm",
    "ddt.train",
    "ddt.data.tokens",
    "ddt.clean",
    "ddt.data.text",
    "ddt.data.order",
    "pipelines.pretrain",
    "pipelines.engine.language_model",
)
SCENES = "scenes"
SCENE_TEXTS = 1_000_000
MAX_CLASSES = 1 << 15  # ImageNet-21k has 21,841


def models(section: PretrainParams) -> dict[str, str]:
    """Digests of the checkpoints it starts from and of the text it reads beside the pairs."""
    from ddt.data.refs import model_digest
    from ddt.store import remembered_digest

    found = {"text_tokenizer": model_digest(section.text_tokenizer)}
    found |= {"init": model_digest(section.init)} if section.init else {}
    files = text_files(section)
    folder = Path(os.path.commonpath([path.parent for path in files])) if files else Path()
    texts = {path.relative_to(folder).as_posix(): remembered_digest(path) for path in files}
    return found | {f"text_source/{name}": digest for name, digest in texts.items()}


class PretrainJob(LanguageModelJob):
    """Runs in every training worker."""

    def run(  # type: ignore[override]
        self,
        params: PretrainParams,
        tokenizer: str,
        shards: list[ShardFacts],
        held_out: list[ShardFacts],
        texts: list[str],
    ) -> None:
        from ddt.baselines.kinds import load_image_tokenizer
        from ddt.data.refs import resolve
        from ddt.data.tokens import TokenDataset
        from ddt.mllm.batches import PretrainBatches, PretrainMix
        from ddt.mllm.build import load_tokenizer
        from ddt.mllm.folder import check_checkpoint
        from ddt.mllm.held_out import held_out_metrics
        from ddt.mllm.lora import merge_lora
        from ddt.mllm.model import DDTLlama
        from ddt.mllm.sequences import SequenceBuilder
        from ddt.mllm.vocabulary import extend_tokenizer

        images = load_image_tokenizer(self.store.fetch_tree(tokenizer))
        pairs, unseen = (
            TokenDataset(facts, self.store.fetch, images.digest, images.config.codebook_size)
            if facts
            else None
            for facts in (shards, held_out)
        )
        assert pairs is not None  # `select` keeps at least one pair
        text = load_tokenizer(resolve(params.text_tokenizer))
        classes = class_names(pairs) if params.class_conditional else []
        vocabulary = extend_tokenizer(text, images.config.codebook_size, len(classes))
        text_source = open_texts(params, [self.store.fetch(key) for key in texts])
        if params.model is not None:
            model, loss = self.from_scratch(
                params.model, vocabulary, images.quantizer.codebook_Kd, params.z_loss, params.fit
            )
        else:
            init = resolve(str(params.init), self.store)
            check_checkpoint(init, vocabulary, images.digest)
            model, loss = self.from_checkpoint(
                init, vocabulary, params.z_loss, params.lora, params.fit, params.new_rows
            )
        config = images.config
        builder = SequenceBuilder(text, vocabulary, config.num_tokens, config.token_order, classes)
        mix = PretrainMix(
            params.long_caption_rate, params.caption_drop_rate, params.text_rate, params.image_first_rate
        )
        batches = PretrainBatches(
            pairs, text_source, builder, mix, params.fit.global_batch, params.row_length, params.fit.seed
        )
        result = self.fit(model, loss, batches, params.fit)
        if result.ema is not None:
            result.ema.copy_to(model)
        if params.lora is not None:
            merge_lora(model)
        measured = {}
        if unseen is not None:
            bf16 = params.fit.bf16
            measured = held_out_metrics(model, loss, unseen, builder, params.row_length, bf16)
        made_from = {"pretrain": self.fingerprint, "image_tokenizer": images.digest}
        whole = DDTLlama(model, text, images, made_from=made_from, classes=classes)
        self.publish(whole.save_pretrained, params.fit.steps, measured)


def class_names(pairs: TokenDataset) -> list[str]:
    """The classes of a labelled image set, which are its native captions; ValueError where those are none."""
    names = pairs.distinct("short")
    if not names or len(names) > MAX_CLASSES:
        raise ValueError(
            f"pretrain.class_conditional: {len(names)} different native captions, "
            f"expected 1 to {MAX_CLASSES} names of classes; is ingest.caption_column the column of labels?"
        )
    return names


def open_texts(params: PretrainParams, indexes: list[Path]) -> Any:
    """The text-only data: the scenes' paragraphs, JSON lines by their files' indexes, or none."""
    from ddt.data.text import DrawnText, JsonLines

    if params.text_source is None:
        return None
    if params.text_source == SCENES:
        from ddt.scenes.text import paragraph

        return DrawnText(paragraph, SCENE_TEXTS, params.fit.seed)
    return JsonLines(text_files(params), [np.load(path, mmap_mode="r") for path in indexes])


def text_files(params: PretrainParams) -> list[Path]:
    """The JSON-lines files of `text_source`, none for scenes; ValueError where there is nothing to read."""
    if params.text_source in (None, SCENES):
        return []
    from ddt.data.readers.files import find_files

    source = Path(str(params.text_source))
    return [source] if source.is_file() else find_files(str(source), "pretrain.text_source", (".jsonl",))


class IndexWorker(UnitWorker):
    """Finds the lines of a file that hold a text, once for all workers of a training and for later ones."""

    def process(self, unit: dict[str, Any], folder: Path) -> Output:
        from ddt.data.text import line_offsets

        offsets, told = line_offsets(Path(unit["path"]))
        path = folder / "lines.npy"
        np.save(path, offsets)
        return Output(path, len(offsets), stats={"told": told})


def index_texts(ctx: StageContext) -> list[Commit]:
    """Indexes of the files of `text_source`, in their order; none for scenes."""
    from ddt.store import remembered_digest

    found = fingerprint({}, {}, ("ddt.data.text", "ddt.clean"))
    units = [
        {"unit": unit_id(remembered_digest(path), found), "path": str(path.absolute()), "name": path.name}
        for path in text_files(ctx.section)
    ]
    cores = replace(ctx.params, resources=replace(ctx.params.resources, gpus_per_actor=0.0))
    ctx = replace(ctx, name=f"{ctx.name}/texts", fingerprint=found, params=cores)
    made = run_units(ctx, IndexWorker, units)
    by_unit = {commit.unit: commit for commit in made}
    return [by_unit[str(unit["unit"])] for unit in units]


def run(ctx: StageContext) -> StageResult:
    """Train on the token shards of the selected pairs; writes a whole DDT-LLaMA folder."""
    check_language_model(ctx.params)
    tokens = ctx.inputs["tokenize_images"]
    indexed = index_texts(ctx)
    commit, report = run_training(
        ctx,
        PretrainJob,
        params=ctx.section,
        tokenizer=model_key(ctx.inputs["train_tokenizer"]),
        shards=token_shards(tokens, "pairs"),
        held_out=token_shards(tokens, "holdout"),
        texts=[c.key for c in indexed],
    )
    report.notes += [c.stats["told"] for c in indexed if c.stats["told"]]
    report.notes.append(held_out_note(commit.stats))
    return StageResult([commit], report)


def held_out_note(measured: dict[str, Any]) -> str:
    """In words: what the model knows of pictures that it has not seen, and how much its captions tell it."""
    if "held_out/visual_ce" not in measured:
        return "No held-out pictures with captions (ingest.holdout): not measured on any."
    own, other = measured["held_out/visual_ce"], measured["held_out/visual_ce_shuffled"]
    entropy = measured["held_out/unigram_entropy"]
    return (
        f"Held-out pictures: {own:.3f} nats a code with their own captions, {other:.3f} with others'; "
        f"unigram entropy of the codes {entropy:.3f} ({1 - own / entropy:.0%} below it)."
    )
