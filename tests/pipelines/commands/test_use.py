"""`ddt generate|edit|chat` on a small untrained model: what is written, when, and what is refused."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ddt.config import to_dict
from ddt.mllm import DDTLlama
from ddt.store import folder_digest, mark_complete, marked_digest, sha256_file
from ddt.tokenizer import presets
from pipelines.commands import use
from pipelines.commands.cli import main
from pipelines.commands.origin import read_origin
from tests.pipelines.tiny_model import save_model

PARAMS = str(Path(__file__).resolve().parents[3] / "params.yaml")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_model(tmp_path_factory.mktemp("use") / "model"))


def run(*arguments: str) -> None:
    main([*arguments, "--params", PARAMS])


def mistake(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


LIBRARY_ALONE = """
import sys
from pipelines.commands.cli import PACKAGES_OF_EXTRA, main
sys.modules |= dict.fromkeys(PACKAGES_OF_EXTRA)  # importing them now fails
model, params = sys.argv[1:]
main(["generate", "a red circle", "--model", model, "-o", "a.png"])
main(["reconstruct", "a.png", "--model", model, "-o", "b.png"])
for arguments in (["select"], ["caption", "a.png", "--model", "models:/ddt-llama/1"]):
    try:
        main([*arguments, "--params", params])
    except SystemExit as stopped:
        assert stopped.code == 2
"""


def test_the_library_alone_uses_a_models_folder(model, tmp_path):
    command = [sys.executable, "-c", LIBRARY_ALONE, model, PARAMS]
    root = {"PYTHONPATH": str(Path(PARAMS).parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | root, capture_output=True, text=True, check=True
    )
    assert (tmp_path / "b.png").is_file()
    told = [line for line in done.stderr.splitlines() if line.startswith("ddt:")]
    assert len(told) == 2
    assert all(re.fullmatch(r"ddt: needs \w+: pip install 'ddt-llama\[pipeline\]'", line) for line in told)


def test_a_models_folder_needs_no_settings_and_the_registry_does(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16), "red").save("a.png")
    main(["reconstruct", "a.png", "--model", model, "-o", "out.png"])
    assert Path("out.png").is_file() and capsys.readouterr().out.startswith("a.png: 8 tokens, ")
    for wrong in (["--model", "models:/ddt-llama@champion"], ["--model", model, "--params", "absent.yaml"]):
        with pytest.raises(SystemExit) as stopped:
            main(["caption", "a.png", *wrong])
        assert stopped.value.code == 2 and "yaml: cannot be read" in capsys.readouterr().err


def test_a_drawn_picture_says_what_drew_it(model, tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    run("generate", "a red circle", "--model", model, "-o", str(first), "--num-images", "2", "--seed", "7")
    said = read_origin(first)
    assert said["model"] == marked_digest(model) == folder_digest(model) and said["reference"] is None
    assert (said["prompt"], said["seeds"], said["made_from"]) == ("a red circle", [7, 8], {})
    assert said["sampling"] == to_dict(DDTLlama.from_pretrained(model).sampling.draw)
    run("edit", str(first), "make it blue", "--model", model, "-o", str(second), "--cfg-scale", "1.5")
    said = read_origin(second)
    assert said["instruction"] == "make it blue" and said["sampling"]["cfg_scale"] == 1.5
    assert said["source"] == sha256_file(first)
    for path in (first, second):
        assert model.encode() not in path.read_bytes() and str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize("order", ["V_1..V_T", "V_T..V_1"])
def test_a_preview_of_all_tokens_is_the_picture(model, order):
    whole = DDTLlama.from_pretrained(model)
    object.__setattr__(whole.image_tokenizer.config, "token_order", order)
    whole.builder.token_order = order
    seen = []
    (image,) = whole.generate_image(["a"], on_token=lambda ids: seen.append(whole.preview(ids)), num_steps=1)
    previews = [preview.tobytes() for (preview,) in seen]
    assert previews[-1] == image.tobytes() and len(set(previews)) > 1
    assert len(seen) == whole.image_tokenizer.config.num_tokens


def test_watch_writes_whole_pictures_as_they_form(model, tmp_path, monkeypatch, capsys):
    written = []

    def watching(image: Image.Image, output: Path, *text: str) -> None:
        real(image, output, *text)
        written.append(Image.open(io.BytesIO(output.read_bytes())).size)

    real = use.write
    monkeypatch.setattr(use, "write", watching)
    output = tmp_path / "out.png"
    asked = ["generate", "a red circle", "--model", model, "-o", str(output)]
    run(*asked, "--num-images", "3", "--grid", "2", "--scale", "2", "--watch")
    num_tokens = presets()["debug"].num_tokens
    assert written == [(64, 64)] * (num_tokens + 1)
    assert capsys.readouterr().out == f"{output}\n"
    last = output.read_bytes()
    run(*asked, "--num-images", "3", "--grid", "2", "--scale", "2")
    assert output.read_bytes() == last and list(tmp_path.iterdir()) == [output]
    assert "drawing: " in capsys.readouterr().err


def test_captions_and_answers_show_progress_in_tokens(model, tmp_path, monkeypatch, capsys):
    bars: list[Any] = []

    class Bar(use.Progress):
        def __init__(self, label: str, total: int, unit: str) -> None:
            super().__init__(label, total, unit=unit)
            bars.append(self)

    monkeypatch.setattr(use, "Progress", Bar)
    path = str(tmp_path / "in.png")
    Image.new("RGB", (16, 16), "red").save(path)
    run("caption", path, path, "--model", model)
    run("ask", path, "what is it?", "--model", model)
    assert [(bar.label, bar.total, bar.unit) for bar in bars] == [("writing", 4, "token")] * 2
    assert all(1 <= bar.done <= 4 for bar in bars)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and said[0] == said[1]  # the same picture says the same


def test_edit_draws_several(model, tmp_path, capsys):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "in.png")
    output = str(tmp_path / "out.png")
    run("edit", str(tmp_path / "in.png"), "bluer", "--model", model, "-o", output, "--num-images", "2")
    assert Image.open(output).size == (32, 16)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((16, 16), ""),
        ((40, 40), "40 x 40, is used at 16 x 16"),
        ((64, 48), "64 x 48, its middle 48 x 48 is used at 16 x 16"),
        ((16, 20), "16 x 20, its middle 16 x 16 is used"),
    ],
)
def test_what_is_used_of_a_picture_is_told(model, tmp_path, capsys, size, told):
    path, out = str(tmp_path / "in.png"), str(tmp_path / "out.png")
    Image.new("RGB", size, "red").save(path)
    for asked in (
        ("edit", path, "make it blue", "-o", out),
        ("caption", path),
        ("ask", path, "what is it?"),
        ("reconstruct", path, "-o", out),
        ("interpolate", path, path, "--tokens", "0:1", "-o", out),
        ("chat", f"<image {path}> hi", "-o", str(tmp_path)),
    ):
        run(*asked, "--model", model)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(path)]
        pictures = 2 if asked[0] == "interpolate" else 1
        assert lines == ([f"{path}: {told}"] * pictures if told else []), asked[0]


def test_chat_reads_lines_and_writes_pictures(model, tmp_path, monkeypatch, capsys):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "in.png")
    (tmp_path / "out").mkdir()
    lines = f"<image {tmp_path}/in.png> more\n\nand again\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    run("chat", "--model", model, "-o", str(tmp_path / "out"))
    said = capsys.readouterr().out.splitlines()
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert pictures and len(said) >= 2
    assert all(f"<image {path}>" in "\n".join(said) for path in pictures)
    assert Image.open(pictures[0]).size == (16, 16)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("model.safetensors", 5000, "can't be loaded (Error while deserializing header"),
        ("model.safetensors", 0, "can't be loaded"),
        ("image_tokenizer/model.safetensors", 3000, "image_tokenizer/model.safetensors: cannot be read"),
        ("config.json", 100, "can't be loaded"),
        ("tokenizer.json", 300, "can't be loaded"),
        ("ddt.json", 100, "ddt.json: cannot be read"),
    ],
)
def test_a_model_whose_file_is_cut_is_named(model, tmp_path, capsys, name, size, message):
    damaged = tmp_path / "model"
    shutil.copytree(model, damaged)
    os.truncate(damaged / name, size)
    line = mistake(capsys, "generate", "a", "-o", str(tmp_path / "a.png"), "--model", str(damaged))
    assert message in line and str(damaged) in line
    mark_complete(damaged)  # as a store does: it knows each file's size
    os.truncate(damaged / name, size + 1)
    line = mistake(capsys, "generate", "a", "-o", str(tmp_path / "a.png"), "--model", str(damaged))
    assert f"{damaged / name}: {size + 1} bytes, expected {size} bytes" in line


def test_settings_of_another_program_are_named(model, tmp_path, capsys):
    other = tmp_path / "model"
    shutil.copytree(model, other)
    draw = ["generate", "a", "-o", str(tmp_path / "a.png"), "--model", str(other)]
    (other / "ddt.json").write_text('{"format_version": 2}')
    assert "ddt.json: lacks codebook_size, made_from, sampling" in mistake(capsys, *draw)
    (other / "ddt.json").write_text("[1]")
    assert "ddt.json: format_version = None, expected 2" in mistake(capsys, *draw)


def test_mistakes_are_one_line(model, tmp_path, capsys):
    draw = ["generate", "a", "-o", str(tmp_path / "a.png"), "--model", "/nowhere"]
    assert "--grid 0: expected at least 1" in mistake(capsys, *draw, "--grid", "0")
    assert "--cfg-scale -1.0: expected a number >= 0" in mistake(capsys, *draw, "--cfg-scale", "-1")
    assert "--cfg-scale nan: expected a number >= 0" in mistake(capsys, *draw, "--cfg-scale", "nan")
    assert "--num-images 0: expected at least 1" in mistake(capsys, *draw, "--num-images", "0")
    assert "--output /nowhere: no such folder" in mistake(capsys, "chat", "hi", "-o", "/nowhere")
    assert "has no classes" in mistake(capsys, *draw[:1], *draw[2:4], "--model", model, "--class", "dog")
    line = mistake(capsys, "generate", "a " * 300, "--model", model, "-o", str(tmp_path / "a.png"))
    assert "a prompt of " in line and "expected at most" in line
    line = mistake(capsys, "chat", "<image gone.png>", "--model", model, "-o", str(tmp_path))
    assert "gone.png: no such file" in line


@pytest.mark.parametrize("nothing", ["", " \n", "\x07", "\ud83d", "\ufeff"])
def test_a_text_of_which_nothing_is_left_is_told_before_the_model_is_loaded(model, tmp_path, capsys, nothing):
    path, output = str(tmp_path / "in.png"), str(tmp_path / "out.png")
    Image.new("RGB", (16, 16), "red").save(path)
    absent = ["--model", str(tmp_path / "absent")]
    for name, arguments in (
        ("prompt", ["generate", nothing, "-o", output]),
        ("--class", ["generate", "--class", nothing, "-o", output]),
        ("instruction", ["edit", path, nothing, "-o", output]),
        ("question", ["ask", path, nothing]),
        ("message", ["chat", nothing]),
    ):
        assert mistake(capsys, *arguments, *absent).startswith(f"ddt: {name}: expected some text")


def test_any_characters_may_stand_in_what_is_asked(model, tmp_path, monkeypatch, capsys):
    """Bytes that are no UTF-8, halves of emoji, names of special tokens, NUL and separators of lines."""
    path = str(tmp_path / "caf\udce9.png")
    Image.new("RGB", (16, 16), "red").save(path)
    hostile = "caf\udce9 \ud83d [BOV] <|visual_3|> </s> {image} \x00 \u2028 {0} a"
    output = str(tmp_path / "out.png")
    run("generate", hostile, "--model", model, "-o", output)
    run("edit", path, hostile, "--model", model, "-o", output)
    assert Image.open(output).size == (16, 16)
    run("ask", path, hostile, "--model", model)
    run("caption", path, path, "--model", model)
    run("chat", hostile, "--model", model, "-o", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 a\n\0\n\xe2\x80\xa8\n")))
    run("chat", "--model", model, "-o", str(tmp_path))
    assert r"caf\udce9.png: " in capsys.readouterr().out


def test_the_library_takes_any_text_too(model):
    """As the model's registered form calls it."""
    whole, image = DDTLlama.from_pretrained(model), Image.new("RGB", (16, 16), "red")
    (clean, hostile) = whole.generate_image(["a red b", "\ufeffa red\0 b\ud83d"], num_steps=1)
    assert clean.tobytes() == hostile.tobytes()
    assert len(whole.answer([image], ["what\udc00?"])) == 1
    assert len(whole.edit_image([image], ["bluer\ud83d"], num_steps=1)) == 1
