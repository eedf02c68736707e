"""Pictures of a tokenizer, drawn where it is trained: as it learns, and what its codes keep at the end.

A large one is slow to draw with, and the process that reports may have no accelerator: it reads the pictures
from the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from ddt.data.decode import decode_image, decode_rgb
from ddt.eval.report.pictures import png_bytes
from ddt.manifest import shard_prefix
from ddt.records import read_shard
from ddt.store import Store
from pipelines.reports.pictures import usage_plot

if TYPE_CHECKING:
    from torch import Tensor

    from ddt.baselines.config import SpatialConfig
    from ddt.baselines.kinds import ImageTokenizer
    from ddt.tokenizer import DDTConfig
    from ddt.train.config import FitConfig

MOMENTS = 4  # of a training, evenly spaced, the last at its end
PICTURED = 8  # images
CELL_PX = 128  # small ones are enlarged to about this
ENCODED = 256  # training images of the first shard, for the use of the codebook
MOST_STEPS = 50  # of denoising: the paper's 480 for a few pictures would keep all accelerators waiting
RECONSTRUCTIONS, CODEBOOK = "reconstructions.png", "codebook.png"


@dataclass(frozen=True)
class Samples:
    """A hook of the training loop. It takes no random number of the training's and changes nothing in it.

    What it draws lies in the store, so a run that is killed and resumed has all of it.
    """

    tokenizer: ImageTokenizer
    fit: FitConfig
    store: Store
    shard: str
    prefix: str

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Decodes the images with the weights of this step, if it is the first one logged at a moment."""
        if not self._is_due(step) or not self.tokenizer.quantizer.ready:
            return
        import torch

        side_px = self.tokenizer.config.image_size
        with torch.compiler.set_stance("force_eager"):  # blocks are compiled for training alone
            codes_BT = self.tokenizer.encode(first_images(self.store, self.shard, side_px, PICTURED))
            drawn_BCHW = self.tokenizer.decode(codes_BT, num_steps=shown_steps(self.tokenizer.config)).cpu()
        self.store.put_bytes(f"{self.prefix}{step:09}.png", png_bytes(row_of(drawn_BCHW)))

    def _is_due(self, step: int) -> bool:
        logged_before = (step - 1) // self.fit.log_every * self.fit.log_every
        moment, before = (at * MOMENTS // self.fit.steps for at in (step, logged_before))
        return moment > before


def shown_steps(config: DDTConfig | SpatialConfig) -> int:
    """Denoising steps of pictures and numbers that are only looked at."""
    return min(config.decode_steps, MOST_STEPS)


def shown_prefixes(num_tokens: int) -> list[int]:
    """The prefixes that reconstructions are drawn from: quarters of all tokens."""
    return sorted({num_tokens * i // 4 for i in (1, 2, 3, 4)} - {0})


def samples_prefix(stage: str, fingerprint: str) -> str:
    """Where in the store the rows of one training are, each named by its step."""
    return f"{shard_prefix(stage, fingerprint)}samples/"


def final_prefix(stage: str, fingerprint: str) -> str:
    """Where in the store the pictures of the finished tokenizer are."""
    return f"{shard_prefix(stage, fingerprint)}final/"


def draw_final(tokenizer: ImageTokenizer, store: Store, shard: str, prefix: str) -> None:
    """Training images beside their decodings from a few prefixes, and how their codes use the codebook."""
    from ddt.tokenizer import reconstruction_grid

    config = tokenizer.config
    pixels_BCHW = first_images(store, shard, config.image_size, ENCODED)
    counts_K = tokenizer.encode(pixels_BCHW).flatten().bincount(minlength=config.codebook_size)
    grid = reconstruction_grid(
        tokenizer,
        pixels_BCHW[:PICTURED],
        shown_prefixes(config.num_tokens),
        num_steps=shown_steps(config),
        scale=max(1, CELL_PX // config.image_size),
    )
    store.put_bytes(f"{prefix}{RECONSTRUCTIONS}", png_bytes(grid))
    store.put_bytes(f"{prefix}{CODEBOOK}", png_bytes(usage_plot(counts_K.cpu().numpy())))


def samples_grid(store: Store, prefix: str, images_BCHW: Tensor) -> tuple[Image.Image, list[int]] | None:
    """The images above what was drawn of them, a row a moment, and the rows' steps; None where there is none.

    `images_BCHW` are those that the hook saw, or more.
    """
    keys = store.list(prefix)
    if not keys:
        return None
    rows = [row_of(images_BCHW[:PICTURED]), *(decode_rgb(store.get_bytes(key)) for key in keys)]
    canvas = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for number, row in enumerate(rows):
        canvas.paste(row, (0, sum(above.height for above in rows[:number])))
    return canvas, [int(key.removeprefix(prefix).removesuffix(".png")) for key in keys]


def row_of(images_BCHW: Tensor) -> Image.Image:
    """Images in [-1, 1] side by side, small ones enlarged."""
    from ddt.tokenizer import image_grid

    return image_grid(images_BCHW[None], scale=max(1, CELL_PX // images_BCHW.shape[-1]))


def first_images(store: Store, shard: str, side_px: int, count: int) -> Tensor:
    """float32 [at most `count`, 3, side, side] in [-1, 1] of a record shard."""
    from ddt.mllm.pictures import to_pixels

    images = read_shard(store.fetch(shard), ["image"])["image"].slice(0, count).to_pylist()
    return to_pixels([Image.fromarray(decode_image(data, side_px)) for data in images], side_px)
