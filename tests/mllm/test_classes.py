"""Class-conditional models: ids, sequence, batches, drawing by name; a small model learns its classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ddt.data.tokens import TokenDataset, write_shard
from ddt.mllm import DDTLlama
from ddt.mllm import sequences as S
from ddt.mllm.batches import FinetuneBatches, FinetuneMix, PretrainBatches, PretrainMix
from ddt.mllm.build import new_model
from ddt.mllm.config import VisualSampling
from ddt.mllm.folder import folder_vocabulary
from ddt.mllm.generate import generate_codes
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.sequences import SequenceBuilder
from ddt.mllm.vocabulary import extend_tokenizer
from ddt.tokenizer import DDTTokenizer, presets
from tests.mllm.mllm_tiny import CODEBOOK_SIZE, META, NUM_TOKENS, TINY, make_tokenizer

CLASSES = ("cat", "dog", "frog")
IMAGE = np.array([3, 1, 4, 1])


@pytest.fixture
def builder() -> SequenceBuilder:
    tokenizer = make_tokenizer()
    vocabulary = extend_tokenizer(tokenizer, CODEBOOK_SIZE, len(CLASSES))
    return SequenceBuilder(tokenizer, vocabulary, NUM_TOKENS, "V_1..V_T", CLASSES)


@pytest.fixture
def labelled(tmp_path) -> TokenDataset:
    """Images whose codes are their class's number."""
    labels = [CLASSES[n % 3] for n in range(12)]
    columns = {
        "sample_id": [str(n) for n in range(12)],
        "short": labels,
        "long": ["a long caption"] * 12,
        "codes": [np.full(NUM_TOKENS, n % 3) for n in range(12)],
    }
    write_shard(tmp_path / "labelled", columns, META, "pairs")
    return TokenDataset.of_files([tmp_path / "labelled"])


def test_class_tokens_come_last(builder):
    vocabulary, tokenizer = builder.vocabulary, builder.tokenizer
    assert (vocabulary.first_class, vocabulary.size) == (vocabulary.eov + 1, vocabulary.eov + 4)
    assert tokenizer.get_vocab()["<|class_2|>"] == vocabulary.size - 1 and len(tokenizer) == vocabulary.size
    assert extend_tokenizer(tokenizer, CODEBOOK_SIZE, len(CLASSES)) == vocabulary
    for classes in (0, 2, 4):
        with pytest.raises(ValueError, match="was it extended for others"):
            extend_tokenizer(tokenizer, CODEBOOK_SIZE, classes)


def test_the_sequence_is_the_class_then_the_image(builder):
    vocabulary = builder.vocabulary
    dog, nothing = builder.documents(
        [(S.CLASS_TO_IMAGE, {"class": name, "image": IMAGE}) for name in ("dog", "")]
    )
    image = [vocabulary.bov, *(IMAGE + vocabulary.text_size), vocabulary.eov, vocabulary.eos]
    assert dog.ids.tolist() == [vocabulary.bos, vocabulary.first_class + 1, *image]
    assert dog.learned.tolist() == [False, False] + [True] * 7
    assert nothing.ids.tolist() == [vocabulary.bos, *image]
    (prompt,) = builder.prompts([(S.CLASS_TO_IMAGE, {"class": "dog"})])
    assert prompt.tolist() == dog.ids[:3].tolist()
    with pytest.raises(ValueError, match="class 'cow': not among the model's 3"):
        builder.prompts([(S.CLASS_TO_IMAGE, {"class": "cow"})])


def test_batches_show_every_image_after_its_class_and_drop_some(labelled, builder):
    batches = PretrainBatches(labelled, None, builder, PretrainMix(0.6, 0.25, 0.0), 2000, 64, 1)
    examples = batches.examples(np.arange(2000))
    names = [values["class"] for _, values in examples]
    assert all(n in ("", CLASSES[values["image"][0]]) for n, (_, values) in zip(names, examples, strict=True))
    assert abs(names.count("") / 2000 - 0.25) < 0.04
    mix = FinetuneMix({"class_to_image": 1.0}, 0.0)
    (template, values) = FinetuneBatches(labelled, None, builder, mix, 4, 64, 0).examples(np.arange(1))[0]
    assert template == S.CLASS_TO_IMAGE and values["class"] == CLASSES[values["image"][0]]


def test_a_model_learns_its_classes(labelled, builder):
    model = new_model(TINY, builder.vocabulary, 0)
    batches = PretrainBatches(labelled, None, builder, PretrainMix(0.6, 0.1, 0.0), 24, 64, 1)
    loss_fn = LanguageModelLoss(builder.vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(25):
        loss, _ = loss_fn(model, batches.batch(step), step, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prompts = builder.prompts([(S.CLASS_TO_IMAGE, {"class": name}) for name in CLASSES])
    nothing = builder.prompts([(S.CLASS_TO_IMAGE, {"class": ""})] * 3)
    sampling = VisualSampling(cfg_scale=1.5, temperature=0.0)
    ids = generate_codes(model.eval(), builder.vocabulary, prompts, nothing, NUM_TOKENS, sampling, [0] * 3)
    assert builder.codes(ids.numpy()).tolist() == [[n] * NUM_TOKENS for n in range(3)]


def test_a_saved_model_draws_by_name(tmp_path):
    torch.manual_seed(0)
    image_tokenizer, text_tokenizer = DDTTokenizer(presets()["debug"]).eval(), make_tokenizer()
    vocabulary = extend_tokenizer(text_tokenizer, image_tokenizer.config.codebook_size, len(CLASSES))
    whole = DDTLlama(new_model(TINY, vocabulary, 0), text_tokenizer, image_tokenizer, classes=CLASSES)
    whole.save_pretrained(tmp_path / "m")
    again = DDTLlama.from_pretrained(tmp_path / "m")
    assert again.classes == CLASSES and folder_vocabulary(tmp_path / "m") == vocabulary
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").config.vocab_size == vocabulary.size
    assert len(AutoTokenizer.from_pretrained(tmp_path / "m")) == vocabulary.size
    cat, dog = again.draw_codes(
        [(S.CLASS_TO_IMAGE, {"class": name}) for name in ("cat", "dog")], VisualSampling(), [1, 1]
    )
    assert not torch.equal(cat, dog)
    assert again.generate_class(["cat", "dog"], seed=1)[0].size == (16, 16)
    with pytest.raises(ValueError, match="class 'cow': not among the model's 3"):
        again.generate_class(["cow"])
