"""Stage `finetune`: instruction tuning for drawing, editing, captioning and answering (paper section 4)."""

from __future__ import annotations

from ddt.params import FinetuneParams
from pipelines.language_model import LanguageModelJob
from pipelines.models import model_key
from pipelines.pretrain import token_shards
from pipelines.runner import StageContext, StageResult
from pipelines.training import run_training

MODULES = (
    "ddt.mllm",
    "ddt.train",
    "ddt.data.tokens",
    "ddt.data.order",
    "pipelines.finetune",
    "pipelines.language_model",
)
INSTRUCT_TASKS = ("edit", "vqa")


class FinetuneJob(LanguageModelJob):
    """Runs in every training worker."""

    def run(  # type: ignore[override]
        self, params: FinetuneParams, model: str, pairs: list[str], instructions: list[str]
    ) -> None:
        from ddt.data.tokens import TokenDataset
        from ddt.mllm.batches import FinetuneBatches, FinetuneMix
        from ddt.mllm.model import DDTLlama, folder_vocabulary

        folder = self.store.fetch_tree(model)
        trained, loss = self.from_checkpoint(folder, folder_vocabulary(folder), params.z_loss, params.fit)
        whole = DDTLlama.from_pretrained(folder, model=trained)
        digest = whole.image_tokenizer.digest
        images = TokenDataset([self.store.fetch(key) for key in pairs], digest)
        instruct = (
            TokenDataset([self.store.fetch(key) for key in instructions], digest) if instructions else None
        )
        mix = FinetuneMix(
            usable_mix(params.mix, bool(instructions)), params.caption_drop_rate, params.long_caption_rate
        )
        batches = FinetuneBatches(
            images, instruct, whole.builder, mix, params.fit.global_batch, params.row_length, params.fit.seed
        )
        result = self.fit(whole.model, loss, batches, params.fit)
        if result.ema is not None:
            result.ema.copy_to(whole.model)
        whole.sampling = params.sampling
        whole.made_from = {**whole.made_from, "finetune": self.fingerprint}
        self.publish(whole.save_pretrained, params.fit.steps)


def usable_mix(mix: dict[str, float], has_instructions: bool) -> dict[str, float]:
    """The mix without the tasks that need instruction data, where the source has none."""
    if has_instructions:
        return mix
    return {task: weight for task, weight in mix.items() if task not in INSTRUCT_TASKS}


def run(ctx: StageContext) -> StageResult:
    """Tune the pre-trained model; tasks without data are left out and the report says so."""
    tokens = ctx.inputs["tokenize_images"]
    instructions = token_shards(tokens, "instruct")
    commit, report = run_training(
        ctx,
        FinetuneJob,
        params=ctx.section,
        model=model_key(ctx.inputs["pretrain"]),
        pairs=token_shards(tokens, "pairs"),
        instructions=instructions,
    )
    if not instructions:
        report.notes.append(f"No instruction data in the source: {', '.join(INSTRUCT_TASKS)} were left out.")
    return StageResult([commit], report)
