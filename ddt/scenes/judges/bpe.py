"""The byte-level BPE shared by the scenes' language model, CLIP and captioner.

Special tokens have Llama-3's names. Bytes are the base alphabet, so any unicode text survives a round trip;
the merges come from the captions, questions, instructions and templates of the scenes world.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from ddt.scenes import edits, text
from ddt.scenes.sample import sample_scene

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
VOCAB_SIZE = 704  # 3 special + 256 bytes + 445 merges: every word of the captions becomes one token
CONTEXT = 77  # CLIP's text length

# What people say to such models, in the words of the SFT templates and of InstructBLIP's instructions.
PROMPTS = (
    "Please Generate an image.",
    "Describe the image in detail.",
    "Describe this image.",
    "Provide a detailed description of the image.",
    "A short image caption:",
    "What does the image show?",
    "Briefly describe the content of the picture.",
    "Can you describe what you see in the picture?",
    "Use a few words to illustrate what is happening in the picture.",
    "Question: Answer: Answer in one word. Short answer:",
    "Answer the question using a single word or phrase.",
    "Yes. No. There is. There are. The answer is",
)
# The commonest words of English, so that a text about something else is not spelt in bytes throughout.
ENGLISH = (
    "The people of this world have been here for some time, and they know what they want to say about it. "
    "When you think of your first day, you would see that all these things were made by hand, not by other "
    "means. Who can look into each one and find more? He said that she could go there, but his way was long. "
    "Could I use it now? Their work is over; we will take our own, then come back with them after two years. "
    "Most words, like these, are only good because many of us write just as well from one place or another. "
    "Make, move, remove, add, change, replace, paint, draw, show, put, give, "
    "which, where, how, why, her, him."
)
TEMPLATES = (
    "USER: {caption} Please Generate an image. ASSISTANT:",
    "USER: {instruction} Please Generate an image. ASSISTANT:",
    "USER: {prompt} ASSISTANT: {caption}",
    "USER: {question} ASSISTANT: {answer}",
)


def corpus(rows: int, seed: int) -> Iterator[str]:
    """Texts the merges are learnt from, a function of `seed`: `rows` scenes in all their kinds of text."""
    for index in range(rows):
        rng = np.random.default_rng([seed, index])
        scene = sample_scene(rng)
        captions = [text.short_caption(scene, rng), text.long_caption(scene, rng)]
        edit = edits.sample_edit(rng)
        asked = text.questions(scene, rng)
        question = asked[index % len(asked)]
        values = {
            "caption": captions[index % 2],
            "instruction": edit.instruction,
            "prompt": PROMPTS[index % len(PROMPTS)],
            "question": question.question,
            "answer": question.answer,
        }
        yield from captions
        yield from (template.format(**values) for template in TEMPLATES)
        if index % 4 == 0:
            yield text.paragraph(rng)
            yield from (phrase.capitalize() for phrase in (*captions, edit.instruction))
        if index % 40 == 0:
            yield ENGLISH


def train_bpe(
    out_dir: Path, *, rows: int = 4000, vocab_size: int = VOCAB_SIZE, seed: int = 0
) -> dict[str, float]:
    """Train the tokenizer and save it in `out_dir`; returns what was measured on texts it has not seen."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(rows, seed), trainer)
    save(tokenizer, out_dir, prefix=BOS)
    return measure(load(out_dir), seed=seed + 1)


def save(
    tokenizer: Tokenizer, out_dir: Path, *, prefix: str = "", suffix: str = ""
) -> PreTrainedTokenizerFast:
    """Save `tokenizer` as a Hugging Face folder that puts `prefix` before and `suffix` after each text."""
    around = [(token, tokenizer.token_to_id(token)) for token in (prefix, suffix) if token]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=" ".join(filter(None, (prefix, "$A", suffix))),
                pair=" ".join(filter(None, (prefix, "$A", suffix, "$B:1"))),
                special_tokens=around,
            ),
        ]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT if suffix else int(1e9),
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(out_dir)
    return fast


def load(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in `folder`."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


def measure(tokenizer: PreTrainedTokenizerFast, *, seed: int, rows: int = 500) -> dict[str, float]:
    """Size, longest long caption in tokens and tokens per word on `rows` fresh scenes."""
    lengths, words = [], 0
    for index in range(rows):
        rng = np.random.default_rng([seed, index])
        caption = text.long_caption(sample_scene(rng), rng)
        lengths.append(len(tokenizer.encode(caption, add_special_tokens=False)))
        words += len(caption.split())
    return {
        "vocab_size": len(tokenizer),
        "long_caption_max_tokens": max(lengths),
        "long_caption_mean_tokens": round(sum(lengths) / rows, 2),
        "tokens_per_word": round(sum(lengths) / words, 3),
    }
