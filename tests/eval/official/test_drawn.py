"""GenEval and T2I-CompBench and DrawBench on small official files: layout, resume, scores, bad input."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddt.data.clip_score import ClipScorer
from ddt.eval.metrics import geneval as geneval_metric
from ddt.eval.official import evaluate, open_benchmark
from ddt.eval.official import geneval as geneval_module
from ddt.eval.official import t2i as t2i_module
from ddt.eval.official.drawbench import DrawBench, clips
from ddt.eval.official.geneval import GenEval, detections_of
from ddt.eval.official.problems import IncompleteError
from ddt.eval.official.t2i import PUBLISHED, T2ICompBench
from ddt.eval.scorers import ColorClassifier, Scorers, open_detector, open_phrases
from tests.eval.official import tiny
from tests.eval.official.fake import FakeModel, generate, save_image

# Three lines as published.
GENEVAL = [
    '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}',
    '{"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": '
    '[{"class": "clock", "count": 3}], "prompt": "a photo of two clocks"}',
    '{"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}], '
    '"prompt": "a photo of a red apple"}',
]


@pytest.fixture
def geneval(tmp_path, monkeypatch):
    monkeypatch.setattr(GenEval, "published", 12)
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("\n".join(GENEVAL) + "\n")
    return path


def open_geneval(path):
    return open_benchmark("geneval", [path])


def test_geneval_layout_and_resume(geneval, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        generate(open_geneval(geneval), FakeModel(stop_after=7), out, batch_size=2)
    first = FakeModel()
    assert generate(open_geneval(geneval), first, out, batch_size=5) == 12 - 6 == len(first.asked)
    assert generate(open_geneval(geneval), FakeModel(stop_after=0), out, batch_size=5) == 0
    assert json.loads((out / "00001" / "metadata.jsonl").read_text()) == json.loads(GENEVAL[1])
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert names == [f"{prompt:05d}/samples/{k:04d}.png" for prompt in range(3) for k in range(4)]
    assert len({path.read_bytes() for path in out.rglob("*.png")}) == 12


def detections(out):
    """Every bench and apple is there (half of the apples red), and three clocks."""
    found = {}
    for k in range(4):
        found[f"00000/samples/{k:04d}.png"] = [["bench", 0, 0, 9, 9, 0.95, ""]]
        found[f"00001/samples/{k:04d}.png"] = [["clock", 0, 0, 9, 9, 0.95, ""]] * 3
        color = "red" if k % 2 else "green"
        found[f"00002/samples/{k:04d}.png"] = [["apple", 0, 0, 9, 9, 0.95, color]]
    out.write_text(json.dumps(found))
    return out


def test_geneval_scores_precomputed_detections(geneval, tmp_path):
    benchmark, out = open_geneval(geneval), tmp_path / "out"
    generate(benchmark, FakeModel(), out, batch_size=8)
    scorers = Scorers(precomputed={"detections": detections(tmp_path / "found.json")})
    result = evaluate(benchmark, out, scorers)
    values = {name: score["value"] for name, score in result["scores"].items()}
    expected = {"single_object": 1, "counting": 0, "colors": 0.5, "overall": 0.5}
    assert values == {f"geneval/{name}": pytest.approx(value) for name, value in expected.items()}
    assert result["scores"]["geneval/overall"]["floor"] < 0.5
    assert result["coverage"] == {"scored": 12, "cases": 12, "share": 1.0}
    assert result["scorers"]["detections"].endswith("found.json")
    assert list(result["data"]) == [str(geneval)] and not result["problems"]


def test_geneval_takes_the_official_verdicts(geneval, tmp_path):
    benchmark, out = open_geneval(geneval), tmp_path / "out"
    generate(benchmark, FakeModel(), out, batch_size=8)
    rows = [
        {"filename": f"/elsewhere/{case.output}", "tag": case.group, "correct": case.group == "colors"}
        for case in benchmark.cases
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = evaluate(benchmark, out, Scorers(precomputed={"verdicts": path}))
    assert result["scores"]["geneval/overall"]["value"] == pytest.approx(1 / 3)
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(ValueError, match="no verdict on 11 images"):
        evaluate(benchmark, out, Scorers(precomputed={"verdicts": path}))


class Varied(FakeModel):
    """Draws pictures of many colours: what a detector finds in a plain one is its rounding."""

    def generate_image(self, prompts, seed):
        plain = super().generate_image(prompts, seed)
        noise = np.random.default_rng(seed[0]).integers(0, 256, (len(plain), 16, 16, 3), np.uint8)
        return [Image.blend(p, Image.fromarray(n), 0.5) for p, n in zip(plain, noise, strict=True)]


def test_geneval_scores_what_a_detector_and_a_clip_find(geneval, tmp_path, monkeypatch):
    """As it scores the same finds from a file."""
    for module in (geneval_module, geneval_metric):
        monkeypatch.setattr(module, "THRESHOLD", 0.0)  # what is random is never sure
    benchmark, out = open_geneval(geneval), tmp_path / "out"
    generate(benchmark, Varied(), out, batch_size=8)
    models = {
        "detector": tiny.mask2former(tmp_path / "detector", ("bench", "clock", "apple")),
        "clip": tiny.clip(tmp_path / "clip"),
    }
    result = evaluate(benchmark, out, Scorers(models, device="cpu"))
    assert set(result["scorers"]) == {"detector", "clip"}
    detector, colors = (
        open_detector(models["detector"], "cpu"),
        ColorClassifier(ClipScorer(models["clip"], "cpu")),
    )
    found = {
        case.output: detections_of(case.data, out / case.output, detector, colors) for case in benchmark.cases
    }
    assert {row[0] for rows in found.values() for row in rows} >= {"bench", "apple"}
    assert any(row[-1] for rows in found.values() for row in rows)  # a colour
    (tmp_path / "found.json").write_text(json.dumps(found))
    stored = evaluate(benchmark, out, Scorers(precomputed={"detections": tmp_path / "found.json"}))
    assert stored["scores"] == result["scores"] and result["scores"]["geneval/single_object"]["value"] > 0


def test_geneval_names_what_is_wrong_with_outputs(geneval, tmp_path):
    benchmark, out = open_geneval(geneval), tmp_path / "out"
    generate(benchmark, FakeModel(), out, batch_size=8)
    (out / "00000/samples/0002.png").unlink()
    (out / "00001/samples/0001.png").write_bytes(b"\x89PNG cut")
    save_image(out / "00002/samples/0004.png", "red")
    (out / "00002/metadata.jsonl").write_text(GENEVAL[1])
    scorers = Scorers(precomputed={"detections": detections(tmp_path / "found.json")})
    with pytest.raises(IncompleteError) as refused:
        evaluate(benchmark, out, scorers)
    for named in (
        f"1 x missing image ({out}/00000/samples/0002.png for {geneval}:1)",
        f"1 x unreadable image ({out}/00001/samples/0001.png",
        f"1 x metadata of another prompt, or cut: pictures not scored ({out}/00002/metadata.jsonl for "
        f"{geneval}:3)",
        "--partial",
    ):
        assert named in str(refused.value)
    result = evaluate(benchmark, out, scorers, partial=True)
    assert result["coverage"] == {"scored": 6, "cases": 12, "share": 0.5}
    assert result["problems"]["extra image, not scored"]["first"] == [f"{out}/00002/samples/0004.png"]
    assert result["scores"]["geneval/single_object"]["n"] == 3
    assert "geneval/colors" not in result["scores"]
    (out / "00001/metadata.jsonl").write_text('{"tag": "counting", "incl')
    (out / "00002/metadata.jsonl").unlink()
    result = evaluate(benchmark, out, scorers, partial=True)
    assert result["problems"]["metadata of another prompt, or cut: pictures not scored"] == {
        "count": 1, "first": [f"{out}/00001/metadata.jsonl for {geneval}:2"],
    }  # fmt: skip
    assert result["problems"]["metadata missing"]["first"] == [f"{out}/00002/metadata.jsonl for {geneval}:3"]
    assert "geneval/counting" not in result["scores"] and result["scores"]["geneval/colors"]["n"] == 4


def test_nothing_left_to_score_says_why(geneval, tmp_path):
    path = tmp_path / "out" / "00000" / "samples" / "0000.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no picture")
    with pytest.raises(IncompleteError, match=r"1 x unreadable image \(.*0000.png.*no case is left to score"):
        evaluate(open_benchmark("geneval", [geneval]), tmp_path / "out", Scorers(), partial=True)


def test_geneval_names_what_is_wrong_with_its_file(geneval, tmp_path):
    geneval.write_text("\n".join([*GENEVAL, GENEVAL[0], GENEVAL[2][:40]]))
    benchmark = open_geneval(geneval)
    with pytest.raises(IncompleteError) as refused:
        generate(benchmark, FakeModel(), tmp_path / "out", 4)
    assert f"1 x line that is no JSON ({geneval}:5)" in str(refused.value)
    assert f"1 x duplicate prompt ({geneval}:4, first at {geneval}:1)" in str(refused.value)
    geneval.write_text("\n".join(GENEVAL[:2]))
    assert "number of cases that is not the published 12" in open_geneval(geneval).problems.to_dict()


def test_a_bad_line_of_geneval_keeps_its_number(geneval, tmp_path):
    out = tmp_path / "out"
    generate(open_geneval(geneval), FakeModel(), out, batch_size=8)
    scorers = Scorers(precomputed={"detections": detections(tmp_path / "found.json")})
    for bad in (GENEVAL[0][:30], "", '{"tag": "single_object", "prompt": "x", "include": []}'):
        geneval.write_text("\n".join([bad, *GENEVAL[1:]]))
        benchmark = open_geneval(geneval)
        assert [case.id for case in benchmark.cases][::4] == ["00001/0", "00002/0"]
        result = evaluate(benchmark, out, scorers, partial=True)
        assert result["scores"]["geneval/colors"]["value"] == 0.5 and result["coverage"]["scored"] == 8
        assert "metadata of another prompt, or cut: pictures not scored" not in result["problems"]


def test_geneval_leaves_another_prompts_metadata_as_it_is(geneval, tmp_path):
    """A prompt file in another order doesn't take over the pictures that are there."""
    out = tmp_path / "out"
    generate(open_geneval(geneval), FakeModel(), out, batch_size=8)
    geneval.write_text("\n".join([GENEVAL[1], GENEVAL[0], GENEVAL[2]]))
    benchmark = open_geneval(geneval)
    assert generate(benchmark, FakeModel(), out, batch_size=8) == 0
    with pytest.raises(IncompleteError, match="2 x metadata of another prompt"):
        evaluate(benchmark, out, Scorers())


T2I_PROMPTS = ["a red dog and a blue cat", "a cat on the left of a dog"]


def as_published(monkeypatch, prompts):
    """Let the prompts be those that the benchmark published in the files of these names."""
    for name, lines in prompts.items():
        monkeypatch.setitem(PUBLISHED, name, hashlib.sha256("\n".join(lines).encode()).hexdigest())


@pytest.fixture
def t2i(tmp_path, monkeypatch):
    monkeypatch.setattr(T2ICompBench, "published", 20)
    path = tmp_path / "val.txt"
    path.write_text("\n".join(T2I_PROMPTS))
    as_published(monkeypatch, {name: T2I_PROMPTS for name in PUBLISHED})
    phrases = {
        T2I_PROMPTS[0]: {"tokens": [["dog", "NOUN"], ["cat", "NOUN"]], "chunks": ["a red dog", "a blue cat"]},
        T2I_PROMPTS[1]: {"tokens": [["cat", "NOUN"], ["dog", "NOUN"]], "chunks": ["a cat", "the left"]},
    }
    (tmp_path / "phrases.json").write_text(json.dumps(phrases))
    return path


def t2i_outputs(name, files, tmp_path):
    benchmark, out = open_benchmark(name, files), tmp_path / name
    generate(benchmark, FakeModel(), out, batch_size=8)
    return benchmark, out


def test_t2i_file_names_and_blip(t2i, tmp_path):
    benchmark, out = t2i_outputs("t2i_color", [t2i], tmp_path)
    assert (out / "samples" / "a cat on the left of a dog_000019.png").is_file()
    assert len(list((out / "samples").iterdir())) == 20
    scorers = Scorers({"blip": tiny.blip(tmp_path / "blip")}, {"phrases": tmp_path / "phrases.json"}, "cpu")
    value = evaluate(benchmark, out, scorers)["scores"]["t2i/color"]["value"]
    # A random model is close to one half for each chunk: two chunks, and one (the left is dropped).
    assert value == pytest.approx((0.25 + 0.5) / 2, abs=0.05)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([T2I_PROMPTS[0], T2I_PROMPTS[1][:-2]], "prompts cut, or other than those published"),
        ([T2I_PROMPTS[0]], "prompts cut, or other than those published"),
        ([T2I_PROMPTS[0], T2I_PROMPTS[0]], "duplicate prompt"),
        ([T2I_PROMPTS[0], "", T2I_PROMPTS[1]], "prompt that can't be a file name"),
        (["a_b", T2I_PROMPTS[1]], "prompt that can't be a file name"),
    ],
)
def test_t2i_prompts_are_those_published(lines, told, t2i, tmp_path):
    for ending in ("\n", "\r\n"):
        t2i.write_bytes((ending.join(T2I_PROMPTS) + ending).encode())
        assert not open_benchmark("t2i_color", [t2i]).problems
        t2i.write_bytes(ending.join(lines).encode())
        with pytest.raises(IncompleteError, match=f"1 x {told} .*{t2i}"):
            open_benchmark("t2i_color", [t2i]).problems.refuse("")


def test_t2i_prompts_keep_the_number_of_their_line(t2i):
    t2i.write_text("\n".join(["a_b", "", T2I_PROMPTS[1]]))
    assert open_benchmark("t2i_color", [t2i]).cases[0].output == f"samples/{T2I_PROMPTS[1]}_000020.png"


STORED = [{"question_id": index, "answer": "0.5000"} for index in range(20)]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([*STORED, {"question_id": 3, "answer": 1}], r"second score of an image \({path} item 21: 3\)"),
        ([*STORED[:19], {"question_id": None, "answer": 1}], r"item whose question_id is not .* item 20\)"),
        (
            [*STORED[:19], {"question_id": 19, "answer": "NaN"}],
            r"item whose answer is not a finite .* item 20",
        ),
        ([*STORED[:19], {"question_id": 19, "answer": float("inf")}], "item whose answer is not a finite"),
        ([*STORED[:19], {"question_id": 19, "answer": "high"}], "item whose answer is not a finite number"),
        (STORED[:19], "no score of 1 images, first 000019"),
    ],
)
def test_t2i_scores_of_official_scripts_are_checked(rows, told, t2i, tmp_path):
    benchmark, out = t2i_outputs("t2i_color", [t2i], tmp_path)
    path = tmp_path / "vqa_result.json"
    scorers = Scorers(precomputed={"attribute": path})
    path.write_text(json.dumps(STORED))
    assert evaluate(benchmark, out, scorers)["scores"]["t2i/color"]["value"] == 0.5
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=told.replace("{path}", str(path))):
        evaluate(benchmark, out, scorers, partial=True)


def test_t2i_spatial_by_unidets_detections_and_by_a_detector(t2i, tmp_path):
    benchmark, out = t2i_outputs("t2i_spatial", [t2i], tmp_path)
    boxes = [["cat", 10, 10, 50, 50, 1.0], ["dog", 300, 10, 350, 50, 0.8]]
    stored = tmp_path / "unidet.json"
    found = {path.name: boxes for path in (out / "samples").iterdir()}
    stored.write_text(json.dumps(found))
    phrases = tmp_path / "phrases.json"
    result = evaluate(benchmark, out, Scorers(precomputed={"phrases": phrases, "detections": stored}))
    # 0.25 + 0.2 + 0.5 where the cat is on the left, 0.45 (below the cut) where no place is asked for.
    assert result["scores"]["t2i/spatial"]["value"] == pytest.approx(0.95 / 2, abs=1e-6)
    # The floor scores pictures for the prompt of another one: with nothing found on the other prompt's, less.
    stored.write_text(json.dumps({name: found[name] if "left" in name else [] for name in found}))
    score = evaluate(benchmark, out, Scorers(precomputed={"phrases": phrases, "detections": stored}))
    score = score["scores"]["t2i/spatial"]
    stored.write_text(json.dumps({name: [["cat", 10, 10, 50, 50]] for name in found}))
    with pytest.raises(
        ValueError, match=r"unidet.json: .*detection 1: expected a list of .label, x1, y1, x2"
    ):
        evaluate(benchmark, out, Scorers(precomputed={"phrases": phrases, "detections": stored}))
    assert score["value"] == pytest.approx(0.95 / 2, abs=1e-6) and score["floor_is"] == "shuffled images"
    assert 0 < score["floor"] < score["value"]


def test_t2i_spatial_scores_what_a_detector_finds(t2i, tmp_path, monkeypatch):
    """As it scores the same finds from a file; the floor's pictures are looked at for another prompt."""
    monkeypatch.setattr(t2i_module, "DETECTOR_THRESHOLD", -1.0)  # what is random is never sure
    benchmark, out = t2i_outputs("t2i_spatial", [t2i], tmp_path)
    phrases = tmp_path / "phrases.json"
    scorers = Scorers({"detector": tiny.owlv2(tmp_path / "owl")}, {"phrases": phrases}, "cpu")
    result = evaluate(benchmark, out, scorers)
    read = open_phrases(str(phrases))
    found = {
        Path(case.output).name: t2i_module._detect(out / case.output, read(case.text).tokens, scorers)
        for case in benchmark.cases
    }
    assert {row[0] for rows in found.values() for row in rows} >= {"cat", "dog"}
    (tmp_path / "found.json").write_text(json.dumps(found))
    precomputed = {"phrases": phrases, "detections": tmp_path / "found.json"}
    stored = evaluate(benchmark, out, Scorers(precomputed=precomputed))
    ours, theirs = (each["scores"]["t2i/spatial"] for each in (result, stored))
    assert (ours["value"], ours["low"], ours["high"]) == (theirs["value"], theirs["low"], theirs["high"])


def test_t2i_complex_from_official_results(t2i, tmp_path, monkeypatch):
    others = {"complex_val_spatial.txt": T2I_PROMPTS[1:], "complex_val_action.txt": ["another prompt"]}
    as_published(monkeypatch, others)
    spatial, action = tmp_path / "spatial.txt", tmp_path / "action.txt"
    spatial.write_text(T2I_PROMPTS[1] + "\n")
    action.write_text("another prompt\n")
    benchmark, out = t2i_outputs("t2i_complex", [t2i, spatial, action], tmp_path)
    precomputed = {}
    for kind, value in (("attribute", "0.9000"), ("spatial", 0.6), ("action", 0.3)):
        precomputed[kind] = tmp_path / f"{kind}.json"
        rows = [{"question_id": index, "answer": value} for index in range(20)]
        precomputed[kind].write_text(json.dumps(rows))
    result = evaluate(benchmark, out, Scorers(precomputed=precomputed))
    assert result["scores"]["t2i/complex"]["value"] == pytest.approx(((0.9 + 0.6 + 0.3) / 3 + 0.75) / 2)
    assert result["scores"]["t2i/complex"]["floor"] is None  # there are no scores of another prompt
    with pytest.raises(ValueError, match="expected complex_val.txt"):
        open_benchmark("t2i_complex", [t2i])


def test_clip_scores_of_non_spatial_and_drawbench(t2i, tmp_path, monkeypatch):
    scorers = Scorers({"clip": tiny.clip(tmp_path / "clip")}, device="cpu")
    benchmark, out = t2i_outputs("t2i_non_spatial", [t2i], tmp_path)
    assert -1 <= evaluate(benchmark, out, scorers)["scores"]["t2i/non_spatial"]["value"] <= 1
    monkeypatch.setattr(DrawBench, "published", 2)
    sheet = tmp_path / "drawbench.csv"
    sheet.write_text('\ufeffPrompt,Category\r\nA red car.,Colors\r\n"Two, or three cats",Counting\r\n')
    benchmark, out = t2i_outputs("drawbench", [sheet], tmp_path)
    scores = evaluate(benchmark, out, scorers)["scores"]
    assert set(scores) == {"drawbench/clip", "drawbench/clip_Colors", "drawbench/clip_Counting"}
    assert scores["drawbench/clip"]["floor_is"] == "shuffled images"
    second = {"clip_b32": tiny.clip(tmp_path / "second", seed=1)}
    assert set(evaluate(benchmark, out, Scorers(second, device="cpu"))["scores"]) == {
        "drawbench/clip_b32", "drawbench/clip_b32_Colors", "drawbench/clip_b32_Counting",
    }  # fmt: skip
    both = evaluate(benchmark, out, Scorers(scorers.models | second, device="cpu"))
    assert scores.items() < both["scores"].items() and len(both["scores"]) == 6
    assert both["scores"]["drawbench/clip_b32"]["value"] != scores["drawbench/clip"]["value"]
    assert both["scorers"].keys() == {"clip", "clip_b32"}
    assert clips(Scorers()) == ["clip", "clip_b32"]
    for count in ("0", "-1", "x", "1.5", "\u00b2"):
        with pytest.raises(
            ValueError, match=r"drawbench: images_a_prompt .*, expected a number of at least 1"
        ):
            open_benchmark("drawbench", [sheet], settings={"images_a_prompt": count})
    sheet.write_text("Prompt,Category\nA red car.,Colors\nA red car.,Colors\nTwo cats,Count")
    problems = open_benchmark("drawbench", [sheet]).problems.to_dict()
    assert problems["duplicate prompt"]["first"] == [f"{sheet}:3, first at {sheet}:2"]
    assert problems["row without prompt or one of the categories"]["first"] == [f"{sheet}:4"]
    with pytest.raises(ValueError, match="no setting 'clip'"):
        open_benchmark("drawbench", [sheet], settings={"clip": "x"})
