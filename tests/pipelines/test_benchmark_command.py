"""`ddt benchmark`: a real (untrained) model makes outputs, the result is JSON, mistakes are one line."""

import json
from pathlib import Path

import pytest
import torch

from ddt.eval.official import OFFICIAL
from ddt.eval.official.geneval import GenEval
from ddt.mllm import DDTLlama
from ddt.mllm.build import load_tokenizer, new_model
from ddt.mllm.vocabulary import extend_tokenizer
from ddt.scenes import weights_dir
from ddt.tokenizer import DDTTokenizer, presets
from pipelines.benchmark import pairs
from pipelines.cli import main
from tests.mllm.mllm_tiny import TINY

LINE = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(GenEval, "published", 4)
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(json.dumps(LINE) + "\n")
    found = {f"00000/samples/{k:04d}.png": [["bench", 0, 0, 9, 9, 0.9, ""]] for k in range(4)}
    (tmp_path / "found.json").write_text(json.dumps(found))
    return path


@pytest.fixture
def model_folder(tmp_path):
    """An untrained model of the real classes."""
    torch.manual_seed(0)
    image_tokenizer = DDTTokenizer(presets()["debug"]).eval()
    text_tokenizer = load_tokenizer(weights_dir("bpe"))
    vocabulary = extend_tokenizer(text_tokenizer, image_tokenizer.config.codebook_size)
    model = DDTLlama(new_model(TINY, vocabulary, 0), text_tokenizer, image_tokenizer)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def arguments(data, *more):
    folder = data.parent
    # a store of its own: what one run of the tests made would be taken up by the next
    store = ["--set", f"paths.store={folder / 'store'}"]
    return ["benchmark", "geneval", "--data", str(data), "--outputs", str(folder / "out"), *store, *more]


@pytest.mark.ray
def test_generates_and_scores(data, model_folder, capsys):
    found = f"detections={data.parent / 'found.json'}"
    main(arguments(data, "--model", str(model_folder), "--precomputed", found, "--batch-size", "4"))
    result = json.loads(capsys.readouterr().out)
    assert result["scores"]["geneval/overall"]["value"] == 1
    assert result["generated"]["made"] == 4 and len(result["generated"]["digest"]) == 64
    assert "cfg_scale" in result["generated"]["sampling"]
    main(arguments(data, "--model", str(model_folder), "--no-score"))
    assert json.loads(capsys.readouterr().out)["generated"]["made"] == 0


def test_the_documentation_has_every_benchmark():
    text = Path("docs/benchmarks.md").read_text()
    assert [name for name in OFFICIAL if f"`{name}`" not in text] == []


def test_mistakes_are_one_line(data, capsys):
    (data.parent / "out").mkdir()
    for more, told in (
        ((), "4 x missing image"),
        (("--no-score",), "nothing to do without --model"),
        (("--setting", "x=1"), "no setting 'x'"),
        (("--precomputed", "found.json"), "expected KEY=VALUE"),
        (("--scorer", "eyes=x"), "unknown kind 'eyes'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments(data, *more))
        captured = capsys.readouterr()
        assert stopped.value.code == 2 and captured.out == ""
        assert captured.err.count("\n") == 1 and told in captured.err
    with pytest.raises(ValueError, match="is given twice"):
        pairs("--scorer", ["clip=a", "clip=b"])
