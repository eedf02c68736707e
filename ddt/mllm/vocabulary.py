"""One vocabulary for both modalities: text ids, then K visual codes, [BOV], [EOV], then class tokens if any.

K codebook size, V vocabulary size, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ddt.mllm.new_rows import NewRows

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")  # as Llama and Gemma-2 name them
BOV = "[BOV]"
EOV = "[EOV]"


def visual_token(code: int) -> str:
    """The tokenizer's string for a visual code."""
    return f"<|visual_{code}|>"


def class_token(number: int) -> str:
    """The tokenizer's string for a class of a labelled image set."""
    return f"<|class_{number}|>"


@dataclass(frozen=True)
class Vocabulary:
    """Where each kind of id lives.

    `text_size` ids of text (the text tokenizer's own special tokens among them) come first, then
    `codebook_size` visual codes, [BOV] and [EOV], and a token for each class of a class-conditional model.
    `pad` fills rows and is never attended to.
    """

    text_size: int
    codebook_size: int
    bos: int
    eos: int
    pad: int
    num_classes: int = 0

    @property
    def bov(self) -> int:
        return self.text_size + self.codebook_size

    @property
    def eov(self) -> int:
        return self.bov + 1

    @property
    def first_class(self) -> int:
        return self.eov + 1

    @property
    def size(self) -> int:
        return self.first_class + self.num_classes

    @property
    def visual(self) -> slice:
        """Rows of the embedding and of the head that belong to visual codes."""
        return slice(self.text_size, self.text_size + self.codebook_size)

    def is_visual(self, ids: Tensor) -> Tensor:
        """True where an id is a visual code; [BOV] and [EOV] count as text, which decides when to draw."""
        return (ids >= self.text_size) & (ids < self.bov)


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, codebook_size: int, num_classes: int = 0
) -> Vocabulary:
    """Adds the visual tokens, and those of classes, to a Hugging Face tokenizer in place.

    Returns where they are. A tokenizer that has them already is left as it is. Raises ValueError where it has
    no BOS or EOS token, was extended for another codebook or other classes, or its ids are not 0..n-1.
    """
    name = tokenizer.name_or_path or type(tokenizer).__name__
    for role in ("bos_token_id", "eos_token_id"):
        if getattr(tokenizer, role) is None:
            raise ValueError(f"text tokenizer {name}: {role} is not set; sequences need BOS and EOS")
    known = tokenizer.get_vocab()
    text_size = known.get(visual_token(0), len(tokenizer))
    if visual_token(0) not in known:
        names = [*map(visual_token, range(codebook_size)), BOV, EOV, *map(class_token, range(num_classes))]
        tokenizer.add_tokens([AddedToken(n, special=True, normalized=False) for n in names])
        known = tokenizer.get_vocab()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    vocabulary = Vocabulary(text_size, codebook_size, bos, eos, pad, num_classes)
    expected = {
        visual_token(0): text_size,
        visual_token(codebook_size - 1): text_size + codebook_size - 1,
        BOV: vocabulary.bov,
        EOV: vocabulary.eov,
    }
    if num_classes:
        expected[class_token(num_classes - 1)] = vocabulary.size - 1
    for token, index in expected.items():
        if known.get(token) != index:
            raise ValueError(
                f"text tokenizer {name}: {token} has id {known.get(token)}, expected {index} "
                f"for a codebook of {codebook_size} and {num_classes} classes; was it extended for others?"
            )
    if len(tokenizer) != vocabulary.size:
        raise ValueError(
            f"text tokenizer {name}: {len(tokenizer)} tokens, expected {vocabulary.size} "
            f"for a codebook of {codebook_size} and {num_classes} classes; was it extended for others?"
        )
    return vocabulary


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Ids of plain text: no BOS or EOS, and the names of special tokens in it are ordinary characters.

    So nothing that a caption or a user says can become a visual code, [BOV] or an end of sequence.
    """
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def embedding_rows(model: PreTrainedModel) -> int:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


def check_rows(rows: int, vocabulary: Vocabulary) -> None:
    """ValueError where a model of so many embedding rows has none for some of the tokenizer's text ids."""
    if rows < vocabulary.text_size:
        raise ValueError(
            f"the model has {rows} embedding rows, its tokenizer {vocabulary.text_size} text ids; "
            "they do not belong together"
        )


def check_size(rows: int, vocabulary: Vocabulary) -> None:
    """ValueError where a model of so many embedding rows has not exactly one for each id."""
    if rows != vocabulary.size:
        raise ValueError(
            f"the model has {rows} embedding rows, its tokenizers need {vocabulary.size} "
            f"({vocabulary.text_size} text ids, {vocabulary.codebook_size} codes, [BOV], [EOV], "
            f"{vocabulary.num_classes} classes)"
        )


@torch.no_grad()
def extend_embeddings(
    model: PreTrainedModel, vocabulary: Vocabulary, new_rows: NewRows | None = None
) -> None:
    """Gives `model` (in place) a row for every id; rows past the text ids begin as `new_rows` says (mean).

    Both the input embedding and the head are resized. Raises ValueError where the model has fewer rows than
    the tokenizer has text ids.
    """
    check_rows(embedding_rows(model), vocabulary)
    new_rows = new_rows or NewRows()
    model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    layers = {EMBEDDINGS[0]: model.get_input_embeddings()}
    if not model.config.tie_word_embeddings:
        layers[EMBEDDINGS[1]] = model.get_output_embeddings()
    for name, layer in layers.items():
        weight_VD = layer.weight
        assert isinstance(weight_VD, Tensor)
        known_VD = weight_VD[: vocabulary.text_size]
        mean_D, std_D = known_VD.mean(dim=0), known_VD.std(dim=0, correction=0)
        new_rows.fill(weight_VD[vocabulary.text_size :], vocabulary.text_size, mean_D, std_D, name)
    model.config.vocab_size = vocabulary.size
