"""Detectors: an instance segmenter with its own classes, or one that finds the classes it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlv2.modeling_owlv2 import Owlv2ForObjectDetection
from transformers.models.owlv2.processing_owlv2 import Owlv2Processor

from ddt.data.pretrained import load, load_model, pick_device

# COCO's names that GenEval's prompts write differently.
GENEVAL_NAMES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}


@dataclass(frozen=True)
class Found:
    """An object: corners in pixels of the picture, and its mask [H, W] where the model gives one."""

    name: str
    box: tuple[float, float, float, float]
    score: float
    mask: np.ndarray | None = None


class Detector(Protocol):
    """Finds objects of the named classes, the surest first."""

    def __call__(self, image: Image.Image, names: Sequence[str], threshold: float) -> list[Found]: ...


def open_detector(path_or_ref: str, device: str | None = None) -> Detector:
    """The detector of a folder or hub id: Mask2Former or OWLv2. ValueError for any other model."""
    kind = load(AutoConfig, path_or_ref).model_type
    kinds: dict[str, Callable[..., Detector]] = {"mask2former": Mask2Former, "owlv2": OpenVocabulary}
    if kind not in kinds:
        raise ValueError(f"model {path_or_ref!r}: a {kind} is no detector known here ({', '.join(kinds)})")
    return kinds[kind](path_or_ref, pick_device(device))


class Mask2Former:
    """Instances of the checkpoint's own classes. A box is the extent of its mask."""

    def __init__(self, path_or_ref: str, device: torch.device) -> None:
        self.device = device
        self.model = load_model(Mask2FormerForUniversalSegmentation, path_or_ref).to(device).eval()
        self.processor = load(Mask2FormerImageProcessorPil, path_or_ref)
        labels = self.model.config.id2label
        self.names = {int(index): GENEVAL_NAMES.get(name, name) for index, name in labels.items()}

    @torch.inference_mode()
    def __call__(self, image: Image.Image, names: Sequence[str], threshold: float) -> list[Found]:
        inputs = self.processor(images=[image], return_tensors="pt").to(self.device)
        outputs = self.model(**inputs)
        result = self.processor.post_process_instance_segmentation(
            outputs, threshold=threshold, target_sizes=[image.size[::-1]], return_binary_maps=True
        )[0]
        found = []
        for info, mask in zip(result["segments_info"], result["segmentation"], strict=False):
            name = self.names[info["label_id"]]
            if name in names:
                mask_HW = mask.cpu().numpy() > 0
                found.append(Found(name, _extent(mask_HW), float(info["score"]), mask_HW))
        return _surest_first(found)


class OpenVocabulary:
    """OWLv2: boxes for any words; no masks."""

    def __init__(self, path_or_ref: str, device: torch.device) -> None:
        self.device = device
        self.model = load_model(Owlv2ForObjectDetection, path_or_ref).to(device).eval()
        self.processor = Owlv2Processor(
            image_processor=load(Owlv2ImageProcessorPil, path_or_ref),
            tokenizer=load(AutoTokenizer, path_or_ref),
        )

    @torch.inference_mode()
    def __call__(self, image: Image.Image, names: Sequence[str], threshold: float) -> list[Found]:
        inputs: Any = self.processor(
            text=[[f"a photo of a {name}" for name in names]], images=[image], return_tensors="pt",
            truncation=True, max_length=self.model.config.text_config.max_position_embeddings,
        )  # fmt: skip
        outputs = self.model(**inputs.to(self.device))
        result = self.processor.post_process_grounded_object_detection(
            outputs, threshold=threshold, target_sizes=[image.size[::-1]]
        )[0]
        found = [
            Found(names[int(label)], _corners(box), float(score))
            for box, score, label in zip(
                result["boxes"].tolist(), result["scores"], result["labels"], strict=True
            )
        ]
        return _surest_first(found)


def _extent(mask_HW: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return x1, y1, x2, y2


def _surest_first(found: list[Found]) -> list[Found]:
    return sorted(found, key=lambda item: -item.score)
