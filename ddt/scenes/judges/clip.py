"""A CLIP for the scenes world: CLIPModel's architecture in miniature, trained against near misses.

Batches are made of families: a scene and three others that differ from it in one respect, all drawn, each
with a short and a long caption. Every pair of the batch is labelled by what is true, not by what was written
together. The loss is the sigmoid loss of SigLIP (Zhai et al. 2023), so that one threshold on the cosine means
the same for every image.

Shapes: B images, N captions (2B), D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from ddt.scenes.judges import bpe
from ddt.scenes.judges.lessons import Reader, board_reader
from ddt.scenes.judges.mutate import mutate
from ddt.scenes.judges.optimise import optimise, prefetch
from ddt.scenes.judges.pictures import MEAN, SIDE_PX, STD, draw_scene
from ddt.scenes.judges.reading import holds, read, shapes_of
from ddt.scenes.judges.tower import (
    BOARD_WEIGHT,
    HEADS,
    HIDDEN_WIDTH,
    WIDTH,
    Lessons,
    Schooled,
    teach,
    vision_config,
)
from ddt.scenes.sample import pick
from ddt.scenes.text import long_caption, short_caption
from ddt.scenes.world import Scene

FAMILIES, FAMILY = 16, 4
LEARNING_RATE = 1e-3
NEAR_WEIGHT = 2.0  # of false pairs within a family: the near misses, one in fifty of the false pairs
VAGUE_SHARE = 0.05  # of captions replaced by one that says nothing
VAGUE = ("a picture", "a photo", "some shapes", "nice colors", "a drawing", "things on a background", "")


@dataclass(frozen=True)
class Batch:
    """Pictures, captions and what is true: labels_BN is 1 where the caption holds, near_BN marks families."""

    lessons: Lessons
    tokens: tuple[dict[str, torch.Tensor], ...]  # of the short, then of the long captions
    labels_BN: torch.Tensor
    near_BN: torch.Tensor


def family(rng: np.random.Generator, size: int = FAMILY) -> tuple[list[Scene], list[str], list[str]]:
    """A scene and `size` - 1 near misses, with short and long captions in the same words and order."""
    scene = draw_scene(rng)
    scenes = [scene] + [mutate(rng, scene) for _ in range(size - 1)]
    wording = int(rng.integers(2**31))
    short = [short_caption(s, np.random.default_rng(wording)) for s in scenes]
    long = [long_caption(s, rng if rng.random() < 0.5 else None) for s in scenes]
    return scenes, short, long


def truth(scenes: list[Scene], captions: list[str]) -> np.ndarray:
    """bool[B, N]: whether each caption is true of each scene."""
    table = np.zeros((len(scenes), len(captions)), bool)
    by_shapes: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for row, scene in enumerate(scenes):
        by_shapes.setdefault(shapes_of(scene), []).append(row)
    for column, caption in enumerate(captions):
        statement = read(caption)
        for row in by_shapes.get(statement.shapes, ()):
            table[row, column] = holds(statement, scenes[row])
    return table


def make_batch(
    rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast, families: int = FAMILIES
) -> Batch:
    """One batch of families, drawn from `rng`."""
    drawn = [family(rng) for _ in range(families)]
    scenes = [scene for members, _, _ in drawn for scene in members]
    short = [vaguely(rng, caption) for _, captions, _ in drawn for caption in captions]
    long = [caption for _, _, captions in drawn for caption in captions]
    of_image = np.repeat(np.arange(families), FAMILY)
    of_caption = np.tile(of_image, 2)
    return Batch(
        lessons=teach(rng, scenes),
        tokens=(encode(tokenizer, short), encode(tokenizer, long)),
        labels_BN=torch.from_numpy(truth(scenes, short + long)),
        near_BN=torch.from_numpy(of_image[:, None] == of_caption[None]),
    )


def vaguely(rng: np.random.Generator, caption: str) -> str:
    """The caption, or now and then one that says nothing and is true of nothing."""
    return pick(rng, VAGUE) if rng.random() < VAGUE_SHARE else caption


def encode(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask, padded to the longest, cut at 77 tokens."""
    tokens = tokenizer(captions, padding=True, truncation=True, max_length=bpe.CONTEXT, return_tensors="pt")
    return {key: tokens[key] for key in ("input_ids", "attention_mask")}


def build(tokenizer: PreTrainedTokenizerFast, tower: CLIPVisionModel) -> CLIPModel:
    """The model with a schooled vision tower and the rest untrained."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN_WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        max_position_embeddings=bpe.CONTEXT,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision_config().to_dict(), projection_dim=WIDTH
    )
    model = CLIPModel._from_config(config, attn_implementation="eager")
    model.vision_model.load_state_dict(tower.state_dict())
    return model


class Lesson(torch.nn.Module):
    """The model with what only training needs: the sigmoid loss's bias and the readers."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model
        self.bias = torch.nn.Parameter(torch.tensor(-8.0))
        self.schooled = Schooled(model.vision_model, BOARD_WEIGHT)
        self.text_board: Reader = board_reader(WIDTH)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        lesson_loss, lesson_metrics, pooled_BD = self.schooled(batch.lessons)
        image_BD = self.model.visual_projection(pooled_BD).float()
        texts = [self.model.text_model(**tokens).pooler_output for tokens in batch.tokens]
        text_ND = self.model.text_projection(torch.cat(texts)).float()
        image_BD = torch.nn.functional.normalize(image_BD, dim=-1)
        text_ND = torch.nn.functional.normalize(text_ND, dim=-1)
        cosine_BN, scale = image_BD @ text_ND.T, self.model.logit_scale.exp()
        logits_BN = scale * cosine_BN + self.bias
        signed_BN = torch.where(batch.labels_BN, logits_BN, -logits_BN)
        weight_BN = torch.where(batch.near_BN & ~batch.labels_BN, NEAR_WEIGHT, 1.0)
        pair_loss = -(torch.nn.functional.logsigmoid(signed_BN) * weight_BN).sum() / len(image_BD)
        rank_loss = ranking_loss(scale * cosine_BN, batch.labels_BN)
        board_loss = self.text_board.loss(texts[1], batch.lessons.board_Bk)
        with torch.no_grad():
            near = batch.near_BN & ~batch.labels_BN
            metrics = lesson_metrics | {
                "pair": pair_loss.item(),
                "rank": rank_loss.item(),
                "text_board": board_loss.item(),
                "near_right": (logits_BN[near] < 0).float().mean().item(),
                "true_right": (logits_BN[batch.labels_BN] > 0).float().mean().item(),
            }
        return pair_loss + rank_loss + lesson_loss + BOARD_WEIGHT * board_loss, metrics


def ranking_loss(logits_BN: torch.Tensor, labels_BN: torch.Tensor) -> torch.Tensor:
    """CLIP's softmax loss over rows and columns, with all that is true of a row or column as its target.

    The sigmoid loss alone rests for hundreds of steps where everything is called false; this one does not.
    """
    losses = []
    for logits, labels in ((logits_BN, labels_BN), (logits_BN.T, labels_BN.T)):
        some_true = labels.any(1)
        logits, labels = logits[some_true], labels[some_true]
        losses.append(logits.logsumexp(1) - logits.masked_fill(~labels, -torch.inf).logsumexp(1))
    return losses[0].mean() + losses[1].mean()


def train_clip(
    out_dir: Path,
    bpe_dir: Path,
    tower: CLIPVisionModel,
    *,
    steps: int,
    seed: int,
    progress: bool,
) -> None:
    """Train with a schooled vision tower, which goes on learning.

    Saves a folder that `CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained` load.
    """
    torch.manual_seed(seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    backend = bpe.load(bpe_dir).backend_tokenizer
    tokenizer = bpe.save(backend, out_dir, prefix=bpe.BOS, suffix=bpe.EOS)
    lesson = Lesson(build(tokenizer, tower))
    drawn = prefetch(lambda rng: make_batch(rng, tokenizer), seed + 1)
    optimise(lesson, lesson, drawn, steps=steps, learning_rate=LEARNING_RATE, name="clip", progress=progress)
    CLIPProcessor(image_processor(), tokenizer).save_pretrained(out_dir)
    lesson.model.half().save_pretrained(out_dir)


def image_processor() -> CLIPImageProcessorPil:
    """Shortest edge to 32 px, centre crop, values to [-1, 1]."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE_PX},
        crop_size={"height": SIDE_PX, "width": SIDE_PX},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
