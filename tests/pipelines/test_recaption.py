"""`recaption`: faulty captions asked for once more and rejected, answers kept and found again, same bytes.

The worker runs here without Ray's actors; in the first tests its model is a table of what it answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddt.data import captioner
from ddt.data.caption_faults import Answer
from ddt.data.captioner import Captioner, Gumbel
from ddt.data.decode import decode_rgb
from ddt.manifest import Commit, Manifest, write_unit
from ddt.params import Params, load_params
from ddt.records import RECORD_SCHEMA, read_shard, write_shard
from ddt.scenes.photo import jpeg_bytes
from ddt.scenes.render import render
from ddt.scenes.sample import sample_scene
from ddt.store import Store, open_store
from pipelines import recaption, score
from pipelines.engine.runner import StageContext, StageError
from pipelines.recaption import RecaptionWorker, captioner_id
from tests.data.pictures import encode
from tests.pipelines.test_own_data import one_after_another

ROOT = Path(__file__).resolve().parents[2]
PARAMS = load_params(ROOT / "params.yaml").recaption
SORRY = Answer("I'm sorry, I can't.", True)


class Scripted:
    """Answers by what a picture's corner shows and how often it was asked; `asked` has each call's batch."""

    def __init__(self, answers: dict[int, list[Answer]]) -> None:
        self.answers, self.asked = answers, list[list[int]]()
        self.temperatures, self.seeds = list[float](), list[int]()

    def read(self, data: bytes) -> int:
        return number(data)

    def answer(self, images: Sequence[int], temperature: float, seeds: Sequence[int]) -> list[Answer]:
        self.asked.append(list(images))
        self.temperatures.append(temperature)
        self.seeds += seeds
        return [self.answers[image].pop(0) for image in images]


def picture(number: int) -> bytes:
    return encode(Image.new("RGB", (8, 8), (number, 0, 0)))


def number(data: bytes) -> int:
    return decode_rgb(data).getpixel((0, 0))[0]


def records(store: Store, images: Sequence[bytes], key: str = "records.arrow") -> str:
    row = dict.fromkeys(RECORD_SCHEMA.names, "") | {"width": 8, "height": 8, "questions": []}
    rows = [
        row | {"sample_id": f"{i:064x}", "image": data, "caption": "a circle"}
        for i, data in enumerate(images)
    ]
    path = Path(store.root_uri) / "made.arrow"
    write_shard(path, rows, RECORD_SCHEMA)
    store.put_file(key, path)
    return key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def worker(
    store: Store, monkeypatch: pytest.MonkeyPatch, model: Any, fingerprint: str = "f" * 64, **section: Any
) -> RecaptionWorker:
    monkeypatch.setattr(captioner, "Captioner", lambda *_, **__: model)
    params = dataclasses.replace(PARAMS, **section)
    return RecaptionWorker("recaption", fingerprint, store.root_uri, {"params": params})


def unit(key: str, name: str = "a") -> dict[str, str]:
    return {"unit": f"{name * 32}", "records": key, "shard": "5" * 32}


def captions(store: Store, made: dict[str, Any]) -> list[str]:
    return read_shard(store.fetch(made["key"]))["long_caption"].to_pylist()


def test_faulty_captions_are_asked_for_once_more_then_rejected(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, cut = Answer("a cat on a mat", True), Answer("a cat on", False)
    model = Scripted({1: [good], 2: [SORRY, good], 3: [cut, SORRY], 4: [SORRY, cut]})
    key = records(store, [picture(n) for n in (1, 2, 3, 1, 4, 3)])
    made = worker(store, monkeypatch, model, batch_size=3, temperature=0.2)(unit(key))
    assert model.asked == [[1, 2, 3], [4], [2, 3, 4]], "copies once, full batches, then those with a fault"
    assert model.temperatures == pytest.approx([0.2, 0.2, 0.7])
    assert captions(store, made) == [good.text, good.text, "", good.text, "", ""]
    assert made["rows"] == 6 and made["rejects"] == {"refusal": 2, "truncated": 1}
    assert made["stats"]["retried"] == 4 and made["stats"]["words"] == 15
    told = read_shard(store.fetch(made["rejects_key"])).to_pylist()
    assert [(row["sample_id"][-1], row["reason"], row["text"]) for row in told] == [
        ("2", "refusal", SORRY.text), ("4", "truncated", cut.text), ("5", "refusal", SORRY.text),
    ]  # fmt: skip


def test_seeds_are_of_the_image_and_the_attempt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scripted({n: [SORRY, SORRY] for n in (1, 2)})
    worker(store, monkeypatch, model)(unit(records(store, [picture(1), picture(2)])))
    digests = [int.from_bytes(hashlib.sha256(picture(n)).digest()[:7], "big") for n in (1, 2)]
    assert model.seeds == [*digests, *(seed + 1 for seed in digests)]


def test_answers_are_found_again_by_image_and_captioner(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {n: Answer(f"caption {'abcdefgh'[n]} of a picture", True) for n in range(8)}
    whole = records(store, [picture(n) for n in range(5)])
    first = worker(store, monkeypatch, Scripted({n: [words[n]] for n in range(5)}))(unit(whole))

    none = Scripted({})
    again = worker(store, monkeypatch, none, "e" * 64, max_reject_rate=0.5)(unit(whole, "b"))
    assert none.asked == [] and again["sha256"] == first["sha256"], "in another version of the stage"

    other = records(store, [picture(n) for n in (6, 3, 1)], "filtered.arrow")
    some = Scripted({6: [words[6]]})
    made = worker(store, monkeypatch, some, "d" * 64)(unit(other, "c"))
    assert some.asked == [[6]] and captions(store, made) == [words[n].text for n in (6, 3, 1)]
    [kept] = store.list("captions/")
    assert kept == f"captions/{captioner_id(PARAMS)}/{'5' * 32}.arrow"
    assert len(read_shard(store.fetch(kept))) == 3, "of what a shard does not have any more nothing is kept"

    for name, value in (("prompt", "What is it?"), ("temperature", 0.5), ("max_new_tokens", 7)):
        asked = Scripted({n: [words[n]] for n in (6, 3, 1)})
        worker(store, monkeypatch, asked, name, **{name: value})(unit(other))
        assert asked.asked == [[6, 3, 1]]


def test_what_a_cached_answer_is_worth_is_judged_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = records(store, [picture(1)])
    monkeypatch.setattr(recaption, "fault", lambda answer: None)
    first = worker(store, monkeypatch, Scripted({1: [SORRY]}))(unit(key))
    assert captions(store, first) == [SORRY.text]
    monkeypatch.undo()
    model = Scripted({1: [Answer("a mat", True)]})
    made = worker(store, monkeypatch, model, "e" * 64)(unit(key, "b"))
    assert captions(store, made) == ["a mat"] and model.temperatures == [recaption.WARMER], (
        "the second attempt"
    )


@pytest.fixture(scope="module")
def scenes() -> list[bytes]:
    rng = np.random.default_rng(4)
    return [jpeg_bytes(render(sample_scene(rng), 32)) for _ in range(24)]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_with_a_real_model_a_caption_does_not_depend_on_what_was_kept(
    store: Store, scenes: list[bytes], temperature: float
) -> None:
    """Cold, and with the answers to some of the images there already: other batches, the same bytes."""
    params = dataclasses.replace(PARAMS, batch_size=8, temperature=temperature)
    made = {}
    for name, kept in (("cold", []), ("warm", scenes[1:24:3])):
        place = open_store(f"{store.root_uri}/{name}")
        run = RecaptionWorker("recaption", "f" * 64, place.root_uri, {"params": params})
        if kept:
            run(unit(records(place, kept, "some.arrow"), "a"))
        made[name] = run(unit(records(place, scenes), "b"))
    assert made["cold"]["sha256"] == made["warm"]["sha256"]
    assert len(set(captions(open_store(f"{store.root_uri}/cold"), made["cold"]))) > 12


def test_short_answers_are_known_from_those_that_are_cut(scenes: list[bytes]) -> None:
    """By what the same model writes with a higher limit."""
    images = [decode_rgb(data) for data in scenes[:8]]
    whole = Captioner("scenes:captioner", max_new_tokens=60, batch_size=8, device="cpu").answer(images)
    assert all(answer.ended for answer in whole)
    cut = Captioner("scenes:captioner", max_new_tokens=6, batch_size=8, device="cpu").answer(images)
    assert not any(answer.ended for answer in cut)
    assert all(a.text.startswith(b.text) and a.text != b.text for a, b in zip(whole, cut, strict=True))


def test_noise_draws_from_the_softmax_and_each_row_for_itself() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    rows, temperature = 4000, 1.5
    noisy = Gumbel(temperature, range(rows), torch.device("cpu"))(torch.empty(0), logits.expand(rows, -1))
    drawn = noisy.argmax(1).bincount(minlength=4) / rows
    wanted = torch.softmax(logits / temperature, 0)
    assert torch.allclose(drawn, wanted, atol=4 * float((wanted * (1 - wanted) / rows).sqrt().max()))
    alone = Gumbel(temperature, [7], torch.device("cpu"))(torch.empty(0), logits[None])
    assert torch.equal(alone[0], noisy[7])


def ingested(store: Store, images: Sequence[bytes], name: str) -> Commit:
    stats = {"role": "pairs", "name": name, "folder": "crawl"}
    path = Path(store.fetch(records(store, images)))
    return write_unit(store, "ingest", "0" * 64, name[0] * 32, path, len(images), stats=stats)


def context(store: Store, folder: Path, params: Params, *shards: Commit) -> StageContext:
    inputs = {"ingest": Manifest("ingest", "0" * 64, {}, shards)}
    return StageContext("recaption", params, params.recaption, store, folder, "f" * 64, inputs)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(recaption, "run_most_units", one_after_another)
    yield


def test_the_stage_stops_where_too_many_are_rejected(
    alone: None, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Answer("a cat on a mat", True)
    shard = ingested(store, [picture(n) for n in range(10)], "a.tar")
    for limit, stops in ((0.2, False), (0.19, True)):
        answers = {n: [SORRY, Answer("one", False)] if n in (3, 4) else [good] for n in range(10)}
        monkeypatch.setattr(captioner, "Captioner", lambda *_, a=answers, **__: Scripted(a))
        params = load_params(ROOT / "params.yaml", overrides=[f"recaption.max_reject_rate={limit}"])
        ctx = context(store, tmp_path, params, shard)
        if stops:
            told = (
                r"^recaption: captions: 2 of 10 samples lost \(truncated 2\), more than "
                r"recaption.max_reject_rate = 0.19; the first: 0+: truncated, 'one'$"
            )
            with pytest.raises(StageError, match=told):
                recaption.run(ctx)
            continue
        result = recaption.run(ctx)
        metrics = {"captions": 8, "words_per_caption": 5, "retried": 2, "rejected": 2}
        assert result.report.metrics == {f"recaption/{name}": value for name, value in metrics.items()}
        head, *rows = result.report.tables["Rejected captions (some)"]
        assert [row[1:] for row in rows] == [["truncated", "one"]] * 2
        assert result.extra == {"captioner": captioner_id(params.recaption)}


def test_a_pair_without_a_caption_has_no_score(
    alone: None, store: Store, scenes: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The native one is scored as ever; the means are of the scores that there are."""
    params = load_params(ROOT / "params.yaml")
    shard = ingested(store, scenes[:3], "a.tar")

    class Silent(Scripted):
        def read(self, data: bytes) -> int:
            return scenes.index(data)

    model = Silent({0: [Answer("a red circle", True)], 1: [SORRY, SORRY], 2: [Answer("a blue square", True)]})
    monkeypatch.setattr(captioner, "Captioner", lambda *_, **__: model)
    monkeypatch.setattr(recaption, "_check_rejects", lambda *_: None)
    captioned = recaption.run(context(store, tmp_path, params, shard)).commits
    made = Manifest("recaption", "f" * 64, {}, tuple(captioned))
    monkeypatch.setattr(score, "run_most_units", one_after_another)
    ctx = StageContext("score", params, params.score, store, tmp_path, "e" * 64, {"recaption": made})
    result = score.run(ctx)
    rows = read_shard(store.fetch(result.commits[0].key)).to_pylist()
    generated = [row["generated_score"] for row in rows]
    assert np.isnan(generated).tolist() == [False, True, False]
    assert not any(np.isnan(row["native_score"]) for row in rows)
    assert result.report.metrics["score/generated_mean"] == pytest.approx((generated[0] + generated[2]) / 2)
