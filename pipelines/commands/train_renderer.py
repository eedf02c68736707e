"""Command `train-renderer`: a one-pass decoder for the codes of a finished tokenizer, on Ray Train.

Not a stage: nothing in the pipeline needs it. It is trained as the tokenizer is, by `train_tokenizer.fit` on
the images that `ingest` made, and is as large as the tokenizer's decoder.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ddt.config import to_dict
from ddt.manifest import fingerprint
from ddt.params import Params
from ddt.store import MARKER, open_store
from pipelines.commands.use import tokenizer_folder
from pipelines.engine.runner import StageContext, load_input, writable_folder
from pipelines.engine.training import Job, run_training
from pipelines.train_tokenizer import MEASURED, ImageBatches, image_shards

if TYPE_CHECKING:
    from ddt.train.config import FitConfig

NAME = "train_renderer"
MODULES = (
    "ddt.tokenizer", "ddt.train", "ddt.data.images", "ddt.data.decode", "ddt.data.metadata",
    "ddt.data.order", "pipelines.commands.train_renderer",
)  # fmt: skip


class RendererJob(Job):
    """Runs in every training worker. `tokenizer` is its folder's prefix in the store."""

    def run(self, tokenizer: str, fit: FitConfig, shards: list[tuple[str, int]]) -> None:  # type: ignore[override]
        import torch

        from ddt.data.images import ImageDataset
        from ddt.tokenizer import DDTTokenizer, Renderer, RendererLoss, RendererSizes, psnr_db
        from ddt.train.compiled import compiled_blocks

        torch.manual_seed(fit.seed)
        frozen = DDTTokenizer.from_pretrained(self.store.fetch_tree(tokenizer))
        config = frozen.config
        frozen = frozen.to(self.device).requires_grad_(False)
        renderer = Renderer.of(frozen, RendererSizes.of_decoder(config))
        keys, rows = zip(*shards, strict=True)
        images = ImageDataset(keys, rows, config.image_size, fit.seed, fetch=self.store.fetch)
        loss = RendererLoss(frozen, renderer.config.sizes.tail_dropout)
        with compiled_blocks(renderer, self.device, fit.steps):
            result = self.fit(renderer, loss, ImageBatches(images, fit.global_batch), fit)
        if result.ema is not None:
            result.ema.copy_to(renderer)
        made_from = {"fingerprint": self.fingerprint, "image_tokenizer": frozen.digest}

        def save(folder: Path) -> None:
            some_BCHW = images.batch(0, MEASURED)
            drawn_BCHW = frozen.decode(frozen.encode(some_BCHW), renderer=renderer.eval()).cpu()
            psnr = psnr_db(drawn_BCHW, some_BCHW).mean().item()
            metrics = {f"PSNR of {MEASURED} training images, dB": psnr}
            renderer.cpu().save_pretrained(folder, made_from, metrics)

        self.publish(save, fit.steps)


def run(params: Params, tokenizer: str | None, output: str) -> None:
    """Train a renderer for a tokenizer's folder or registry reference, or find it trained; write its folder.

    Raises ValueError where the output exists, or what it is made from does not.
    """
    from ddt.tokenizer import DDTTokenizer

    target = Path(output)
    if target.exists() or not target.parent.is_dir():
        raise ValueError(f"--output {output}: expected a folder that does not exist, in one that does")
    folder = tokenizer_folder(params, tokenizer)
    digest = DDTTokenizer.from_pretrained(folder).digest
    workspace = writable_folder(params.paths.workspace, "paths.workspace")
    section, store = params.train_tokenizer, open_store(params.paths.store)
    ingest = load_input(workspace, store, "ingest", "train-renderer")
    made_of = {"ingest": ingest.digest, "tokenizer": digest}
    identity = fingerprint(to_dict(section.fit), made_of, MODULES)
    ctx = StageContext(NAME, params, section, store, workspace, identity, {"ingest": ingest})
    copy = f"shards/{NAME}/tokenizer-{digest[:32]}"  # where every worker can read it
    store.put_tree(copy, folder)
    shards = image_shards(ingest, section.source is not None)
    commit, report = run_training(ctx, RendererJob, tokenizer=copy, fit=section.fit, shards=shards)
    made = store.fetch_tree(commit.key.removesuffix(f"/{MARKER}"))
    shutil.copytree(made, target, ignore=shutil.ignore_patterns(MARKER))
    shutil.copyfile(made / MARKER, target / MARKER)  # last: without it no reader takes the folder
    if "train/loss" in report.metrics:  # there is no log here of a training from another workspace
        print(f"train/loss {report.metrics['train/loss']:.4g}")
    print(target)
