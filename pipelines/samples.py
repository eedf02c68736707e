"""How a tokenizer draws as it learns: the same training images decoded at some moments of its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from ddt.data.decode import decode_image
from ddt.eval.pictures import png_bytes
from ddt.manifest import shard_prefix
from ddt.records import read_shard
from ddt.store import Store
from pipelines.pictures import decode

if TYPE_CHECKING:
    from torch import Tensor

    from ddt.baselines.kinds import ImageTokenizer
    from ddt.train.config import FitConfig

MOMENTS = 4  # of a training, evenly spaced, the last at its end
PICTURED = 8  # images
CELL_PX = 128  # small ones are enlarged to about this


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
            drawn_BCHW = self.tokenizer.decode(codes_BT).cpu()
        self.store.put_bytes(f"{self.prefix}{step:09}.png", png_bytes(row_of(drawn_BCHW)))

    def _is_due(self, step: int) -> bool:
        logged_before = (step - 1) // self.fit.log_every * self.fit.log_every
        moment, before = (at * MOMENTS // self.fit.steps for at in (step, logged_before))
        return moment > before


def samples_prefix(stage: str, fingerprint: str) -> str:
    """Where in the store the rows of one training are, each named by its step."""
    return f"{shard_prefix(stage, fingerprint)}samples/"


def samples_grid(store: Store, prefix: str, images_BCHW: Tensor) -> tuple[Image.Image, list[int]] | None:
    """The images above what was drawn of them, a row a moment, and the rows' steps; None where there is none.

    `images_BCHW` are those that the hook saw, or more.
    """
    keys = store.list(prefix)
    if not keys:
        return None
    rows = [row_of(images_BCHW[:PICTURED]), *(decode(store.get_bytes(key)) for key in keys)]
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
