"""The whole suite on a tiny real model, its report, and the photographs' variant."""

from __future__ import annotations

import io
import json
import math
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from ddt.eval.metrics import perplexity
from ddt.eval.report.evaluation import Evaluation, write_html, write_json
from ddt.eval.report.results import Result, example_sheet, spread
from ddt.eval.report.tasks import CELL_PX, SHOWN, tasks_sheet
from ddt.eval.scenes.choice import Choice
from ddt.eval.suite import BENCHMARKS, Photographs, does_not_apply, suite
from ddt.eval.text_perplexity import Perplexity, _unigram_perplexity
from ddt.mllm import DDTLlama
from ddt.mllm.build import load_tokenizer, new_model
from ddt.mllm.config import SamplingConfig, TextSampling, VisualSampling
from ddt.mllm.sequences import ANSWER, TEXT_ONLY
from ddt.mllm.vocabulary import extend_tokenizer
from ddt.scenes import weights_dir
from ddt.sections.quality import BenchmarkName
from ddt.tokenizer import DDTTokenizer, presets
from tests.mllm.mllm_tiny import TINY

SIDE_PX = 16


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    image_tokenizer = DDTTokenizer(presets()["debug"]).eval()
    text_tokenizer = load_tokenizer(weights_dir("bpe"))
    vocabulary = extend_tokenizer(text_tokenizer, image_tokenizer.config.codebook_size)
    sampling = SamplingConfig(
        VisualSampling(2.0), VisualSampling(2.0), TextSampling(temperature=0.0, max_new_tokens=4)
    )
    return DDTLlama(new_model(TINY, vocabulary, 0), text_tokenizer, image_tokenizer, sampling)


def config(*names, cases=12):
    settings = {"cases": cases, "questions": cases + 2, "seed": 3, "decode_steps": 2}
    return SimpleNamespace(benchmarks=names or tuple(BENCHMARKS), **settings)


@pytest.fixture(scope="module")
def results(model):
    found = []
    for benchmark in suite(config(), SIDE_PX):
        rows = benchmark.run(model, benchmark.cases(), batch_size=8)
        assert [row["case_id"] for row in rows] == [case["case_id"] for case in benchmark.cases()]
        found.append(Result.of(benchmark, rows))
    return found


def test_questions_are_counted_by_themselves():
    counts = {found.name: len(found.cases()) for found in suite(config("vqa", "edit"), SIDE_PX)}
    assert counts == {"vqa": 14, "edit": 12}


def test_every_benchmark_gives_finite_scores_inside_their_interval(results):
    assert [result.name for result in results] == list(BENCHMARKS)
    for result in results:
        assert result.scores
        for name, score in result.scores.items():
            assert name.startswith(result.name + "/")
            assert all(map(math.isfinite, (score.value, score.low, score.high))), name
            assert score.low - 1e-9 <= score.value <= score.high + 1e-9, (name, score)


def test_a_random_model_is_no_better_than_its_floors(results):
    scores = {name: score for result in results for name, score in result.scores.items()}
    for name in ("geneval/overall", "vqa/accuracy", "edit/success", "caption/true"):
        assert scores[name].value <= scores[name].floor + 0.2, name
    assert scores["reconstruct/psnr"].value < 20


def test_the_report_is_whole(results, tmp_path):
    settings = {"seed": 3, "model": "abc<script>"}
    evaluation = Evaluation(results, "scenes of 16 px", settings, {"x": "why"})
    write_json(tmp_path / "scores.json", evaluation)
    data = json.loads((tmp_path / "scores.json").read_text())
    assert data["settings"]["seed"] == 3 and data["does_not_apply"] == {"x": "why"}
    score = data["scores"]["geneval/overall"]
    told = {"value", "low", "high", "n", "ceiling", "floor", "floor_is", "higher_is_better"}
    assert set(score) == told | {"tokenized_ceiling", "baseline", "baseline_is"}
    compared = {name.split("/")[0] for name, score in data["scores"].items() if score["baseline"] is not None}
    assert compared == {"recursion"}
    drawn = {name for name, score in data["scores"].items() if score["tokenized_ceiling"] is not None}
    assert {name.split("/")[0] for name in drawn} == {"geneval", "t2i", "edit", "recursion"}
    assert len(data["beside_the_paper"]) == 14 + 6 + 9 + 2
    write_html(tmp_path / "report.html", evaluation)
    page = (tmp_path / "report.html").read_text()
    assert "abc&lt;script&gt;" in page and "<script" not in page
    assert "http" not in page  # self-contained
    for result in results:
        assert result.title in page or result.title.replace("'", "&#x27;") in page
    assert "<th>through the tokenizer</th>" in page and "ground truth through the tokenizer: " in page
    _Balanced().check(page)


class _Balanced(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def check(self, page: str) -> None:
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Such as <circle .../>: opened and closed at once."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_sheets(results):
    sheets = {result.name: example_sheet(result) for result in results}
    assert sheets["perplexity"] is None
    assert sheets["edit"].width > 4 * 192


def test_the_sheet_of_tasks_shows_the_first_case_of_each_whatever_became_of_it(model):
    made = {each.name: each.run(model, each.cases(), 6) for each in suite(config(*SHOWN), SIDE_PX)}
    sheet = tasks_sheet(made)
    lines = sheet.height / CELL_PX
    assert 3 < lines < 5.5  # an edit's two pictures share a cell
    turned = {name: [{**row, "correct": 1.0 - row["correct"]} for row in rows] for name, rows in made.items()}
    assert tasks_sheet(turned).tobytes() != sheet.tobytes()  # the verdict is told
    assert tasks_sheet({**made, "edit": []}) is None


def test_files_from_benchmarks_and_rows(model, tmp_path):
    benchmarks = suite(config("vqa", "edit"), SIDE_PX)
    results = [Result.of(each, each.run(model, each.cases(), 6)) for each in benchmarks]
    write_html(tmp_path / "report.html", Evaluation(results, "scenes"))
    page = (tmp_path / "report.html").read_text()
    assert page.count("vqa/accuracy</td>") == 1 and page.count("edit/l1</td>") == 1
    assert page.count("data:image/png;base64,") == 8 + 3 * 8  # all wrong; eight of each are shown


def test_examples_take_turns_between_tasks():
    rows = [{"task": task, "case_id": f"{task}{i}"} for task in "ab" for i in range(5)]
    found = spread(rows, lambda row: row["task"], 4)
    assert [row["case_id"] for row in found] == ["a0", "a1", "b0", "b1"]


def test_photographs_get_what_applies(model):
    rng = np.random.default_rng(0)
    images = []
    for _ in range(3):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 24, 3), dtype=np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    photographs = Photographs(images, ["a cat", "two dogs on grass", "sky"])
    asked = config("reconstruct", "geneval", "perplexity")
    benchmarks = suite(asked, SIDE_PX, photographs)
    assert [benchmark.name for benchmark in benchmarks] == ["reconstruct", "perplexity"]
    assert list(does_not_apply(asked, photographs)) == ["geneval"]
    assert "photographs" in does_not_apply(asked, photographs)["geneval"]
    assert does_not_apply(asked, None) == {}
    for benchmark in benchmarks:
        rows = benchmark.run(model, benchmark.cases(), 2)
        assert len(rows) == 3
        assert all(score.n == 3 for score in benchmark.summarize(rows).values())


def test_params_know_every_benchmark():
    assert get_args(BenchmarkName) == tuple(BENCHMARKS)


def test_unknown_benchmark_is_named():
    with pytest.raises(ValueError, match="unknown 'genevil', allowed are reconstruct"):
        suite(config("genevil"), SIDE_PX)
    with pytest.raises(ValueError, match="named twice"):
        suite(config("vqa", "vqa"), SIDE_PX)


def test_choice_takes_the_option_the_model_finds_likeliest(model):
    benchmark = Choice(8, 2, SIDE_PX)
    rows = benchmark.run(model, benchmark.cases(), 4)
    for row in rows:
        options = json.loads(row["data"])["options"]
        picture = Image.open(io.BytesIO(row["source"]))
        losses = []
        for option in options:
            values = {"image": model.encode([picture])[0], "instruction": row["prompt"], "answer": option}
            (document,) = model.builder.documents([(ANSWER, values)])
            answer = np.flatnonzero(document.learned)[:-1]  # without [EOS]
            with torch.no_grad():
                logits = model.model(input_ids=torch.from_numpy(document.ids)[None]).logits[0]
            losses.append(math.log(perplexity(logits[answer - 1], document.ids[answer])))
        assert row["output"] == options[int(np.argmin(losses))]


def test_perplexity_is_that_of_the_whole_text_one_by_one(model):
    benchmark = Perplexity(6, 1, SIDE_PX)
    rows = benchmark.run(model, benchmark.cases(), batch_size=6)
    total, count = 0.0, 0
    for case in benchmark.cases():
        (document,) = model.builder.documents([(TEXT_ONLY, {"text": case["prompt"]})])
        ids = torch.from_numpy(document.ids[:-1])[None]
        with torch.no_grad():
            logits = model.model(input_ids=ids).logits[0, :-1]
        alone = perplexity(logits, ids[0, 1:])
        total, count = total + math.log(alone) * (ids.shape[1] - 1), count + ids.shape[1] - 1
    scores = benchmark.summarize(rows)
    assert scores["perplexity/text"].value == pytest.approx(math.exp(total / count), rel=1e-4)
    for name in ("text", "short", "detailed"):  # an untrained model is worse
        assert 1 < scores[f"perplexity/{name}"].floor < scores[f"perplexity/{name}"].value
    assert _unigram_perplexity([[5, 6], [7, 8]]) == pytest.approx(4)
    assert _unigram_perplexity([[5, 5, 5], [5]]) == pytest.approx(1)
