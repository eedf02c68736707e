"""Stage `train_tokenizer`: the DDT tokenizer (paper section 3) or its spatial baseline, on Ray Train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddt.manifest import Manifest
from ddt.sections.tokenizer import TrainTokenizerParams
from pipelines.engine.runner import StageContext, StageError, StageResult
from pipelines.engine.training import Job, run_training
from pipelines.reports.pictures import position_plot
from pipelines.reports.report import Report
from pipelines.reports.samples import (
    CODEBOOK,
    ENCODED,
    PICTURED,
    RECONSTRUCTIONS,
    Samples,
    draw_final,
    final_prefix,
    first_images,
    samples_grid,
    samples_prefix,
    shown_prefixes,
    shown_steps,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ddt.baselines.kinds import ImageTokenizer
    from ddt.data.images import ImageDataset

MODULES = (
    "ddt.tokenizer", "ddt.baselines", "ddt.train", "ddt.data.images", "ddt.data.decode", "ddt.data.metadata",
    "ddt.data.order", "pipelines.train_tokenizer",
)  # fmt: skip
MEASURED = 64  # training images whose PSNR goes on the model card
PER_TOKEN = {"position_perplexity": "perplexity", "visible_share": "share of time visible"}


def models(section: TrainTokenizerParams) -> dict[str, str]:
    """Digests of the checkpoints it starts from or works in."""
    from ddt.data.refs import model_digest

    named = {"init": section.init, "vae": None if section.spatial else section.model.vae}
    return {key: model_digest(reference) for key, reference in named.items() if reference is not None}


def check_codebook(section: TrainTokenizerParams) -> None:
    """ValueError where training would end without codes, or has too few vectors to place them on."""
    model, fit = section.model, section.fit
    if model.unquantized_steps >= fit.steps:
        raise ValueError(
            f"train_tokenizer.model.unquantized_steps = {model.unquantized_steps}: expected fewer than "
            f"train_tokenizer.fit.steps = {fit.steps}: codes are placed and learned after them"
        )
    vectors = fit.global_batch * model.num_tokens
    if vectors < model.codebook_size:
        raise ValueError(
            f"train_tokenizer.model.codebook_size = {model.codebook_size}: expected at most fit.global_batch "
            f"times model.num_tokens = {vectors}, the vectors that k-means places the codes on"
        )


@dataclass(frozen=True)
class ImageBatches:
    """Batches of `size` images for the training loop."""

    images: ImageDataset
    size: int

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """float32[size / world, C, H, W] in [-1, 1]."""
        return self.images.batch(step, self.size, rank, world)


class TokenizerJob(Job):
    """Runs in every training worker."""

    def run(self, params: TrainTokenizerParams, shards: list[tuple[str, int]]) -> None:  # type: ignore[override]
        import torch

        from ddt.baselines.kinds import loss_of, new_image_tokenizer
        from ddt.data.images import ImageDataset
        from ddt.tokenizer import DDTTokenizer
        from ddt.train.compiled import compiled_blocks

        torch.manual_seed(params.fit.seed)
        config = params.image_tokenizer
        model = new_image_tokenizer(config)
        if params.init is not None:
            from ddt.tokenizer.sd3 import init_from_sd3

            assert isinstance(model, DDTTokenizer)  # TrainTokenizerParams checks
            init_from_sd3(model, params.init)
        keys, rows = zip(*shards, strict=True)
        images = ImageDataset(keys, rows, config.image_size, params.fit.seed, fetch=self.store.fetch)
        batches = ImageBatches(images, params.fit.global_batch)
        prefix = samples_prefix(self.stage, self.fingerprint)
        self.hooks = [*self.hooks, Samples(model, params.fit, self.store, keys[0], prefix)]
        with compiled_blocks(model, self.device, params.fit.steps):
            result = self.fit(model, loss_of(config), batches, params.fit)
        if result.ema is not None:
            result.ema.copy_to(model)
        made_from = {"fingerprint": self.fingerprint, **models(params)}

        def save(folder: Path) -> None:
            metrics = training_psnr_db(model.eval(), images.batch(0, MEASURED))
            draw_final(model, self.store, keys[0], final_prefix(self.stage, self.fingerprint))
            model.cpu().save_pretrained(folder, made_from, metrics)

        parameters = sum(weights.numel() for weights in model.parameters())
        self.publish(save, params.fit.steps, {"model/parameters": parameters})


def training_psnr_db(tokenizer: ImageTokenizer, images_BCHW: Tensor) -> dict[str, float]:
    """For the model card. The evaluation measures held-out images."""
    from ddt.tokenizer import psnr_db

    codes_BT = tokenizer.encode(images_BCHW)
    metrics = {}
    for steps in sorted({1, shown_steps(tokenizer.config)}):
        decoded_BCHW = tokenizer.decode(codes_BT, num_steps=steps).cpu()
        name = f"PSNR of {len(images_BCHW)} training images, {steps} step{'s' * (steps > 1)}, dB"
        metrics[name] = psnr_db(decoded_BCHW, images_BCHW).mean().item()
    return metrics


def image_shards(ingest: Manifest, own_images: bool) -> list[tuple[str, int]]:
    """Keys and rows of the ingested shards to train on: the pairs', or those of `train_tokenizer.source`."""
    role = "images" if own_images else "pairs"
    return [(c.key, c.rows) for c in ingest.commits if c.stats["role"] == role and c.rows]


def run(ctx: StageContext) -> StageResult:
    """Train on every ingested training image, or on the source of its own; writes the tokenizer's folder."""
    check_codebook(ctx.section)
    shards = image_shards(ctx.inputs["ingest"], ctx.section.source is not None)
    if not shards:
        raise StageError(f"train_tokenizer.source = {ctx.section.source}: not ingested; run ingest again")
    commit, report = run_training(ctx, TokenizerJob, params=ctx.section, shards=shards)
    _plot_positions(ctx, report)
    folder = ctx.store.fetch_tree(commit.key.rpartition("/")[0])
    _picture(ctx, report)
    _picture_learning(ctx, report, shards[0][0])
    report.notes.append(f"{report.metrics['model/parameters']:,.0f} parameters, in {folder}")
    return StageResult([commit], report)


def _plot_positions(ctx: StageContext, report: Report) -> None:
    """What was logged for each token becomes a plot: as curves in the tracker it would be T a family."""
    bars: dict[str, list[float]] = {}
    for name in sorted(report.curves):
        family = name.partition("/")[0]
        if family in PER_TOKEN:
            bars.setdefault(PER_TOKEN[family], []).append(report.metrics.pop(name))
            del report.curves[name]
    if bars:
        path = ctx.folder / "positions.png"
        position_plot(bars).save(path)
        report.pictures["Each token at the end of training"] = ctx.relative(path)


def _picture(ctx: StageContext, report: Report) -> None:
    """What the training drew at its end; of training images, as the evaluation measures held-out ones."""
    prefixes = ", ".join(map(str, shown_prefixes(ctx.section.image_tokenizer.num_tokens)))
    titles = {
        RECONSTRUCTIONS: f"Original, then decoded from the first {prefixes} tokens",
        CODEBOOK: f"Use of the codebook by up to {ENCODED} training images",
    }
    for name, title in titles.items():
        key = f"{final_prefix(ctx.name, ctx.fingerprint)}{name}"
        (ctx.folder / name).write_bytes(ctx.store.get_bytes(key))
        report.pictures[title] = ctx.relative(ctx.folder / name)


def _picture_learning(ctx: StageContext, report: Report, shard: str) -> None:
    """Training images above what was drawn of them as training went, with the weights of then (no EMA)."""
    images_BCHW = first_images(ctx.store, shard, ctx.section.model.image_size, PICTURED)
    drawn = samples_grid(ctx.store, samples_prefix(ctx.name, ctx.fingerprint), images_BCHW)
    if drawn is None:
        return
    grid, steps = drawn
    path = ctx.folder / "samples.png"
    grid.save(path)
    report.pictures[f"Original, then drawn after {', '.join(map(str, steps))} steps"] = ctx.relative(path)
