"""Multi-turn conversations with several images; all instruction data in one order for any workers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ddt.data.text import JsonLines
from ddt.data.tokens import TokenDataset, TokenMeta, TokenShard, write_shard
from ddt.mllm import sequences as S
from ddt.mllm.batches import FinetuneBatches, FinetuneMix, PretrainBatches, PretrainMix
from ddt.mllm.conversations import conversation, cut, question_turns
from ddt.mllm.instructions import QUESTION
from tests.mllm.mllm_tiny import CODEBOOK_SIZE, META, NUM_TOKENS, rows_of
from tests.mllm.test_sequences import IMAGE, OTHER, learned_ids, spelled

NONE = np.zeros((0, NUM_TOKENS), np.int64)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "text": text} for i, text in enumerate(texts)]


def test_one_turn_is_the_answer_template(builder):
    example = conversation(turns("<image>\nHow many circles?", "two"), IMAGE[None])
    template = (S.ANSWER, {"image": IMAGE, "instruction": "How many circles?", "answer": "two"})
    ours, theirs = builder.documents([example, template])
    assert ours.ids.tolist() == theirs.ids.tolist() and ours.learned.tolist() == theirs.learned.tolist()


def test_turns_and_images_keep_their_places(builder):
    said = turns("<image> and <image>: what?", "a ring [EOV] {x}", "draw it", "here: <image>")
    (document,) = builder.documents([conversation(said, np.stack([IMAGE, OTHER, IMAGE]))])
    first, second = ["[BOV]", "v3", "v1", "v4", "v1", "[EOV]"], ["[BOV]", "v9", "v2", "v6", "v5", "[EOV]"]
    assert spelled(builder, document) == [
        "[BOS]", "USER:", *first, "and", *second, ": what? ASSISTANT: a ring [EOV] {x}", "[EOS]",
        "USER: draw it ASSISTANT: here:", *first, "[EOS]",
    ]  # fmt: skip
    answers = [[], []]
    for i in learned_ids(document):
        answers[i == builder.vocabulary.eos].append(i)
    text = builder.tokenizer.decode([i for i in answers[0] if i < builder.vocabulary.text_size])
    assert text == " a ring [EOV] {x} here:" and len(answers[1]) == 2
    assert sum(builder.vocabulary.is_visual(torch.tensor(answers[0]))) == NUM_TOKENS  # the drawn image only


def test_text_alone_and_mistakes(builder):
    (document,) = builder.documents([conversation(turns("Hello", "Hi"), NONE)])
    assert spelled(builder, document) == ["[BOS]", "USER: Hello ASSISTANT: Hi", "[EOS]"]
    with pytest.raises(ValueError, match="without a last answer"):
        conversation(turns("Hello"), NONE)
    with pytest.raises(ValueError, match="2 <image> marks for 1 images"):
        conversation(turns("<image><image>", "x"), IMAGE[None])


def test_too_long_ones_are_cut_after_an_answer_or_in_text(builder):
    vocabulary = builder.vocabulary
    said = turns("<image> what?", "a ring", "<image> and now?", "two")
    (document,) = builder.documents([conversation(said, np.stack([IMAGE, OTHER]))])
    first_end = document.ids.tolist().index(vocabulary.eos) + 1
    assert len(cut(document, len(document), vocabulary)) == len(document)
    assert len(cut(document, len(document) - 1, vocabulary)) == len(document) - 1  # loses text only
    assert len(cut(document, first_end + 7, vocabulary)) == first_end  # would end inside the second image
    assert cut(document, 5, vocabulary) is None


def test_what_does_not_fit_is_left_out_and_the_rest_goes_on(pairs, builder, tmp_path, caplog):
    said = [turns("<image>" * 20, "too many"), turns("Hello", "Hi")]
    codes = [np.zeros((20, NUM_TOKENS), int), NONE]
    columns = {"sample_id": ["long", "short"], "turns": said, "codes": codes}
    write_shard(tmp_path / "chats", columns, META, "chat")
    chats = TokenDataset.of_files([tmp_path / "chats"])
    batches = FinetuneBatches(pairs, None, builder, FinetuneMix({"chat": 1.0}), 6, 32, 0, chats)
    batch = batches.batch(0)
    assert int((batch.ids_RL == builder.vocabulary.eos).sum()) == 3  # each conversation is drawn three times
    assert "3 of 6 sequences left out" in caplog.text and "row_length = 32" in caplog.text


@pytest.fixture
def chats(tmp_path):
    rng = np.random.default_rng(3)
    counts = [1, 0, 2, 1, 3]
    columns = {
        "sample_id": [f"c{n}" for n in range(5)],
        "turns": [
            turns("<image>" * count + f"question {n}", f"answer {n}") for n, count in enumerate(counts)
        ],
        "codes": [rng.integers(0, CODEBOOK_SIZE, (count, NUM_TOKENS)) for count in counts],
    }
    write_shard(tmp_path / "chats", columns, META, "chat")
    data = TokenDataset.of_files([tmp_path / "chats", tmp_path / "chats"], "d")
    assert len(data) == 10 and TokenShard(tmp_path / "chats").codes().shape == (7, NUM_TOKENS)
    for n in range(10):
        said, codes = data.conversation(n)
        assert said == columns["turns"][n % 5] and np.array_equal(codes, columns["codes"][n % 5])
    return data


@pytest.mark.parametrize("form", QUESTION)
def test_the_first_of_many_questions_is_put_as_one_alone_is(builder, form):
    asked = [
        {"question": "How many {rings} <image>?", "answer": "two"},
        {"question": "What colour?", "answer": "red"},
    ]
    put = [form.replace("{question}", each["question"]) for each in asked]
    alone = [
        (S.ANSWER, {"image": IMAGE, "instruction": text, "answer": each["answer"]})
        for text, each in zip(put, asked, strict=True)
    ]
    (both,) = builder.documents([question_turns(asked, form, IMAGE)])
    first, second = builder.documents(alone)
    assert both.ids[: len(first)].tolist() == first.ids.tolist()
    assert both.learned[: len(first)].tolist() == first.learned.tolist()
    answer = builder.tokenizer(" red", add_special_tokens=False)["input_ids"]
    learned = both.ids[len(first) :][both.learned[len(first) :]]
    assert learned.tolist() == [*answer, builder.vocabulary.eos]
    assert learned.tolist() == second.ids[second.learned].tolist()


def test_codes_of_conversations_are_checked(tmp_path):
    columns = {"sample_id": ["a"], "turns": [turns("<image>", "x")], "codes": [[[0, 0, 0, CODEBOOK_SIZE]]]}
    with pytest.raises(ValueError, match="expected 4 codes below 32"):
        write_shard(tmp_path / "bad", columns, META, "chat")


def test_shards_of_another_tokenizer_are_refused(tmp_path, chats):
    with pytest.raises(ValueError, match="made by tokenizer d, but the tokenizer given is other"):
        TokenDataset.of_files([tmp_path / "chats"], "other")
    write_shard(
        tmp_path / "x", {"sample_id": [], "turns": [], "codes": []}, TokenMeta("e", 4, 32, "V_1..V_T"), "chat"
    )
    with pytest.raises(ValueError, match="differs from the first"):
        TokenDataset.of_files([tmp_path / "chats", tmp_path / "x"])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_number_of_workers_sees_the_same_batches_after_any_resume(
    pairs, edits, chats, builder, tmp_path, world
):
    """All sources at once: pairs, edits, questions, conversations; and pre-training with JSON lines."""
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"plain text {n}"}) for n in range(9)))
    weights = {"text_to_image": 1.0, "edit": 1.0, "caption": 1.0, "vqa": 1.0, "chat": 2.0}

    def fresh():
        tuning = FinetuneBatches(pairs, edits, builder, FinetuneMix(weights), 12, 96, seed=5, chats=chats)
        mix = PretrainMix(text_rate=0.5)
        return tuning, PretrainBatches(pairs, JsonLines.of_files([path]), builder, mix, 12, 96, seed=5)

    kinds = set(fresh()[0].tasks(np.arange(36))[0].tolist())
    assert kinds == {0, 1, 2, 3, 4}
    for one, many in zip(fresh(), fresh(), strict=True):
        whole = {step: one.batch(step) for step in range(3)}
        for step in (2, 1):  # as after a resume or a rewind: nothing depends on what was asked before
            parts = [many.batch(step, rank, world) for rank in range(world)]
            found = [row for part in parts for row in rows_of(part)]
            for row in rows_of(whole[step]):
                found.remove(row)
            assert len(found) < world and len(set(found)) <= 1  # left: empty rows that make the ranks even
            scale = {float(s) for part in parts for s in part.scale_R}
            learned = sum(int(part.learned_RL.sum()) for part in parts)
            assert learned == int(whole[step].learned_RL.sum()) and len(scale) == 1


def test_a_missing_source_is_named(pairs, builder):
    with pytest.raises(ValueError, match="mix.chat = 1.0: there are no conversations"):
        FinetuneBatches(pairs, None, builder, FinetuneMix({"chat": 1.0}), 4, 64, 0)
