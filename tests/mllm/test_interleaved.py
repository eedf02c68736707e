"""Interleaved replies: equal to a loop without cache, alone and in a batch; a chat keeps its turns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ddt.mllm import DDTLlama
from ddt.mllm import sequences as S
from ddt.mllm.build import new_model
from ddt.mllm.chat import MAX_IMAGES, Chat
from ddt.mllm.config import SamplingConfig, TextSampling, VisualSampling
from ddt.mllm.conversations import conversation, conversation_prompt
from ddt.mllm.interleaved import generate_interleaved
from ddt.mllm.vocabulary import extend_tokenizer
from ddt.tokenizer import DDTTokenizer, presets
from tests.mllm.mllm_tiny import NUM_TOKENS, TINY, make_tokenizer
from tests.mllm.test_conversations import turns
from tests.mllm.test_sequences import IMAGE as CODES

GREEDY = SamplingConfig(
    draw=VisualSampling(cfg_scale=2.0, temperature=0.0), text=TextSampling(temperature=0.0, max_new_tokens=4)
)
SAID = ["draw a red circle", "what?", "two blue squares left of a green ring", "a"]


@pytest.fixture
def eager(llama, builder):
    """A model that draws about as often as it does not."""
    with torch.no_grad():
        llama.get_output_embeddings().weight[builder.vocabulary.bov] *= 2.5
    return llama.eval()


def prompts_of(builder, said):
    none = np.zeros((0, NUM_TOKENS), np.int64)
    return [d.ids for d in builder.documents([conversation_prompt(turns(text), none) for text in said])]


def reply(model, builder, prompts, sampling, seeds, max_images=2, **kwargs):
    (nothing,) = builder.prompts([(S.TEXT_TO_IMAGE, {"caption": ""})])
    return generate_interleaved(
        model, builder.vocabulary, prompts, nothing, NUM_TOKENS, sampling, seeds, max_images, **kwargs
    )


@torch.no_grad()
def reference(model, builder, prompt, max_images):
    """The rules one token at a time, the whole sequence each time."""
    vocabulary = builder.vocabulary
    (nothing,) = builder.prompts([(S.TEXT_TO_IMAGE, {"caption": ""})])
    said: list[int] = []

    def scores(context, rows):
        return model(torch.tensor([context])).logits[0, -1, rows]

    for images in range(max_images + 1):
        for _ in range(GREEDY.text.max_new_tokens):
            rows = [*range(vocabulary.text_size), *([vocabulary.bov] if images < max_images else [])]
            said.append(rows[int(scores([*prompt, *said], rows).argmax())])
            if said[-1] in (vocabulary.bov, vocabulary.eos):
                break
        if said[-1] != vocabulary.bov:
            break
        drawn: list[int] = []
        for _ in range(NUM_TOKENS):
            with_it = scores([*prompt, *said, *drawn], vocabulary.visual)
            without = scores([*nothing, *drawn], vocabulary.visual)
            drawn.append(int((without + 2.0 * (with_it - without)).argmax()) + vocabulary.visual.start)
        said += [*drawn, vocabulary.eov]
    return said[:-1] if said[-1] == vocabulary.eos else said


def test_replies_equal_a_loop_without_cache(eager, builder):
    prompts = prompts_of(builder, SAID)
    found = reply(eager, builder, prompts, GREEDY, [0] * 4)
    assert found == [reference(eager, builder, prompt, 2) for prompt in prompts]
    pictures = [ids.count(builder.vocabulary.bov) for ids in found]
    assert max(pictures) > 0 and any(i < builder.vocabulary.text_size for ids in found for i in ids)


def test_a_batch_gives_what_each_prompt_gives_alone_and_pictures_are_whole(eager, builder):
    sampling = SamplingConfig(
        draw=VisualSampling(cfg_scale=1.5), text=TextSampling(top_k=400, max_new_tokens=12)
    )
    prompts, seeds, vocabulary = prompts_of(builder, SAID), [3, 4, 5, 6], builder.vocabulary
    seen = []
    together = reply(eager, builder, prompts, sampling, seeds, on_token=lambda ids: seen.append(ids.shape[1]))
    alone = [reply(eager, builder, [p], sampling, [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert together == alone and together != reply(eager, builder, prompts, sampling, [7, 8, 9, 10])
    assert len({ids.count(vocabulary.bov) for ids in together}) > 1  # some drew, some did not, or more
    for ids in together:
        starts = [i for i, token in enumerate(ids) if token == vocabulary.bov]
        assert len(starts) <= 2 and ids.count(vocabulary.eov) == len(starts)
        for start in starts:
            picture = torch.tensor(ids[start + 1 : start + 1 + NUM_TOKENS])
            assert vocabulary.is_visual(picture).all() and ids[start + 1 + NUM_TOKENS] == vocabulary.eov
    assert seen[:NUM_TOKENS] == list(range(1, NUM_TOKENS + 1))


def test_no_picture_begins_that_would_not_fit(eager, builder):
    with torch.no_grad():
        eager.get_output_embeddings().weight[builder.vocabulary.bov] *= 100
    (prompt,) = prompts_of(builder, ["a"])
    needed = len(prompt) + NUM_TOKENS + 2
    for limit, pictures in ((needed - 1, 0), (needed, 1), (2 * needed - len(prompt), 2)):
        eager.config.max_position_embeddings = limit
        (ids,) = reply(eager, builder, [prompt], GREEDY, [0], max_images=5)
        assert ids.count(builder.vocabulary.bov) == pictures


def test_a_picture_after_text_fits_too(eager, builder):
    """Text takes room as it is written: in the end there is none for a picture, which is then not begun."""
    text = TextSampling(temperature=1.0, top_k=400, max_new_tokens=12)
    sampling = SamplingConfig(draw=VisualSampling(cfg_scale=1.0), text=text)
    vocabulary, (prompt,) = builder.vocabulary, prompts_of(builder, ["a"])
    begun = []
    for limit in (len(prompt) + NUM_TOKENS + 4, 128):
        eager.config.max_position_embeddings = limit
        for ids in reply(eager, builder, [prompt] * 40, sampling, range(40), max_images=1):
            begun += [(limit, i) for i, token in enumerate(ids) if token == vocabulary.bov]
    assert all(len(prompt) + i + NUM_TOKENS + 2 <= limit for limit, i in begun)
    assert {i for limit, i in begun if limit < 128} == {0, 1, 2} and max(i for _, i in begun) > 2


def test_a_prompt_is_how_the_trained_sequence_begins(builder):
    said = turns("<image> what?", "a ring", "draw it", "here: <image>")
    (whole,) = builder.documents([conversation(said, np.stack([CODES, CODES]))])
    (prompt,) = builder.documents([conversation_prompt(said[:3], CODES[None])])
    assert whole.ids[: len(prompt)].tolist() == prompt.ids.tolist()
    assert whole.learned[len(prompt)] and len(prompt) < len(whole)


@pytest.fixture
def ddt_llama():
    torch.manual_seed(0)
    image_tokenizer = DDTTokenizer(presets()["debug"]).eval()
    text_tokenizer = make_tokenizer()
    vocabulary = extend_tokenizer(text_tokenizer, image_tokenizer.config.codebook_size)
    model = new_model(TINY, vocabulary, 0).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[vocabulary.bov] *= 20
    return DDTLlama(
        model,
        text_tokenizer,
        image_tokenizer,
        SamplingConfig(text=TextSampling(temperature=0.0, max_new_tokens=3)),
    )


def test_a_chat_remembers_what_was_said_and_drawn(ddt_llama):
    talk = Chat(ddt_llama)
    picture = Image.new("RGB", (20, 20), "red")
    first = talk.say("<image> draw another", [picture])
    assert 0 < len(first.images) <= MAX_IMAGES and first.text.count("<image>") == len(first.images)
    assert first.images[0].size == (16, 16)
    assert len(talk.codes_nT) == 1 + len(first.images) and len(talk.turns) == 2
    assert (talk.codes_nT[0] == ddt_llama.encode([picture])[0]).all()
    again = Chat(ddt_llama).say("<image> draw another", [picture])
    assert again.text == first.text
    with pytest.raises(ValueError, match="1 <image> marks for 0 images"):
        talk.say("<image>")
    ddt_llama.model.config.max_position_embeddings = 20
    with pytest.raises(ValueError, match="more than the model's 20 positions"):
        talk.say("more")
