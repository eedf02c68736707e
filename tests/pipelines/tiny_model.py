"""A small untrained model of all parts, that draws something else for other codes."""

from __future__ import annotations

from pathlib import Path

import torch

from ddt.mllm import DDTLlama
from ddt.mllm.build import new_model
from ddt.mllm.config import SamplingConfig, TextSampling, VisualSampling
from ddt.mllm.vocabulary import extend_tokenizer
from ddt.tokenizer import DDTTokenizer, presets
from tests.mllm.mllm_tiny import TINY, make_tokenizer


def save_model(folder: Path) -> Path:
    """The model's folder, its image tokenizer inside."""
    torch.manual_seed(0)
    image_tokenizer = DDTTokenizer(presets()["debug"]).eval()
    with torch.no_grad():  # layers that start at zero would draw grey whatever the codes
        for parameter in image_tokenizer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    text_tokenizer = make_tokenizer()
    vocabulary = extend_tokenizer(text_tokenizer, image_tokenizer.config.codebook_size)
    language_model = new_model(TINY, vocabulary, 0)
    with torch.no_grad():
        language_model.get_output_embeddings().weight[vocabulary.bov] *= 20
    sampling = SamplingConfig(
        VisualSampling(2.0), VisualSampling(2.0), TextSampling(temperature=0.0, max_new_tokens=4)
    )
    DDTLlama(language_model, text_tokenizer, image_tokenizer, sampling).save_pretrained(folder)
    return folder
