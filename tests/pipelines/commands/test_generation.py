"""Generation of a benchmark in units: killed and gone on with, nothing committed is made twice."""

import contextlib
import json

import pytest

from ddt.eval.official.geneval import GenEval
from ddt.eval.official.problems import IncompleteError
from ddt.eval.official.vqa import OKVQA
from ddt.params import load_params
from pipelines.commands import generation
from pipelines.commands.generation import Request, generate_on_ray
from tests.eval.official.fake import FakeModel, save_image

PROMPTS = 6
FAKE = FakeModel(answers={"": "a dog"})


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """No Ray: units are done here, by a fake model."""
    FAKE.asked.clear()
    FAKE.guessed.clear()
    monkeypatch.setattr(generation, "connect", lambda resources: contextlib.nullcontext())
    monkeypatch.setattr(generation, "load_model", lambda folder, tokenizer_only: FAKE)
    monkeypatch.setattr(generation, "UNIT_CASES", 8)
    monkeypatch.setattr(GenEval, "published", 4 * PROMPTS)


def here(stop_after=None):
    """Units one by one; a kill after some of them, between commit and layout."""

    def mapper(units, worker, worker_args, resources, desc):
        for number, unit in enumerate(units):
            result = worker(**worker_args)(unit)
            if number == stop_after:
                raise KeyboardInterrupt
            yield result

    return mapper


@pytest.fixture
def params(tmp_path):
    return load_params("params.yaml", None, [f"paths.store={tmp_path / 'store'}"])


@pytest.fixture
def request_(tmp_path):
    lines = [
        {"tag": "single_object", "include": [{"class": f"c{k}", "count": 1}], "prompt": f"a photo of a c{k}"}
        for k in range(PROMPTS)
    ]
    data = tmp_path / "evaluation_metadata.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("one")
    return Request("geneval", (str(data),), None, {}, str(tmp_path / "model"), str(tmp_path / "out"), 3)


def make(params, request, stop_after=None, looked=None):
    look = (looked if looked is not None else []).append
    return generate_on_ray(params, request, request.open(), look, here(stop_after))


def test_a_killed_generation_makes_nothing_twice(params, request_, tmp_path):
    looked = []
    with pytest.raises(KeyboardInterrupt):
        make(params, request_, stop_after=1, looked=looked)
    assert len(FAKE.asked) == 16 and len(looked) == 8  # the second unit is committed, but not laid out
    assert make(params, request_, looked=looked) == 8
    assert len(FAKE.asked) == 24 and make(params, request_) == 0 and len(FAKE.asked) == 24
    pictures = sorted((tmp_path / "out").rglob("*.png"))
    assert len(pictures) == 24 and (tmp_path / "out" / "00003" / "metadata.jsonl").exists()
    stored = list((tmp_path / "store" / "images").rglob("*.png"))
    assert len(stored) == len({path.read_bytes() for path in pictures})
    # Lost outputs come back from the store.
    for path in pictures[:5]:
        path.unlink()
    assert make(params, request_) == 0 and len(FAKE.asked) == 24
    assert sorted((tmp_path / "out").rglob("*.png")) == pictures


def test_the_outputs_of_another_model_are_not_mixed_in(params, request_, tmp_path):
    make(params, request_)
    (tmp_path / "model" / "weights").write_text("two")
    with pytest.raises(ValueError, match="holds outputs of another model .* name another folder"):
        make(params, request_)


def test_cut_files_generate_nothing(params, request_, tmp_path):
    data = tmp_path / "evaluation_metadata.jsonl"
    data.write_text(data.read_text()[:-30])
    with pytest.raises(IncompleteError, match=r"1 x line that is no JSON .*:6\).* generate from complete"):
        make(params, request_)
    assert FAKE.asked == [] and not (tmp_path / "out").exists()


def test_answers_are_kept_in_their_units(params, tmp_path, monkeypatch):
    monkeypatch.setattr(OKVQA, "published", 10)
    asked = [{"question_id": k, "image_id": k, "question": f"what {k}?"} for k in range(10)]
    answers = [{"question_id": k, "answers": [{"answer": "dog", "answer_id": 1}]} for k in range(10)]
    (tmp_path / "q.json").write_text(json.dumps({"questions": asked}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": answers}))
    for k in range(10):
        save_image(tmp_path / "images" / f"COCO_val2014_{k:012d}.jpg", (k, 0, 0))
    (tmp_path / "model").mkdir()
    files = (str(tmp_path / "q.json"), str(tmp_path / "a.json"))
    images = str(tmp_path / "images")
    request = Request("okvqa", files, images, {}, str(tmp_path / "model"), str(tmp_path / "out"), 4)
    with pytest.raises(KeyboardInterrupt):
        make(params, request, stop_after=0)
    assert make(params, request) == 2 and len(FAKE.asked) == 10
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results == [{"question_id": k, "answer": "a dog"} for k in range(10)]
    # What was said to a grey picture is kept and laid out with it, and made no more often.
    blind = json.loads((tmp_path / "out" / "without_picture" / "results.json").read_text())
    assert blind == [{"question_id": k, "answer": "no"} for k in range(10)] and len(FAKE.guessed) == 10
    (tmp_path / "out" / "answers.jsonl").unlink()
    assert make(params, request) == 0 and len(FAKE.guessed) == 10
