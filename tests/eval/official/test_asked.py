"""Benchmarks with text answers on small official files: results format, resume, scores, bad input."""

import json

import pytest

from ddt.eval.metrics import cider
from ddt.eval.official import evaluate, open_benchmark
from ddt.eval.official import mme as mme_module
from ddt.eval.official import pope as pope_module
from ddt.eval.official.captions import Flickr30K, NoCaps
from ddt.eval.official.gqa import GQA
from ddt.eval.official.mme import MME
from ddt.eval.official.pope import POPE, _lines_answered
from ddt.eval.official.problems import IncompleteError
from ddt.eval.official.vqa import OKVQA, VQAv2
from ddt.eval.report.compare import result_remarks
from ddt.eval.scorers import Scorers
from tests.eval.official.fake import FakeModel, generate, save_image

SCORERS = Scorers()


def value(result, name):
    return result["scores"][name]["value"]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def images(tmp_path):
    for number, name in enumerate(("one.jpg", "two.jpg", "COCO_val2014_000000000042.jpg")):
        save_image(tmp_path / "images" / name, (number, 0, 0))
    return tmp_path / "images"


POPE_LINES = [
    {"question_id": 1, "image": "one.jpg", "text": "Is there a snowboard in the image?", "label": "yes"},
    {"question_id": 2, "image": "one.jpg", "text": "Is there a car in the image?", "label": "no"},
    {"question_id": 3, "image": "two.jpg", "text": "Is there a dog in the image?", "label": "no"},
    {"question_id": 4, "image": "two.jpg", "text": "Is there a cat in the image?", "label": "yes"},
]


@pytest.fixture
def pope(tmp_path, monkeypatch):
    monkeypatch.setattr(pope_module, "QUESTIONS", 4)
    monkeypatch.setattr(POPE, "published", 12)
    lines = "".join(json.dumps(line) + "\n" for line in POPE_LINES)
    return [write(tmp_path / f"{name}.json", lines) for name in pope_module.FILES]


def test_pope_goes_on_after_an_interrupt_and_writes_json_lines(pope, images, tmp_path):
    answers = {"snowboard": "Yes", "car": "No.", "dog": "Yes, a\tdog", "cat": "yes"}
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        generate(open_benchmark("pope", pope, images), FakeModel(answers, stop_after=5), out, 2)
    assert not list(out.glob("*_answers.json"))
    with (out / "answers.jsonl").open("a") as file:
        file.write('{"id": "coco_pope_po')  # cut by a kill
    second = FakeModel(answers)
    benchmark = open_benchmark("pope", pope, images)
    assert generate(benchmark, second, out, 2) == 8 == len(second.asked)
    assert second.guessed == second.asked  # each once more, about a grey picture
    assert second.asked[0].endswith("Answer the question using a single word or phrase.")
    lines = (out / "coco_pope_random_answers.json").read_text().splitlines()
    assert json.loads(lines[2]) == {"question": POPE_LINES[2]["text"], "answer": "Yes, a dog"}
    result = evaluate(benchmark, out, SCORERS)
    assert value(result, "pope/coco_pope_random/accuracy") == 0.75
    assert value(result, "pope/f1") == pytest.approx(0.8) == value(result, "pope/f1_of_all")
    assert result["scores"]["pope/f1"]["floor"] == pytest.approx(2 / 3)


def test_pope_without_the_picture(pope, images, tmp_path):
    out = tmp_path / "out"
    right = {"snowboard": "yes", "car": "no", "dog": "no", "cat": "yes"}
    generate(open_benchmark("pope", pope, images), FakeModel(right), out, 4)
    written = (out / "without_picture" / "coco_pope_popular_answers.json").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in written] == ["no"] * 4
    result = evaluate(open_benchmark("pope", pope, images), out, SCORERS)
    blind = result["without_the_picture"]
    accuracy = blind["pope/coco_pope_random/accuracy"]
    assert accuracy["value"] == 0.5 and accuracy["low"] < 0.5 < accuracy["high"]
    assert blind["pope/f1"]["value"] == 0
    # The better of the two baselines is the floor: "no" finds nothing, "yes" half.
    assert result["scores"]["pope/f1"]["floor_is"] == "always yes"
    generate(open_benchmark("pope", pope, images), FakeModel(right, blind="yes"), tmp_path / "yes", 4)
    f1 = evaluate(open_benchmark("pope", pope, images), tmp_path / "yes", SCORERS)["scores"]["pope/f1"]
    assert f1["floor"] == pytest.approx(2 / 3)


def test_pope_answers_are_by_place(pope, images, tmp_path):
    out = tmp_path / "out"
    generate(open_benchmark("pope", pope, images), FakeModel({"": "yes"}), out, 4)
    path = out / "coco_pope_popular_answers.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], *lines[1:3]]))
    benchmark = open_benchmark("pope", pope, images)
    with pytest.raises(IncompleteError) as refused:
        evaluate(benchmark, out, SCORERS)
    # Which of the two equal lines was the answer can't be told, so neither counts.
    assert f"2 x prediction for an unknown id, not scored ({path}:1: " in str(refused.value)
    assert "3 x missing prediction" in str(refused.value)
    path.write_text("\n".join([lines[1], *lines[1:]]))
    with pytest.raises(IncompleteError, match=rf"1 x answer to another question at this place \({path}:1\)"):
        evaluate(benchmark, out, SCORERS)
    path.write_text("\n".join([*lines, lines[0]]))
    result = evaluate(benchmark, out, SCORERS)
    assert result["problems"]["prediction for an unknown id, not scored"]["first"][0].startswith(f"{path}:5")


def test_some_of_popes_files_are_not_the_benchmark(pope, tmp_path):
    benchmark = open_benchmark("pope", pope[:1])
    benchmark.write_results(tmp_path, {case.id: case.data["label"] for case in benchmark.cases})
    told = (
        r"2 x file missing \(coco_pope_popular.json; coco_pope_adversarial.json\), 1 x number of cases that"
    )
    with pytest.raises(IncompleteError, match=told):
        evaluate(benchmark, tmp_path, SCORERS)
    result = evaluate(benchmark, tmp_path, SCORERS, partial=True)
    assert value(result, "pope/f1") == 1 and result["coverage"] == {"scored": 4, "cases": 12, "share": 1 / 3}
    remarks = result_remarks(json.loads(json.dumps(result)))
    assert "partial: 4 of 12 cases" in remarks and "2 x file missing" in remarks[-1]
    with pytest.raises(ValueError, match="gqa_pope.json: no file of POPE, expected one of coco_pope_random"):
        open_benchmark("pope", [write(tmp_path / "gqa_pope.json", "")])


POPE_SAID = [{"question": line["text"], "answer": line["label"]} for line in POPE_LINES]


def pope_answers(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


@pytest.mark.parametrize("with_question", [True, False])
@pytest.mark.parametrize("bad", ['{"question": "Is there a ca', "", '{"said": "yes"}'])
def test_a_bad_line_of_answers_keeps_its_place(bad, with_question, pope, tmp_path):
    """All other answers are right, as they are where each is the answer to its own question."""
    benchmark = open_benchmark("pope", pope)
    benchmark.write_results(tmp_path, {case.id: case.data["label"] for case in benchmark.cases})
    path = tmp_path / "coco_pope_popular_answers.json"
    said = POPE_SAID if with_question else [{"answer": line["answer"]} for line in POPE_SAID]
    pope_answers(path, [said[0], bad, *said[2:]])
    with pytest.raises(IncompleteError, match=rf"1 x line [^(]*\({path}:2\), 1 x missing prediction"):
        evaluate(benchmark, tmp_path, SCORERS)
    result = evaluate(benchmark, tmp_path, SCORERS, partial=True)
    assert value(result, "pope/coco_pope_popular/accuracy") == 1 and result["coverage"]["scored"] == 11


@pytest.mark.parametrize("gone", [0, 1, 2, 3])
def test_a_missing_line_of_answers(gone, pope, tmp_path):
    benchmark = open_benchmark("pope", pope)
    benchmark.write_results(tmp_path, {case.id: case.data["label"] for case in benchmark.cases})
    path = tmp_path / "coco_pope_popular_answers.json"
    said = POPE_SAID[:gone] + POPE_SAID[gone + 1 :]
    pope_answers(path, said)
    missing = rf"1 x missing prediction \({tmp_path} for {pope[1]}:{gone + 1}: "
    with pytest.raises(IncompleteError, match=missing):
        evaluate(benchmark, tmp_path, SCORERS)
    result = evaluate(benchmark, tmp_path, SCORERS, partial=True)
    assert value(result, "pope/coco_pope_popular/accuracy") == 1 and result["coverage"]["scored"] == 11
    pope_answers(path, [said[0], {"answer": "yes"}, said[2]])
    told = f"{path}: 3 lines, expected 4: without 'question' in each of them nothing tells which answer"
    with pytest.raises(ValueError, match=told):
        evaluate(benchmark, tmp_path, SCORERS, partial=True)


def test_answers_between_missing_ones_count_where_one_place_fits(pope):
    def lines(text):
        return [(number, "", {"question": each}) for number, each in enumerate(text)]

    def answered(path, said, asked):
        path.write_text("x\n" * len(said))
        return _lines_answered(path, lines(said), list(asked))

    path = pope[0]
    assert answered(path, "abcabd", "abcabd") == [0, 1, 2, 3, 4, 5]
    assert answered(path, "abcbd", "abcabd") == [0, 1, 2, 4, 5]
    assert answered(path, "abd", "abcabd") == [None, None, 5]  # the first ab or the second
    assert answered(path, "abcaabd", "abcabd") == [0, 1, 2, None, None, 4, 5]
    assert answered(path, "abcx", "abcabd") == [0, 1, 2, None]


def test_a_second_id_among_the_questions_moves_no_answer(pope, tmp_path):
    twice = [*POPE_LINES[:2], {**POPE_LINES[2], "question_id": 2}, POPE_LINES[3]]
    pope_answers(pope[1], twice)
    benchmark = open_benchmark("pope", pope)
    assert benchmark.problems.to_dict()["duplicate id"]["first"][0].startswith(f"{pope[1]}:3: ")
    for path in pope:
        said = [{"answer": line["answer"]} for line in POPE_SAID]
        pope_answers(tmp_path / f"{path.stem}_answers.json", said)
    result = evaluate(benchmark, tmp_path, SCORERS, partial=True)
    assert value(result, "pope/coco_pope_popular/accuracy") == 1 and result["coverage"]["scored"] == 11


@pytest.fixture
def mme(tmp_path, monkeypatch):
    monkeypatch.setattr(mme_module, "LINES", {"existence": 4})
    monkeypatch.setattr(MME, "published", 4)
    question = "Is there a {} in this image? Please answer yes or no."
    lines = [
        f"{image}\t{question.format(thing)}\t{label}"
        for image, thing, label in (
            ("1.jpg", "cat", "Yes"), ("1.jpg", "dog", "No"), ("2.jpg", "bus", "Yes"), ("2.jpg", "cup", "No"),
        )
    ]  # fmt: skip
    save_image(tmp_path / "mme/existence/1.jpg", "red")
    save_image(tmp_path / "mme/existence/images/2.jpg", "red")
    return write(tmp_path / "existence.txt", "\n".join(lines) + "\n")


def test_mme_writes_its_tables(mme, tmp_path):
    benchmark, out = open_benchmark("mme", [mme], tmp_path / "mme"), tmp_path / "out"
    generate(benchmark, FakeModel({"cat": "Yes", "dog": "No", "bus": "no", "cup": "No"}), out, 3)
    written = (out / "existence.txt").read_text().splitlines()
    assert written[0] == mme.read_text().splitlines()[0] + "\tYes"
    result = evaluate(benchmark, out, SCORERS)
    assert value(result, "mme/existence") == 75 + 50 == value(result, "mme/perception")
    assert result["scores"]["mme/perception"]["floor"] == 50
    assert result["without_the_picture"]["mme/perception"]["value"] == 50
    assert "mme/cognition" not in result["scores"]


def test_mme_names_the_lines(mme, tmp_path):
    lines = mme.read_text().splitlines()
    mme.write_text("\n".join([*lines[:3], lines[3][:20]]))
    problems = open_benchmark("mme", [mme]).problems.to_dict()
    assert problems["line that is not image, question, Yes or No"]["first"] == [f"{mme}:4"]
    with pytest.raises(ValueError, match="no category of MME"):
        open_benchmark("mme", [write(tmp_path / "colour.txt", "")])
    mme.write_text("\n".join([*lines[:2], lines[1], lines[3]]))
    problems = open_benchmark("mme", [mme]).problems.to_dict()
    assert problems["duplicate question"]["first"] == [f"{mme}:3, first at {mme}:2"]


def mme_said(mme):
    return [f"{line}\t{line.split(chr(9))[2]}" for line in mme.read_text().splitlines()]


def test_some_of_mmes_categories_are_not_the_benchmark(mme, tmp_path, monkeypatch):
    monkeypatch.setattr(mme_module, "LINES", {"existence": 4, "color": 4, "code_reasoning": 2})
    monkeypatch.setattr(MME, "published", 10)
    benchmark = open_benchmark("mme", [mme])
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "existence.txt", "\n".join(mme_said(mme)))
    with pytest.raises(IncompleteError, match=r"2 x category missing \(color.txt; code_reasoning.txt\)"):
        evaluate(benchmark, tmp_path / "out", SCORERS)
    result = evaluate(benchmark, tmp_path / "out", SCORERS, partial=True)
    assert value(result, "mme/existence") == 200
    assert result["coverage"] == {"scored": 4, "cases": 10, "share": 0.4}
    assert "partial: 4 of 10 cases" in result_remarks(json.loads(json.dumps(result)))


@pytest.mark.parametrize("gone", [0, 1, 2, 3])
def test_half_a_picture_of_mme_is_not_scored(gone, mme, tmp_path):
    lines, said, out = mme.read_text().splitlines(), mme_said(mme), tmp_path / "out"
    out.mkdir()
    other = gone ^ 1  # the picture's other question
    half = "answer without the other of its picture, not scored"
    write(out / "existence.txt", "\n".join(said[:gone] + said[gone + 1 :]))
    benchmark = open_benchmark("mme", [mme])
    with pytest.raises(IncompleteError, match=rf"1 x missing prediction \({out} for {mme}:{gone + 1}: "):
        evaluate(benchmark, out, SCORERS)
    result = evaluate(benchmark, out, SCORERS, partial=True)
    assert value(result, "mme/existence") == 200 and result["scores"]["mme/existence"]["n"] == 2
    assert result["coverage"]["scored"] == 2
    assert result["problems"][half]["first"] == [f"{mme}:{other + 1}"]
    # The same line missing, or blank, in the data: the others stay pairs.
    for number, left in (("", lines[:gone] + lines[gone + 1 :]), ("blank", list(lines))):
        if number:
            left[gone] = ""
        write(mme, "\n".join(left))
        write(out / "existence.txt", "\n".join(said))
        result = evaluate(open_benchmark("mme", [mme]), out, SCORERS, partial=True)
        assert value(result, "mme/existence") == 200 and result["coverage"]["scored"] == 2


def annotators(*answers):
    return [{"answer": answer, "answer_id": index} for index, answer in enumerate(answers, 1)]


@pytest.fixture
def vqa(tmp_path, monkeypatch):
    for cls in (VQAv2, OKVQA):
        monkeypatch.setattr(cls, "published", 2)
    asked = [("What color is the cat?", 1), ("How many dogs?", 2)]
    questions = [{"image_id": 42, "question": text, "question_id": key} for text, key in asked]
    annotations = [
        {"question_id": 1, "image_id": 42, "question_type": "what color", "answer_type": "other",
         "answers": annotators(*["black"] * 8, "white", "gray")},
        {"question_id": 2, "image_id": 42, "question_type": "how many", "answer_type": "number",
         "answers": annotators(*["2"] * 2, *["3"] * 8)},
    ]  # fmt: skip
    return [
        write(tmp_path / "questions.json", {"questions": questions, "data_subtype": "val2014"}),
        write(tmp_path / "annotations.json", {"annotations": annotations}),
    ]


def test_vqa_by_type(vqa, images, tmp_path):
    benchmark, out = open_benchmark("vqav2", vqa, images), tmp_path / "out"
    generate(benchmark, FakeModel({"cat": "Black.", "dogs": "two"}), out, 2)
    assert json.loads((out / "results.json").read_text())[1] == {"question_id": 2, "answer": "two"}
    result = evaluate(benchmark, out, SCORERS)
    assert value(result, "vqav2/accuracy") == pytest.approx((1 + 0.6) / 2)
    assert value(result, "vqav2/question_type/how many") == pytest.approx(0.6)
    assert value(result, "vqav2/answer_type/other") == 1
    # "black" is right in one question of two; who knows what is asked for is right in both
    score = result["scores"]["vqav2/accuracy"]
    assert (score["floor"], score["floor_is"]) == (1, "most frequent answer to each type of question")
    for name, guess in (("answer_type/number", "3"), ("question_type/what color", "black")):
        score = result["scores"][f"vqav2/{name}"]
        assert (score["floor"], score["floor_is"]) == (1, f"always {guess!r}")
    okvqa = FakeModel({"": "black"})
    generate(open_benchmark("okvqa", vqa, images), okvqa, tmp_path / "ok", 2)
    assert "respond with 'Unanswerable'" in okvqa.asked[0]


def test_answers_of_before_are_asked_without_the_picture(vqa, images, tmp_path):
    benchmark, out = open_benchmark("vqav2", vqa, images), tmp_path / "out"
    out.mkdir()
    write(out / "results.json", [{"question_id": k, "answer": "black"} for k in (1, 2)])
    write(out / "answers.jsonl", '{"id": "1", "text": "black"}\n')
    assert evaluate(benchmark, out, SCORERS)["without_the_picture"] == {}
    model = FakeModel({"": "black"})
    assert generate(benchmark, model, out, 2) == 2 == len(model.guessed)
    assert evaluate(benchmark, out, SCORERS)["without_the_picture"].keys() >= {"vqav2/accuracy"}
    answers = json.loads((out / "without_picture" / "results.json").read_text())
    write(out / "without_picture" / "results.json", answers[:1])
    result = evaluate(benchmark, out, SCORERS)
    assert result["without_the_picture"] == {}
    assert result["scores"]["vqav2/accuracy"]["floor_is"] == "most frequent answer to each type of question"
    kind = "question not asked without its picture: no such floor"
    assert result["problems"][kind]["first"] == [f"{out}/without_picture: '2'"]
    write(out / "without_picture" / "results.json", "[")
    problems = evaluate(benchmark, out, SCORERS)["problems"]
    assert "answers without the picture that can't be read: no such floor" in problems


def test_vqa_names_bad_predictions(vqa, images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    rows = [
        {"question_id": 1, "answer": "black\x0b"}, {"question_id": 1, "answer": "white"},
        {"question_id": 7, "answer": "x"}, {"question": 2},
    ]  # fmt: skip
    write(out / "results.json", rows)
    benchmark = open_benchmark("vqav2", vqa, images)
    with pytest.raises(IncompleteError) as refused:
        evaluate(benchmark, out, SCORERS)
    for named in (
        f"1 x second prediction for an id ({out}/results.json item 2: '1')",
        f"1 x item without question_id, answer ({out}/results.json item 4)",
        "1 x missing prediction",
        f"also found: 1 x answer with control characters ({out}/results.json item 1: 'black\\x0b')",
        f"1 x prediction for an unknown id, not scored ({out}/results.json item 3: '7')",
    ):
        assert named in str(refused.value)
    result = evaluate(benchmark, out, SCORERS, partial=True)
    assert result["coverage"]["share"] == 0.5
    assert result["problems"]["answer with control characters"]["count"] == 1
    assert result["problems"]["prediction for an unknown id, not scored"]["count"] == 1
    (out / "results.json").write_text('[{"question_id": 1, "answer": null}]')
    with pytest.raises(
        IncompleteError, match=r"1 x prediction that is no text \(.*results.json item 1: None"
    ):
        evaluate(benchmark, out, SCORERS)
    (out / "results.json").write_text('[{"question_id": 1,\n "answer": "bla')
    with pytest.raises(ValueError, match=r"results.json:2: no JSON, or cut here"):
        evaluate(benchmark, out, SCORERS, partial=True)


def test_vqa_questions_and_annotations_must_belong_together(vqa, tmp_path):
    content = json.loads(vqa[1].read_text())
    write(vqa[1], {"annotations": [content["annotations"][0]] * 2})
    problems = open_benchmark("vqav2", vqa).problems.to_dict()
    assert problems["question without annotation"]["first"] == [f"{vqa[0]} item 2: 2"]
    assert problems["duplicate id among the annotations"]["count"] == 1
    with pytest.raises(ValueError, match="has no 'questions'"):
        open_benchmark("vqav2", vqa[::-1])


def test_vqa_annotations_without_a_question_are_named(vqa, images, tmp_path):
    """The official script scores every annotation, and stops where the results lack one."""
    content = json.loads(vqa[1].read_text())["annotations"]
    write(vqa[1], {"annotations": [*content, {**content[0], "question_id": 7}]})
    write(tmp_path / "results.json", [{"question_id": k, "answer": "2"} for k in (1, 2)])
    with pytest.raises(IncompleteError, match=rf"1 x annotation without question \({vqa[1]} item 3: 7\)"):
        evaluate(open_benchmark("vqav2", vqa, images), tmp_path, SCORERS)


@pytest.mark.parametrize(
    "prompt", ["{foo}", "{question} {foo}", "{", "{}", "{question.foo}", "{question[a]}", "x"]
)
def test_prompts_that_are_none_are_refused_at_once(prompt, vqa, pope):
    for name, files in (("vqav2", vqa), ("pope", pope)):
        with pytest.raises(ValueError, match=f"{name}: prompt .* expected a text with {{question}}"):
            open_benchmark(name, files, settings={"prompt": prompt})
    benchmark = open_benchmark("pope", pope, settings={"prompt": "{question} {{x}}"})
    assert benchmark.prompt(benchmark.cases[0]) == POPE_LINES[0]["text"] + " {x}"


def test_a_size_that_is_not_known_is_said(images, tmp_path):
    path = seed_file(tmp_path)
    rows = [{"question_id": key, "prediction": "A"} for key in ("q1", "q2")]
    write(tmp_path / "results.jsonl", "\n".join(map(json.dumps, rows)))
    result = evaluate(open_benchmark("seed", [path], images), tmp_path, SCORERS)
    told = "number of cases that was not checked: no published one is known"
    assert result["problems"] == {told: {"count": 1, "first": [f"{path} (2 cases)"]}}
    assert f"found in its files: 1 x {told}" in result_remarks(json.loads(json.dumps(result)))


def test_vizwiz_normalises_the_prediction_only(images, tmp_path):
    answers = [{"answer": text, "answer_confidence": "yes"} for text in ["Coca cola"] * 5 + ["coke"] * 5]
    item = {"image": "one.jpg", "question": "What is this?", "answers": answers, "answer_type": "other"}
    benchmark = open_benchmark("vizwiz", [write(tmp_path / "val.json", [item])], images)
    generate(benchmark, FakeModel({"": "The coke."}), tmp_path / "out", 1)
    assert value(evaluate(benchmark, tmp_path / "out", SCORERS), "vizwiz/accuracy") == 1


def test_gqa_scores_balanced_questions(images, tmp_path, monkeypatch):
    monkeypatch.setattr(GQA, "published", 2)
    asked, check = ({"imageId": "one", "types": {"structural": kind}} for kind in ("query", "verify"))
    questions = {
        "1": {"question": "Which animal?", "answer": "dog", "isBalanced": True, **asked},
        "2": {"question": "Is it red?", "answer": "yes", "isBalanced": True, **check},
        "3": {"question": "Where?", "answer": "left", "isBalanced": False, **asked},
    }
    benchmark = open_benchmark("gqa", [write(tmp_path / "testdev.json", questions)], images)
    generate(benchmark, FakeModel({"animal": "Dog.", "red": "no"}), tmp_path / "out", 2)
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert written[0] == {"questionId": "1", "prediction": "dog"}
    result = evaluate(benchmark, tmp_path / "out", SCORERS)
    assert value(result, "gqa/accuracy") == 0.5
    score = result["scores"]["gqa/accuracy"]
    assert (score["floor"], score["floor_is"]) == (1, "most frequent answer to each type of question")
    assert result["without_the_picture"]["gqa/accuracy"]["value"] == 0


def seed_file(tmp_path):
    question = {
        "question": "What is it?", "choice_a": "a dog", "choice_b": "a cat", "choice_c": "a bus",
        "choice_d": "a cup", "data_id": "one.jpg", "data_type": "image", "question_type_id": 1,
    }  # fmt: skip
    video = {"question": "What next?", "data_id": "two", "data_type": "video", "question_type_id": 10}
    items = [
        {**question, "question_id": "q1", "answer": "B"},
        {**question, **video, "question_id": "q2", "answer": "A"},
    ]
    return write(tmp_path / "SEED-Bench.json", {"questions": items})


def test_seed_letters_and_losses(images, tmp_path):
    path = seed_file(tmp_path)
    save_image(images / "two.png", "red")
    benchmark = open_benchmark("seed", [path], images, {"answers": "letter"})
    model = FakeModel({"What is it": "B", "What next": "(A)"})
    generate(benchmark, model, tmp_path / "out", 2)
    assert model.asked[0].startswith("What is it?\nA. a dog\nB. a cat\n")
    result = evaluate(benchmark, tmp_path / "out", SCORERS)
    assert [value(result, f"seed/{kind}") for kind in ("image", "video", "all")] == [1, 0, 0.5]
    assert result["without_the_picture"].keys() == result["scores"].keys()
    floors = {name: (score["floor"], score["floor_is"]) for name, score in result["scores"].items()}
    assert floors["seed/all"] == (0.5, "always B") and floors["seed/video"] == (1, "always A")
    guessed = [{"question_id": "q1", "prediction": "B"}, {"question_id": "q2", "prediction": "A"}]
    write(tmp_path / "out" / "without_picture" / "results.jsonl", "\n".join(map(json.dumps, guessed)))
    score = evaluate(benchmark, tmp_path / "out", SCORERS)["scores"]["seed/all"]
    assert (score["floor"], score["floor_is"]) == (1, "question without the picture")
    rows = [{"question_id": "q1", "losses": [3, 1, 2, 4]}, {"question_id": "q2", "losses": [1, 2, 3, 4]}]
    write(tmp_path / "out" / "results.jsonl", "\n".join(map(json.dumps, rows)))
    assert value(evaluate(benchmark, tmp_path / "out", SCORERS), "seed/all") == 1
    with pytest.raises(ValueError, match="allowed are ranking, letter"):
        open_benchmark("seed", [path], images, {"answers": "words"})


COCO = {
    "images": [{"id": 1, "file_name": "one.jpg"}, {"id": 2, "file_name": "two.jpg"}],
    "annotations": [
        {"image_id": 1, "id": 1, "caption": "A red dog."},
        {"image_id": 1, "id": 2, "caption": "a dog\u2028runs"},
        {"image_id": 2, "id": 3, "caption": "Two cats sleep"},
    ],
}  # fmt: skip
LAVIS = [
    {"image": "one.jpg", "caption": ["A red dog.", "a dog runs"]},
    {"image": "two.jpg", "caption": ["Two cats sleep"]},
]


@pytest.mark.parametrize(("name", "content"), [("nocaps", COCO), ("flickr30k", LAVIS)])
def test_captions_in_both_forms(name, content, images, tmp_path, monkeypatch):
    for cls in (NoCaps, Flickr30K):
        monkeypatch.setattr(cls, "published", 2)
    for number, image in enumerate(("one.jpg", "two.jpg")):
        save_image(images / image, (number * 200, 0, 0))
    benchmark, out = (
        open_benchmark(name, [write(tmp_path / "captions.json", content)], images),
        tmp_path / "o",
    )
    colors = {pixel: text for pixel, text in (((0, 0, 0), "a red dog"), ((200, 0, 0), "two cats sleep"))}
    colors |= {(r, 0, 0): colors[(0 if r < 100 else 200, 0, 0)] for r in (1, 199, 201)}
    generate(benchmark, FakeModel(colors), out, 2)
    result = evaluate(benchmark, out, SCORERS)
    assert value(result, f"{name}/cider") > 3 > result["scores"][f"{name}/cider"]["floor"]
    assert result["scores"][f"{name}/cider"]["ceiling"] is None  # only one picture has two references
    assert [row["caption"] for row in json.loads((out / "captions_results.json").read_text())] == [
        "a red dog", "two cats sleep",
    ]  # fmt: skip
    write(tmp_path / "captions.json", json.dumps(content)[:80])
    with pytest.raises(ValueError, match=r"captions.json:1: no JSON, or cut here"):
        open_benchmark(name, [tmp_path / "captions.json"])


def test_captions_have_their_last_reference_as_the_ceiling(tmp_path, monkeypatch):
    monkeypatch.setattr(NoCaps, "published", 2)
    items = [{"image": f"{k}.jpg", "caption": [f"{k} dogs run here", f"{k} dogs run there"]} for k in "ab"]
    benchmark = open_benchmark("nocaps", [write(tmp_path / "nocaps_val.json", items)])
    write(tmp_path / "captions_results.json", [{"image_id": k, "caption": f"{k} dogs"} for k in "ab"])
    result = evaluate(benchmark, tmp_path, SCORERS)
    expected, _ = cider({k: [f"{k} dogs run here"] for k in "ab"}, {k: f"{k} dogs run there" for k in "ab"})
    assert result["scores"]["nocaps/cider"]["ceiling"] == pytest.approx(expected) and expected > 0.5
    assert result["ceiling"] == NoCaps.ceiling_is and "seed 0" in result["interval"]
