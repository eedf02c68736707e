"""Stage `finetune`: instruction tuning for drawing, editing, captioning and answering (paper section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ddt.sections.language_model import FinetuneParams
from pipelines.engine.language_checks import check_language_model
from pipelines.engine.language_model import LanguageModelJob, token_shards
from pipelines.engine.runner import StageContext, StageResult
from pipelines.engine.training import run_training
from pipelines.services.models import model_key

if TYPE_CHECKING:
    from ddt.data.tokens import ShardFacts

MODULES = (
    "ddt.mllm",
    "ddt.train",
    "ddt.data.tokens",
    "ddt.data.order",
    "pipelines.finetune",
    "pipelines.engine.language_model",
)


class FinetuneJob(LanguageModelJob):
    """Runs in every training worker."""

    def run(  # type: ignore[override]
        self,
        params: FinetuneParams,
        model: str,
        pairs: list[ShardFacts],
        edits: list[ShardFacts],
        chats: list[ShardFacts],
        mix: dict[str, float],
    ) -> None:
        from ddt.data.tokens import TokenDataset
        from ddt.mllm.batches import FinetuneBatches, FinetuneMix
        from ddt.mllm.folder import check_checkpoint, folder_vocabulary, read_settings
        from ddt.mllm.lora import merge_lora
        from ddt.mllm.model import DDTLlama

        folder = self.store.fetch_tree(model)
        vocabulary, digest = folder_vocabulary(folder), read_settings(folder)["tokenizer_digest"]
        check_checkpoint(folder, vocabulary, digest)
        found = [
            TokenDataset(facts, self.store.fetch, digest, vocabulary.codebook_size) if facts else None
            for facts in (pairs, edits, chats)
        ]
        assert found[0] is not None  # `select` keeps at least one pair
        trained, loss = self.from_checkpoint(folder, vocabulary, params.z_loss, params.lora, params.fit)
        whole = DDTLlama.from_pretrained(folder, model=trained)
        batches = FinetuneBatches(
            found[0],
            found[1],
            whole.builder,
            FinetuneMix(mix, params.caption_drop_rate, params.long_caption_rate),
            params.fit.global_batch,
            params.row_length,
            params.fit.seed,
            found[2],
        )
        result = self.fit(whole.model, loss, batches, params.fit)
        if result.ema is not None:
            result.ema.copy_to(whole.model)
        if params.lora is not None:
            merge_lora(whole.model)
        whole.sampling = params.sampling
        whole.made_from = {**whole.made_from, "finetune": self.fingerprint}
        self.publish(whole.save_pretrained, params.fit.steps)


def usable_mix(mix: dict[str, float], found: Mapping[str, bool]) -> tuple[dict[str, float], list[str]]:
    """`mix` without the tasks that have no data, and notes on what is not used.

    `found` says of each task that needs data of its own whether there are any. Raises ValueError where
    conversations or classes are asked for and there are none, or where no task is left: only edits and
    questions are in the mix that everyone starts from.
    """
    if mix.get("chat") and not found["chat"]:
        raise ValueError(
            f"finetune.mix.chat = {mix['chat']}: there are no conversations; set ingest.conversations"
        )
    if mix.get("class_to_image") and not found["class_to_image"]:
        raise ValueError(
            f"finetune.mix.class_to_image = {mix['class_to_image']}: the model has no classes; "
            "set pretrain.class_conditional"
        )
    left_out = [task for task in ("edit", "vqa") if mix.get(task) and not found[task]]
    usable = {task: weight for task, weight in mix.items() if task not in left_out}
    if not any(usable.values()):
        raise ValueError(f"finetune.mix = {mix}: there are no data for any of its tasks")
    notes = [f"No data in the source for {', '.join(left_out)}: left out of the mix."] if left_out else []
    if found["chat"] and not mix.get("chat"):
        notes.append("The conversations are not used: finetune.mix.chat is not set.")
    return usable, notes


def run(ctx: StageContext) -> StageResult:
    """Tune the pre-trained model; tasks without data are left out and the report says so."""
    check_language_model(ctx.params)
    tokens = ctx.inputs["tokenize_images"]
    edits, chats = token_shards(tokens, "edits"), token_shards(tokens, "chat")
    found = {
        "edit": bool(edits),
        "vqa": any(c.stats["asked"] for c in tokens.commits if c.stats["role"] == "pairs"),
        "chat": bool(chats),
        "class_to_image": ctx.params.pretrain.class_conditional,
    }
    mix, notes = usable_mix(ctx.section.mix, found)
    commit, report = run_training(
        ctx,
        FinetuneJob,
        params=ctx.section,
        model=model_key(ctx.inputs["pretrain"]),
        pairs=token_shards(tokens, "pairs"),
        edits=edits,
        chats=chats,
        mix=mix,
    )
    report.notes += notes
    return StageResult([commit], report)
