"""Files that are cut, empty or hold something else: each benchmark names the file, and the line or item, in
one line.
"""

import copy
import json
from itertools import product

import pytest

from ddt.eval.official import evaluate
from ddt.eval.official.asked import Asked
from ddt.eval.official.problems import IncompleteError
from ddt.eval.official.registry import OFFICIAL, open_benchmark
from ddt.eval.scorers import Scorers
from tests.eval.official.fake import save_image

WRONG = {
    "empty": b"", "cut": b'{"questions": [{"id": 1', "object": b'{"a": 1}', "items": b'[1, "x", null, []]',
    "number": b"5", "null": b"null", "binary": b"\xff\xfe\x00\x01", "deep": b"[" * 99_999,
}  # fmt: skip
NAMES = {
    "mme": ("existence.txt", "count.txt", "color.txt"),
    "pope": ("coco_pope_random.json", "coco_pope_popular.json", "coco_pope_adversarial.json"),
    "t2i_complex": ("complex_val.txt", "complex_val_spatial.txt", "complex_val_action.txt"),
}

PEOPLE = [{"answer": text, "answer_id": number} for number, text in enumerate(("a", "b", "a", "c"), 1)]
CHOICES = {f"choice_{letter}": f"a {letter}" for letter in "abcd"}
ASKED = {"question": "What is it?", "image_id": 42, "question_id": 1}
ANNOTATION = {"question_id": 1, "answers": PEOPLE, "question_type": "what", "answer_type": "other"}
OBJECTS = [
    {"class": "cat", "count": 1, "color": "red"},
    {"class": "dog", "count": 1, "position": ["above", 0]},
]
PROMPT = {"tag": "colors", "include": OBJECTS, "exclude": [{"class": "cat", "count": 3}], "prompt": "a cat"}
# Of each benchmark the first of its files, right, with one or two cases; the others where there are some; and
# the results of a model. Names that end in `l`, and POPE's, hold JSON lines.
RIGHT = {
    "geneval": ({"metadata.jsonl": [PROMPT]}, {}),
    "evr": ({"test.json": [{"img0": "a.jpg", "img1": "b.jpg", "sents": ["x", "y"], "uid": "1"}]}, {}),
    "ma5k": ({"test.json": [{"input": "a.jpg", "output": "b.jpg", "request": "x"}]}, {}),
    "magicbrush": ({"s.json": {"1": [{"input": "a", "output": "b", "instruction": x} for x in "xy"]}}, {}),
    "nocaps": (
        {"c.json": {
            "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
            "annotations": [{"image_id": 1, "caption": "a cat"}, {"image_id": 2, "caption": "a dog"}],
        }},
        {"captions_results.json": [{"image_id": 1, "caption": "a cat"}, {"image_id": 2, "caption": "a"}]},
    ),
    "flickr30k": (
        {"c.json": [{"image": "a.jpg", "img_id": 1, "caption": ["a cat", "cats"]},
                    {"image": "b.jpg", "img_id": 2, "caption": "a dog"}]},
        {"captions_results.json": [{"image_id": 1, "caption": "a cat"}, {"image_id": 2, "caption": "a"}]},
    ),
    "vqav2": (
        {"q.json": {"questions": [ASKED]}, "a.json": {"annotations": [ANNOTATION]}},
        {"results.json": [{"question_id": 1, "answer": "a"}]},
    ),
    "vizwiz": (
        {"val.json": [{"image": "a.jpg", "question": "q", "answers": PEOPLE, "answer_type": "other"}]},
        {"results.json": [{"image": "a.jpg", "answer": "a"}]},
    ),
    "gqa": (
        {"t.json": {"1": {"question": "q", "imageId": "a", "answer": "x", "isBalanced": True,
                          "types": {"structural": "query"}}}},
        {"predictions.json": [{"questionId": "1", "prediction": "x"}]},
    ),
    "seed": (
        {"SEED-Bench.json": {"questions": [{
            "question_id": "1", "question": "q", "answer": "A", "data_type": "image", "data_id": "a.jpg",
            "question_type_id": 1, **CHOICES,
        }]}},
        {"results.jsonl": [{"question_id": "1", "losses": [1, 2, 3.5, 4]}]},
    ),
    "pope": (
        {"coco_pope_random.json": [{"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "yes"}]},
        {"coco_pope_random_answers.json": [{"question": "Is it?", "answer": "yes"}]},
    ),
}  # fmt: skip
GARBAGE = (None, 5, -1.5, "x", True, [], {})


def dump(path, content):
    """Lines of JSON where the name says so, else one JSON."""
    lines = isinstance(content, list) and (path.suffix == ".jsonl" or path.name.startswith("coco_pope"))
    path.write_text("\n".join(map(json.dumps, content)) if lines else json.dumps(content))
    return path


def places(value, place=()):
    """Where every value inside of a JSON value stands."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*place, key))


def put(content, place, value):
    """A copy of the content with another value at a place."""
    if not place:
        return value
    changed = copy.deepcopy(content)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def score(name, data, folder, scorers):
    """What a user does: open, score what is there, and have results written."""
    benchmark = open_benchmark(name, data, folder)
    benchmark.with_inputs()
    if isinstance(benchmark, Asked):
        [benchmark.prompt(case) for case in benchmark.cases]
        benchmark.write_results(folder / "written", {case.id: "x" for case in benchmark.cases})
    return evaluate(benchmark, folder / "out", scorers, partial=True)


def laid_out(name, folder):
    """The right files of a benchmark, and for GenEval the pictures and their detections."""
    data, results = RIGHT[name]
    (folder / "out").mkdir()
    files = {dump(folder / each, content): content for each, content in data.items()}
    outputs = {dump(folder / "out" / each, content): content for each, content in results.items()}
    scorers = Scorers()
    if name == "geneval":
        found = {f"00000/samples/{k:04d}.png": [["cat", 0, 0, 9, 9, 0.95, "red"]] for k in range(4)}
        for each in found:
            save_image(folder / "out" / each, "red")
        path = dump(folder / "found.json", found)
        outputs[path] = found
        scorers = Scorers(precomputed={"detections": path})
    return files, outputs, scorers


@pytest.mark.parametrize("name", RIGHT)
def test_every_value_can_be_garbage(name, tmp_path):
    """Whatever stands in the place of a value, there is a result, or one line that names the file."""
    files, outputs, scorers = laid_out(name, tmp_path)
    if outputs:
        assert score(name, list(files), tmp_path, scorers)["coverage"]["scored"] >= 1
    refused = 0
    for path, content in {**files, **outputs}.items():
        for place, value in product(places(content), GARBAGE):
            dump(path, put(content, place, value))
            try:
                score(name, list(files), tmp_path, scorers)
            except ValueError as told:
                refused += 1
                assert str(tmp_path) in str(told), (path.name, place, value, str(told))
                assert "\n" not in str(told)
            except Exception as error:
                pytest.fail(f"{path.name} {place} {value!r}: {error!r}")
        dump(path, content)
    assert refused > 10


@pytest.mark.parametrize("name", OFFICIAL)
def test_files_that_are_none_are_named(name, tmp_path):
    (tmp_path / "out").mkdir()
    for (what, content), count in product(WRONG.items(), (1, 2, 3)):
        (tmp_path / what).mkdir(exist_ok=True)
        names = NAMES.get(name, ("a.json", "b.json", "c.json"))[:count]
        files = [tmp_path / what / each for each in names]
        for file in files:
            file.write_bytes(content)
        with pytest.raises(ValueError) as told:
            evaluate(open_benchmark(name, files, tmp_path), tmp_path / "out", Scorers({}), partial=True)
        line = str(told.value)
        assert str(tmp_path) in line or "data files, expected" in line, (what, line)


NESTED = [  # a file of a benchmark, where in it what is put, and what is told of it
    ("geneval", "metadata.jsonl", (0, "include"), "x", "line whose include is not a list of {class,", ":1"),
    ("geneval", "metadata.jsonl", (0, "include", 0), {"count": 1}, "line whose include is not", ":1"),
    ("geneval", "metadata.jsonl", (0, "include", 1, "position", 1), 1, "line whose include is not", ":1"),
    ("geneval", "metadata.jsonl", (0, "tag"), "colour", "line whose tag is not single_object or", ":1"),
    ("evr", "test.json", (0, "sents"), 5, "item whose sents is not a list of a text", " item 1"),
    ("vqav2", "q.json", ("questions", 0, "image_id"), "42", "item whose image_id is not a whole", " item 1"),
    ("vqav2", "a.json", ("annotations", 0, "answers", 1), {"x": 1}, "item whose answers is not", " item 1"),
    ("vqav2", "a.json", ("annotations", 0, "answers"), "yes", "item whose answers is not", " item 1"),
    ("vqav2", "a.json", ("annotations", 0, "answers"), [], "item whose answers is not", " item 1"),
    ("vizwiz", "val.json", (0, "answers", 0, "answer"), None, "item whose answers is not a list", " item 1"),
    ("vizwiz", "val.json", (0, "image"), {}, "item whose image is not a text", " item 1"),
    ("gqa", "t.json", ("1",), None, "question without question, imageId, answer, isBalanced", ": 1"),
    ("nocaps", "c.json", ("annotations", 1, "caption"), None, "item whose caption is", " annotations item 2"),
    ("nocaps", "c.json", ("images", 0, "id"), [], "item whose id is not a text or", " images item 1"),
    ("flickr30k", "c.json", (0, "caption", 0), None, "item whose caption is not a text or", " item 1"),
    ("pope", "coco_pope_random.json", (0, "label"), "maybe", "line whose label is not yes or no", ":1"),
    ("pope", "coco_pope_random.json", (0, "label"), None, "line whose label is not yes or no", ":1"),
    ("magicbrush", "s.json", ("1", 1, "instruction"), 5, "item whose instruction is not", " 1 item 2"),
    ("seed", "SEED-Bench.json", ("questions", 0, "answer"), "E", "item whose answer is not A", " item 1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "place", "value", "told", "at"), NESTED)
def test_the_item_of_a_wrong_value_is_named(name, file, place, value, told, at, tmp_path):
    files, _, _ = laid_out(name, tmp_path)
    path = tmp_path / file
    dump(path, put(files[path], place, value))
    problems = open_benchmark(name, list(files), tmp_path).problems
    named = {kind: found["first"] for kind, found in problems.to_dict().items() if kind.startswith(told)}
    assert list(named.values()) == [[f"{path}{at}"]], problems.to_dict()
    with pytest.raises(IncompleteError):
        problems.refuse("")


def test_seed_losses_are_four_numbers(tmp_path):
    files, outputs, _ = laid_out("seed", tmp_path)
    (path,) = outputs
    for losses in (5, [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, True]):
        dump(path, [{"question_id": "1", "losses": losses}])
        with pytest.raises(ValueError, match=rf"1 x line without a prediction or four losses \({path}:1\)"):
            score("seed", list(files), tmp_path, Scorers())
    path.write_text('{"question_id": "1", "losses": [2, 1, NaN, 3]}')  # nan ranks last: B, not right
    assert score("seed", list(files), tmp_path, Scorers())["scores"]["seed/all"]["value"] == 0


DETECTION = ["cat", 0, 0, 9, 9, 0.95, "red"]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, "expected detections by image, found NoneType"),
        ([[DETECTION]], "expected detections by image, found list"),
        (5, "00000/samples/0001.png, detection 1: expected a list of .class, x1, y1, x2, y2, score, colour"),
        ([DETECTION, DETECTION[:5]], "00000/samples/0001.png, detection 2: expected"),
        ([[*DETECTION[:5], "0.9", ""]], "0001.png, detection 1: expected"),
        ([[*DETECTION[:5], float("nan"), ""]], "0001.png, detection 1: expected"),
        ([[5, *DETECTION[1:]]], "0001.png, detection 1: expected"),
    ],
)
def test_detections_are_checked(found, told, tmp_path):
    files, outputs, scorers = laid_out("geneval", tmp_path)
    ((path, content),) = outputs.items()
    dump(path, found if told.startswith("expected") else {**content, "00000/samples/0001.png": found})
    with pytest.raises(ValueError, match=f"found.json: .*{told}"):
        score("geneval", list(files), tmp_path, scorers)


def verdicts(tmp_path, *rows):
    files, outputs, _ = laid_out("geneval", tmp_path)
    right = [{"filename": f"/x/00000/samples/{k:04d}.png", "correct": k > 0} for k in range(4)]
    path = dump(tmp_path / "results.jsonl", [*right[: 4 - len(rows)], *rows])
    return list(files), path, Scorers(precomputed={"verdicts": path})


def test_verdicts_are_true_or_false(tmp_path):
    last = {"filename": "/x/00000/samples/0003.png", "correct": "False"}
    files, path, scorers = verdicts(tmp_path, last)
    with pytest.raises(ValueError, match=rf"1 x line whose correct is not true or false \({path}:4\)"):
        score("geneval", files, tmp_path, scorers)


def test_verdicts_are_one_an_image(tmp_path):
    again = {"filename": "/x/00000/samples/0000.png", "correct": True}
    files, path, scorers = verdicts(tmp_path)
    path.write_text(path.read_text() + "\n" + json.dumps(again))
    with pytest.raises(ValueError, match=rf"1 x second verdict on an image \({path}:5: /x/00000"):
        score("geneval", files, tmp_path, scorers)
