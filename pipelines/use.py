"""Use of a trained model: draw, edit, caption, ask, reconstruct, interpolate."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from tqdm import tqdm

from ddt.data.decode import read_image
from ddt.params import Params
from pipelines.models import find_model

if TYPE_CHECKING:
    from ddt.baselines.kinds import ImageTokenizer
    from ddt.mllm import DDTLlama
    from ddt.tokenizer import Renderer


def generate(params: Params, arguments: argparse.Namespace) -> None:
    """Draw `--num-images` images of the prompt, seeds counted from `--seed`."""
    if arguments.num_images < 1:
        raise ValueError(f"--num-images {arguments.num_images}: expected at least 1")
    output = writable_png(arguments.output)
    model = load(params, arguments.model)
    count = arguments.num_images
    seeds = list(range(arguments.seed, arguments.seed + count))
    with _token_bar(model, "drawing") as bar:
        images = model.generate_image(
            [arguments.prompt] * count, arguments.cfg_scale, seed=seeds, on_token=_advance(bar)
        )
    save(side_by_side(images, arguments.scale), output)


def edit(params: Params, arguments: argparse.Namespace) -> None:
    """Change one image by an instruction."""
    output = writable_png(arguments.output)
    image = read_image(arguments.image)
    model = load(params, arguments.model)
    with _token_bar(model, "drawing") as bar:
        images = model.edit_image(
            [image], [arguments.instruction], arguments.cfg_scale, seed=arguments.seed, on_token=_advance(bar)
        )
    save(side_by_side(images, arguments.scale), output)


def caption(params: Params, arguments: argparse.Namespace) -> None:
    """Print a caption for each image, with its path where there are several."""
    images = [read_image(path) for path in arguments.images]
    for path, text in zip(arguments.images, load(params, arguments.model).caption(images), strict=True):
        print(f"{path}: {text}" if len(images) > 1 else text)


def ask(params: Params, arguments: argparse.Namespace) -> None:
    """Print the answer to one question about one image."""
    image = read_image(arguments.image)
    print(load(params, arguments.model).answer([image], [arguments.question])[0])


def reconstruct(params: Params, arguments: argparse.Namespace) -> None:
    """Encode and decode images, each row one image, from the prefixes asked for; prints PSNR."""
    import torch

    from ddt.mllm.pictures import to_pixels
    from ddt.tokenizer import image_grid, psnr_db

    output = writable_png(arguments.output)
    images = [read_image(path) for path in arguments.images]
    tokenizer = load_tokenizer(params, arguments.model)
    options: dict[str, Any] = {}
    if arguments.renderer is not None:
        options["renderer"] = load_renderer(tokenizer, arguments.renderer)
    prefixes = parse_prefixes(arguments.num_tokens, tokenizer.config.num_tokens)
    pixels_BCHW = to_pixels(images, tokenizer.config.image_size)
    codes_BT = tokenizer.encode(pixels_BCHW)
    columns = [pixels_BCHW]
    for length in tqdm(prefixes, desc="decoding", unit="prefix", disable=None):
        decoded = tokenizer.decode(codes_BT, num_steps=arguments.steps, num_tokens=length, **options)
        columns.append(decoded)
        psnr_B = psnr_db(decoded, pixels_BCHW).tolist()
        for path, psnr in zip(arguments.images, psnr_B, strict=True):
            print(f"{path}: {length} tokens, {psnr:.2f} dB")
    save(image_grid(torch.stack(columns, dim=1), arguments.scale), output)


def interpolate(params: Params, arguments: argparse.Namespace) -> None:
    """Counterfactual interpolation (Fig. 6): the first image with the second's codes for slices of tokens.

    Both images and their decodings are drawn around it; prints how many codes each slice changes.
    """
    import torch

    from ddt.mllm.pictures import to_pixels
    from ddt.tokenizer import image_grid
    from ddt.tokenizer.inspect import swap_codes

    output = writable_png(arguments.output)
    images = [read_image(arguments.first), read_image(arguments.second)]
    tokenizer = load_tokenizer(params, arguments.model)
    slices = parse_slices(arguments.tokens, tokenizer.config.num_tokens)
    pixels_BCHW = to_pixels(images, tokenizer.config.image_size)
    codes_2T = tokenizer.encode(pixels_BCHW)
    swapped = [swap_codes(codes_2T[:1], codes_2T[1:], start, stop) for start, stop in slices]
    for (start, stop), codes_1T in zip(slices, swapped, strict=True):
        changed = int((codes_1T != codes_2T[:1]).sum())
        print(f"tokens {start}:{stop}: {changed} of {stop - start} codes differ")
    # The same noise for all, so that only the codes make a difference.
    decoded = [
        tokenizer.decode(codes_1T, num_steps=arguments.steps)
        for codes_1T in (codes_2T[:1], *swapped, codes_2T[1:])
    ]
    row = torch.stack([pixels_BCHW[:1], *decoded, pixels_BCHW[1:]], dim=1)
    save(image_grid(row, arguments.scale), output)


def parse_slices(text: str, num_tokens: int) -> list[tuple[int, int]]:
    """`0:8,8:16` as [(0, 8), (8, 16)]: counted from 0, the end left out. Else ValueError."""
    slices = []
    for part in text.split(","):
        start, colon, stop = part.strip().partition(":")
        numbers = colon and start.isdigit() and stop.isdigit()
        if not numbers or not int(start) < int(stop) <= num_tokens:
            raise ValueError(
                f"--tokens {text}: expected slices such as 0:{num_tokens // 2} within 0:{num_tokens}, "
                "by commas"
            )
        slices.append((int(start), int(stop)))
    return slices


def tokenizer_folder(params: Params, reference: str) -> Path:
    """Where the image tokenizer of a folder or registry reference is: there, or inside a language model."""
    folder = find_model(reference, params)
    inner = folder / "image_tokenizer"
    return inner if inner.is_dir() else folder


def load_tokenizer(params: Params, reference: str) -> ImageTokenizer:
    """The image tokenizer of a folder or registry reference."""
    from ddt.baselines.kinds import load_image_tokenizer

    return load_image_tokenizer(tokenizer_folder(params, reference))


def load_renderer(tokenizer: ImageTokenizer, folder: str) -> Renderer:
    """The renderer in a folder; ValueError where it is not one of this tokenizer's codes."""
    from ddt.tokenizer import DDTTokenizer, Renderer

    if not isinstance(tokenizer, DDTTokenizer):
        raise ValueError(f"--renderer {folder}: expected none with a {tokenizer.title.lower()}")
    renderer = Renderer.from_pretrained(folder)
    renderer.check_fits(tokenizer)
    return renderer


def parse_prefixes(text: str, num_tokens: int) -> list[int]:
    """`1,4,all` as prefix lengths. Raises ValueError for anything else or out of range."""
    lengths = []
    for part in text.split(","):
        length = num_tokens if part.strip() == "all" else int(part) if part.strip().isdigit() else -1
        if not 0 <= length <= num_tokens:
            raise ValueError(
                f"--num-tokens {text}: expected numbers from 0 to {num_tokens} or all, by commas"
            )
        lengths.append(length)
    return lengths


def load(params: Params, reference: str) -> DDTLlama:
    """The model of a folder or registry reference, on the GPU where there is one."""
    folder = find_model(reference, params)
    import torch

    from ddt.mllm import DDTLlama

    return DDTLlama.from_pretrained(folder, "cuda" if torch.cuda.is_available() else "cpu")


def writable_png(path: str) -> Path:
    """The output's path, refused before any work is done where it can't be written."""
    output = Path(path)
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output {path}: expected a name that ends in .png")
    if not output.parent.is_dir():
        raise ValueError(f"--output {path}: no such folder as {output.parent}")
    return output


def side_by_side(images: Sequence[Image.Image], scale: int) -> Image.Image:
    """Images in a row, enlarged `scale` times without smoothing."""
    if scale < 1:
        raise ValueError(f"--scale {scale}: expected at least 1")
    width, height = images[0].size
    row = Image.new("RGB", (width * scale * len(images), height * scale))
    for i, image in enumerate(images):
        row.paste(
            image.resize((width * scale, height * scale), Image.Resampling.NEAREST), (i * width * scale, 0)
        )
    return row


def save(image: Image.Image, output: Path) -> None:
    """Write the picture and say where."""
    image.save(output)
    print(output)


def _token_bar(model: DDTLlama, description: str) -> Any:
    return tqdm(total=model.image_tokenizer.config.num_tokens, desc=description, unit="token", disable=None)


def _advance(bar: Any) -> Any:
    def on_token(ids_Bt: Any) -> None:
        bar.update(ids_Bt.shape[1] - bar.n)

    return on_token
