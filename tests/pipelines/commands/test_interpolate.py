"""`ddt interpolate` and `ddt reconstruct` on both tokenizers."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ddt.tokenizer import Renderer, RendererSizes
from ddt.tokenizer.inspect import swap_codes
from pipelines.commands.cli import main
from pipelines.commands.use import parse_slices
from tests.baselines.test_spatial import spatial
from tests.tokenizer.test_model import make

PARAMS = str(Path(__file__).resolve().parents[3] / "params.yaml")


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        Image.new("RGB", (20, 16), colour).save(path)
    return [str(path) for path in paths]


@pytest.mark.parametrize(("build", "num_tokens"), [(make, 8), (spatial, 16)])
def test_interpolate_draws_each_slice(build, num_tokens, images, tmp_path, capsys) -> None:
    tokenizer, folder, output = build(), tmp_path / "tokenizer", tmp_path / "out.png"
    tokenizer.save_pretrained(folder)
    arguments = ["interpolate", *images, "--tokens", f"0:4,4:{num_tokens}", "--model", str(folder)]
    main([*arguments, "-o", str(output), "--params", PARAMS])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tokens 0:4: ") and lines[1].startswith(f"tokens 4:{num_tokens}: ")
    # The first image, its decoding, two slices, the second's decoding, the second image.
    assert Image.open(output).size == (6 * 16 + 5 * 2, 16)


@pytest.mark.parametrize("build", [make, spatial])
def test_reconstruct_takes_either_tokenizer(build, images, tmp_path, capsys) -> None:
    build().save_pretrained(tmp_path / "tokenizer")
    arguments = ["reconstruct", *images, "--num-tokens", "1,all", "--model", str(tmp_path / "tokenizer")]
    main([*arguments, "-o", str(tmp_path / "out.png"), "--params", PARAMS])
    assert capsys.readouterr().out.count(" dB\n") == 4  # two images, two prefixes
    assert Image.open(tmp_path / "out.png").size == (3 * 16 + 2 * 2, 2 * 16 + 2)


def test_reconstruct_draws_with_a_renderer_and_refuses_any_other(images, tmp_path, capsys) -> None:
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    Renderer.of(tokenizer, RendererSizes.of_decoder(tokenizer.config)).save_pretrained(tmp_path / "renderer")
    spatial().save_pretrained(tmp_path / "spatial")
    make(seed=1, codebook_size=64).save_pretrained(tmp_path / "other")

    def reconstruct(model: str, *more: str) -> None:
        renderer = ["--renderer", str(tmp_path / "renderer"), *more]
        output = ["-o", str(tmp_path / "out.png"), "--params", PARAMS]
        main(["reconstruct", *images, "--model", str(tmp_path / model), *renderer, *output])

    reconstruct("tokenizer")
    assert capsys.readouterr().out.count(" dB\n") == 2
    for arguments, message in (
        (("spatial",), "expected none with a spatial tokenizer"),
        (("other",), "renderer: was trained on the codebook"),
        (("tokenizer", "--steps", "2"), "renderer: draws in one pass"),
    ):
        with pytest.raises(SystemExit) as stopped:
            reconstruct(*arguments)
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_reconstruct_takes_guidance_where_the_tokenizer_has_it(images, tmp_path, capsys) -> None:
    make(condition_dropout=0.1).save_pretrained(tmp_path / "guided")
    make().save_pretrained(tmp_path / "plain")
    spatial().save_pretrained(tmp_path / "spatial")

    def reconstruct(model: str, *more: str) -> bytes:
        out = tmp_path / "out.png"
        main(["reconstruct", *images, "--model", str(tmp_path / model), "-o", str(out), *more])
        return out.read_bytes()

    assert reconstruct("guided", "--guidance", "1") == reconstruct("guided")
    assert reconstruct("guided", "--guidance", "4") != reconstruct("guided")
    capsys.readouterr()
    for model, message in (("plain", "expected 1, as this tokenizer"), ("spatial", "expected none with a")):
        with pytest.raises(SystemExit) as stopped:
            reconstruct(model, "--guidance", "4")
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_swapped_codes_are_the_others_only_inside_the_slice() -> None:
    a, b = torch.zeros(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64)
    assert swap_codes(a, b, 2, 5).tolist() == [[0, 0, 1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("text", ["", "3", "4:2", "0:9", "a:b", "-1:2", "0:4,", "2:2"])
def test_slices_out_of_range_are_refused(text: str) -> None:
    assert parse_slices("0:8, 2:3", 8) == [(0, 8), (2, 3)]
    with pytest.raises(ValueError, match="--tokens .*expected slices such as 0:4 within 0:8"):
        parse_slices(text, 8)


def test_a_bad_slice_is_one_line_and_exit_code_2(images, tmp_path, capsys) -> None:
    make().save_pretrained(tmp_path / "tokenizer")
    arguments = ["interpolate", *images, "--tokens", "0:99", "--model", str(tmp_path / "tokenizer")]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "-o", str(tmp_path / "out.png"), "--params", PARAMS])
    assert stopped.value.code == 2 and "within 0:8" in capsys.readouterr().err
