"""Use of a trained model: draw, edit, caption, ask, chat, reconstruct, interpolate."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from ddt.clean import text_argument, typed_text
from ddt.data.decode import read_size, read_square
from ddt.params import Params
from ddt.progress import Progress
from ddt.store import sha256_file
from pipelines.commands import origin
from pipelines.services.models import Found, find, find_model, image_tokenizer_folder

if TYPE_CHECKING:
    from ddt.baselines.kinds import ImageTokenizer
    from ddt.mllm import DDTLlama
    from ddt.mllm.generate import OnText, OnToken
    from ddt.tokenizer import Renderer

PREVIEWS = 32  # of one picture under --watch, at most
MAX_SCALE = 64  # of a picture of 256 px: as large as most viewers open
MAX_SEED = 1 << 32
SHOWN_IMAGE = re.compile(r"<image ([^>]+)>")


def generate(params: Params | None, arguments: argparse.Namespace) -> None:
    """Draw `--num-images` images of the prompt or of a class, seeds counted from `--seed`."""
    output, prompt, name = checked_drawing(arguments), arguments.prompt, arguments.class_name
    if (prompt is None) == (name is None):
        raise ValueError("generate: expected a prompt or --class, one of the two")
    asked = text_argument(prompt, "prompt") if name is None else text_argument(name, "--class")
    found, model = open_model(params, arguments.model)
    count = arguments.num_images
    seeds = list(range(arguments.seed, arguments.seed + count))
    with drawing(model, count, output, arguments) as on_token:
        draw = model.generate_image if name is None else model.generate_class
        images = draw([asked] * count, arguments.cfg_scale, seed=seeds, on_token=on_token)
    said = {"prompt" if name is None else "class": asked, "seeds": seeds}
    text = origin.of_picture(found, model.made_from, said, model.sampling.draw, arguments.cfg_scale)
    save(arrange(images, arguments.scale, arguments.grid), output, text)


def edit(params: Params | None, arguments: argparse.Namespace) -> None:
    """Change one image by an instruction, `--num-images` times, seeds counted from `--seed`."""
    output = checked_drawing(arguments)
    instruction = text_argument(arguments.instruction, "instruction")
    check_pictures([arguments.image])
    found, model = open_model(params, arguments.model)
    (image,) = read_pictures([arguments.image], model.image_tokenizer)
    said: dict[str, Any] = {"instruction": instruction, "source": sha256_file(arguments.image)}
    count = arguments.num_images
    seeds = list(range(arguments.seed, arguments.seed + count))
    with drawing(model, count, output, arguments) as on_token:
        images = model.edit_image(
            [image] * count,
            [instruction] * count,
            arguments.cfg_scale,
            seed=seeds,
            on_token=on_token,
        )
    said["seeds"] = seeds
    text = origin.of_picture(found, model.made_from, said, model.sampling.edit, arguments.cfg_scale)
    save(arrange(images, arguments.scale, arguments.grid), output, text)


def checked_drawing(arguments: argparse.Namespace) -> Path:
    """The output's path; ValueError for an argument out of range before anything is loaded."""
    for name in ("num_images", "grid"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected at least 1")
    if arguments.cfg_scale is not None and not 0 <= arguments.cfg_scale < math.inf:
        raise ValueError(f"--cfg-scale {arguments.cfg_scale}: expected a number >= 0")
    check_seed(arguments)
    return checked_output(arguments)


def checked_output(arguments: argparse.Namespace) -> Path:
    """The path of the picture to write; ValueError where it or its scale can't be."""
    check_scale(arguments)
    return writable_png(arguments.output)


def check_scale(arguments: argparse.Namespace) -> None:
    """ValueError for a factor that is out of range."""
    if not 1 <= arguments.scale <= MAX_SCALE:
        raise ValueError(f"--scale {arguments.scale}: expected 1 to {MAX_SCALE}")


def check_seed(arguments: argparse.Namespace) -> None:
    """ValueError for a seed that a random generator does not take."""
    if not 0 <= arguments.seed < MAX_SEED:
        raise ValueError(f"--seed {arguments.seed}: expected 0 to {MAX_SEED - 1}")


@contextmanager
def drawing(model: DDTLlama, count: int, output: Path, arguments: argparse.Namespace) -> Iterator[OnToken]:
    """Progress in tokens; with `--watch` the output is also written as it forms, some tokens at a time."""
    num_tokens = model.image_tokenizer.config.num_tokens
    bar = Progress("drawing", num_tokens * -(-count // model.batch_size), unit="token")
    every = max(1, num_tokens // PREVIEWS)

    def on_token(ids_Bt: Any) -> None:
        bar.update(bar.done + 1)
        if arguments.watch and ids_Bt.shape[1] % every == 0:
            write(arrange(model.preview(ids_Bt), arguments.scale, arguments.grid), output)

    try:
        yield on_token
    finally:
        bar.close()


@contextmanager
def writing(model: DDTLlama, count: int) -> Iterator[OnText]:
    """Progress in tokens, of as many as there may be: most texts end earlier."""
    batches = -(-count // model.batch_size)
    bar = Progress("writing", model.sampling.text.max_new_tokens * batches, unit="token")
    try:
        yield lambda _: bar.update(bar.done + 1)
    finally:
        bar.close()


def chat(params: Params | None, arguments: argparse.Namespace) -> None:
    """Answer each line of the standard input, or the one message given; pictures go to `--output`.

    `<image FILE>` in a line shows the model a picture. A picture in a reply is printed as its path.
    """
    folder = Path(arguments.output)
    if not folder.is_dir():
        raise ValueError(f"--output {folder}: no such folder")
    check_scale(arguments)
    check_seed(arguments)
    if arguments.message is not None:
        text_argument(arguments.message, "message")
    lines = sys.stdin if arguments.message is None else [arguments.message]
    from ddt.mllm.chat import Chat
    from ddt.mllm.conversations import IMAGE

    model, drawn = load(params, arguments.model), 0
    talk = Chat(model, arguments.seed)
    for line in lines:
        said = typed_text(SHOWN_IMAGE.sub(IMAGE, line), "message")
        if not said:
            continue
        paths = SHOWN_IMAGE.findall(line)
        images = read_pictures(paths, model.image_tokenizer)
        reply = talk.say(said, images)
        text = reply.text
        for image in reply.images:
            path = folder / f"{drawn}.png"
            write(arrange([image], arguments.scale, 1), path)
            text, drawn = text.replace(IMAGE, f"<image {path}>", 1), drawn + 1
        print(text, flush=True)


def caption(params: Params | None, arguments: argparse.Namespace) -> None:
    """Print a caption for each image, with its path where there are several."""
    check_pictures(arguments.images)
    model = load(params, arguments.model)
    images = read_pictures(arguments.images, model.image_tokenizer)
    with writing(model, len(images)) as on_text:
        captions = model.caption(images, on_text=on_text)
    for path, text in zip(arguments.images, captions, strict=True):
        print(f"{path}: {text}" if len(images) > 1 else text)


def ask(params: Params | None, arguments: argparse.Namespace) -> None:
    """Print the answer to one question about one image."""
    question = text_argument(arguments.question, "question")
    check_pictures([arguments.image])
    model = load(params, arguments.model)
    images = read_pictures([arguments.image], model.image_tokenizer)
    with writing(model, 1) as on_text:
        (answer,) = model.answer(images, [question], on_text=on_text)
    print(answer)


def reconstruct(params: Params | None, arguments: argparse.Namespace) -> None:
    """Encode and decode images, each row one image, from the prefixes asked for; prints PSNR."""
    import torch

    from ddt.mllm.pictures import to_pixels
    from ddt.tokenizer import DDTTokenizer, image_grid, psnr_db

    output = checked_output(arguments)
    check_pictures(arguments.images)
    tokenizer = load_tokenizer(params, arguments.model)
    images = read_pictures(arguments.images, tokenizer)
    options: dict[str, Any] = {}
    if arguments.renderer is not None:
        options["renderer"] = load_renderer(tokenizer, arguments.renderer)
    if arguments.guidance is not None:
        if not isinstance(tokenizer, DDTTokenizer):
            raise ValueError(f"--guidance: expected none with a {tokenizer.title.lower()}")
        options["guidance"] = arguments.guidance
    prefixes = parse_prefixes(arguments.num_tokens, tokenizer.config.num_tokens)
    pixels_BCHW = to_pixels(images, tokenizer.config.image_size)
    codes_BT = tokenizer.encode(pixels_BCHW)
    columns = [pixels_BCHW]
    for length in tqdm(prefixes, desc="decoding", unit="prefix", disable=None):
        decoded = tokenizer.decode(codes_BT, num_steps=arguments.steps, num_tokens=length, **options).cpu()
        columns.append(decoded)
        psnr_B = psnr_db(decoded, pixels_BCHW).tolist()
        for path, psnr in zip(arguments.images, psnr_B, strict=True):
            print(f"{path}: {length} tokens, {psnr:.2f} dB")
    save(image_grid(torch.stack(columns, dim=1), arguments.scale), output)


def interpolate(params: Params | None, arguments: argparse.Namespace) -> None:
    """Counterfactual interpolation (Fig. 6): the first image with the second's codes for slices of tokens.

    Both images and their decodings are drawn around it; prints how many codes each slice changes.
    """
    import torch

    from ddt.mllm.pictures import to_pixels
    from ddt.tokenizer import image_grid
    from ddt.tokenizer.inspect import swap_codes

    output = checked_output(arguments)
    paths = [arguments.first, arguments.second]
    check_pictures(paths)
    tokenizer = load_tokenizer(params, arguments.model)
    images = read_pictures(paths, tokenizer)
    slices = parse_slices(arguments.tokens, tokenizer.config.num_tokens)
    pixels_BCHW = to_pixels(images, tokenizer.config.image_size)
    codes_2T = tokenizer.encode(pixels_BCHW)
    swapped = [swap_codes(codes_2T[:1], codes_2T[1:], start, stop) for start, stop in slices]
    for (start, stop), codes_1T in zip(slices, swapped, strict=True):
        changed = int((codes_1T != codes_2T[:1]).sum())
        print(f"tokens {start}:{stop}: {changed} of {stop - start} codes differ")
    # The same noise for all, so that only the codes make a difference.
    decoded = [
        tokenizer.decode(codes_1T, num_steps=arguments.steps).cpu()
        for codes_1T in (codes_2T[:1], *swapped, codes_2T[1:])
    ]
    row = torch.stack([pixels_BCHW[:1], *decoded, pixels_BCHW[1:]], dim=1)
    save(image_grid(row, arguments.scale), output)


def check_pictures(paths: Sequence[str]) -> None:
    """ValueError for a file that is no picture, before a model is loaded for it."""
    for path in paths:
        read_size(path)


def read_pictures(paths: Sequence[str], tokenizer: ImageTokenizer) -> list[Image.Image]:
    """What the tokenizer takes of each file; told on stderr where that is not the picture as it is."""
    side = tokenizer.config.image_size
    for path in paths:
        width, height = read_size(path)
        middle = min(width, height)
        part = "" if width == height else f" its middle {middle} x {middle}"
        scaled = "" if middle == side else f" at {side} x {side}"
        if part or scaled:
            print(f"{path}: {width} x {height},{part} is used{scaled}", file=sys.stderr)
    return [read_square(path, side) for path in paths]


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


def tokenizer_folder(params: Params | None, reference: str | None) -> Path:
    """Where the image tokenizer of a folder or registry reference is: there, or inside a language model."""
    return image_tokenizer_folder(find_model(reference, params))


def load_tokenizer(params: Params | None, reference: str | None) -> ImageTokenizer:
    """The image tokenizer of a folder, hub id or registry reference, on the GPU where there is one."""
    from ddt.baselines.kinds import load_image_tokenizer
    from ddt.data.pretrained import pick_device

    return load_image_tokenizer(tokenizer_folder(params, reference)).to(pick_device(None))


def load_renderer(tokenizer: ImageTokenizer, folder: str) -> Renderer:
    """The renderer in a folder; ValueError where it is not one of this tokenizer's codes."""
    from ddt.tokenizer import DDTTokenizer, Renderer

    if not isinstance(tokenizer, DDTTokenizer):
        raise ValueError(f"--renderer {folder}: expected none with a {tokenizer.title.lower()}")
    renderer = Renderer.from_pretrained(folder)
    renderer.check_fits(tokenizer)
    return renderer.to(tokenizer.device)


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


def load(params: Params | None, reference: str | None) -> DDTLlama:
    """The model of a folder or registry reference, on the GPU where there is one."""
    return open_model(params, reference)[1]


def open_model(params: Params | None, reference: str | None) -> tuple[Found, DDTLlama]:
    """The same, and where it was found."""
    found = find(reference, params)
    from transformers.utils import logging

    from ddt.data.pretrained import pick_device
    from ddt.mllm import DDTLlama

    logging.disable_progress_bar()  # of a second's reading
    return found, DDTLlama.from_pretrained(found.folder, pick_device(None))


def writable_png(path: str) -> Path:
    """The output's path, refused before any work is done where it can't be written."""
    output = Path(path)
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output {path}: expected a name that ends in .png")
    if not output.parent.is_dir():
        raise ValueError(f"--output {path}: no such folder as {output.parent}")
    if output.is_dir():
        raise ValueError(f"--output {path}: is a folder, expected a file")
    return output


def arrange(images: Sequence[Image.Image], scale: int, columns: int | None) -> Image.Image:
    """Images in rows of `columns` (None: one row), enlarged `scale` times without smoothing."""
    columns = min(columns or len(images), len(images))
    width, height = (side * scale for side in images[0].size)
    canvas = Image.new("RGB", (width * columns, height * -(-len(images) // columns)))
    for i, image in enumerate(images):
        place = (i % columns * width, i // columns * height)
        canvas.paste(image.resize((width, height), Image.Resampling.NEAREST), place)
    return canvas


def save(image: Image.Image, output: Path, text: str | None = None) -> None:
    """Write the picture, with a text of ours in its file, and say where."""
    write(image, output, text)
    print(output)


def write(image: Image.Image, output: Path, text: str | None = None) -> None:
    """The picture at `output` at once: a viewer never finds half of it."""
    temporary, texts = output.with_name(f".{output.name}.tmp"), PngInfo()
    if text is not None:
        texts.add_text(origin.NAME, text)
    try:
        image.save(temporary, "PNG", pnginfo=texts)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
