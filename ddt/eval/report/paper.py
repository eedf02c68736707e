"""Tables 1 to 4 of the paper as printed, and which score of ours stands in each column.

A column has up to two of ours: that of the published benchmark on its official files (`ddt benchmark`), and
that of the same task on a run's own data (the stage `evaluate`), which is on another scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OURS = "DDT-LLaMA"


@dataclass(frozen=True)
class Column:
    """A column of a table. The paper prints `unit` times the score.

    `official` are scores of `ddt benchmark`, `own` is one of the stage `evaluate`. `left_open` tells what the
    paper does not say and what was taken, `own_differs` in what the run's own task is another one.
    """

    title: str
    official: tuple[str, ...]
    own: str = ""
    unit: float = 1.0
    digits: int = 3
    lower_is_better: bool = False
    left_open: str = ""
    own_differs: str = ""


@dataclass(frozen=True)
class Table:
    """A table: a number for each method and column, None where the paper has none."""

    number: int
    title: str
    columns: tuple[Column, ...]
    rows: dict[str, tuple[float | None, ...]] = field(repr=False)

    def ours(self, index: int) -> float:
        """The paper's own number in a column."""
        value = self.rows[OURS][index]
        assert value is not None
        return value

    def others(self, index: int) -> dict[str, float]:
        """The other methods' numbers in a column."""
        found = {name: values[index] for name, values in self.rows.items() if name != OURS}
        return {name: value for name, value in found.items() if value is not None}


def _rows(text: str, columns: int) -> dict[str, tuple[float | None, ...]]:
    rows = {}
    for line in text.strip().splitlines():
        name, _, numbers = line.partition("|")
        values = tuple(None if number == "-" else float(number) for number in numbers.split())
        assert len(values) == columns, line
        rows[name.strip()] = values
    return rows


def _table(number: int, title: str, columns: tuple[Column, ...], text: str) -> Table:
    return Table(number, title, columns, _rows(text, len(columns)))


DETECTED = "drawn scenes, found by the analytic detector; one image a prompt"
ASKED = "answers read from drawn scenes"


def _geneval(title: str, name: str) -> Column:
    return Column(title, (f"geneval/{name}",), f"geneval/{name}", digits=2, own_differs=DETECTED)


def _t2i(title: str, name: str, on_scenes: bool = True) -> Column:
    own = f"t2i/{name}" if on_scenes else ""
    return Column(title, (f"t2i/{name}",), own, own_differs=DETECTED if on_scenes else "")


def _edit(title: str, official: tuple[str, ...], left_open: str, own: str = "") -> Column:
    lower = title.endswith(("L1", "LPIPS"))
    differs = "exact targets of drawn scenes" if own else ""
    return Column(title, official, own, 100, 1, lower, left_open, differs)


def _percent(
    title: str, official: tuple[str, ...], left_open: str, own: str = "", differs: str = ""
) -> Column:
    return Column(title, official, own, 100, 1, left_open=left_open, own_differs=differs)


VQA_SPLIT = "split not stated: {}; LLaVA's short-answer prompt"
TABLES = (
    _table(
        1, "Text to image",
        (
            _geneval("GenEval overall", "overall"), _geneval("GenEval single object", "single_object"),
            _geneval("GenEval two objects", "two_object"), _geneval("GenEval counting", "counting"),
            _geneval("GenEval colours", "colors"), _geneval("GenEval position", "position"),
            _geneval("GenEval colour attribution", "color_attr"),
            _t2i("T2I-CompBench colour", "color"), _t2i("T2I-CompBench shape", "shape"),
            _t2i("T2I-CompBench texture", "texture"), _t2i("T2I-CompBench spatial", "spatial"),
            _t2i("T2I-CompBench non-spatial", "non_spatial", on_scenes=False),
            _t2i("T2I-CompBench complex", "complex", on_scenes=False),
            Column("DrawBench CLIP-T", ("drawbench/clip",), left_open="CLIP not named: ViT-L/14"),
        ),
        """
        DALL-E 2     | 0.52 0.94 0.66 0.49 0.77 0.10 0.19 0.575 0.546 0.637 0.128 0.304 0.370 -
        SDv1.5       | 0.43 0.97 0.38 0.35 0.76 0.04 0.06 0.373 0.365 0.422 0.131 - - -
        SDv2.1       | 0.50 0.98 0.51 0.44 0.85 0.07 0.17 0.569 0.450 0.498 0.174 - - -
        SDXL         | 0.55 0.98 0.74 0.39 0.85 0.15 0.23 0.637 0.541 0.564 0.203 0.311 0.409 -
        PixArt-alpha | 0.48 0.98 0.50 0.44 0.80 0.08 0.07 0.689 0.558 0.704 0.208 0.318 0.412 -
        DALL-E 3     | 0.67 0.96 0.87 0.47 0.83 0.43 0.45 0.811 0.675 0.807 - - - -
        SD3          | 0.74 0.99 0.94 0.72 0.89 0.33 0.60 - - - - - - -
        SEED-LLaMA   | 0.33 0.89 0.17 0.25 0.59 0.02 0.03 0.176 0.184 0.202 0.068 0.289 0.227 0.220
        LaVIT        | 0.51 0.93 0.70 0.43 0.67 0.17 0.18 0.439 0.457 0.575 0.151 0.311 0.320 0.259
        Emu2-Gen     | 0.35 0.93 0.28 0.14 0.70 0.05 0.02 0.338 0.359 0.400 0.099 0.299 0.285 0.235
        SEED-X       | 0.49 0.96 0.57 0.29 0.82 0.14 0.15 0.657 0.492 0.603 0.172 0.306 0.361 0.265
        VILA-U       | 0.40 0.88 0.42 0.25 0.69 0.08 0.09 0.568 0.433 0.501 0.154 0.307 0.334 0.262
        Lumina-mGPT  | 0.52 0.99 0.70 0.34 0.85 0.08 0.17 0.556 0.465 0.588 0.176 0.312 0.343 0.267
        Transfusion  | 0.63 - - - - - - - - - - - - -
        Emu3         | 0.54 0.98 0.71 0.34 0.81 0.17 0.21 0.611 0.473 0.618 0.137 0.300 0.345 0.265
        DDT-LLaMA    | 0.66 0.99 0.64 0.56 0.87 0.39 0.48 0.728 0.514 0.642 0.176 0.314 0.345 0.267
        """,
    ),
    _table(
        2, "Image editing (100 times the distance or similarity)",
        (
            _edit("EVR L1", ("evr/l1",), "requests not stated: all three"),
            _edit("EVR CVS", ("evr/cvs",), "CLIP not named: ViT-B/32"),
            _edit("MA5K L1", ("ma5k/l1",), ""),
            _edit("MA5K LPIPS", ("ma5k/lpips",), "backbone not named: AlexNet v0.1"),
            _edit(
                "MagicBrush L1", ("magicbrush/all_turn/l1", "magicbrush/final_turn/l1"),
                "setting not stated: both", "edit/l1",
            ),
            _edit(
                "MagicBrush CVS", ("magicbrush/all_turn/cvs", "magicbrush/final_turn/cvs"),
                "setting not stated: both; CLIP not named: ViT-B/32",
            ),
        ),
        """
        InsPix2Pix  | 18.9 81.4 17.6 35.9 10.1 85.2
        MGIE        | 16.3 81.7 13.3 29.8 8.2 91.1
        UltraEdit   | 14.4 81.6 16.5 35.2 6.6 88.4
        GILL        | 31.8 65.0 27.4 44.3 28.3 75.2
        Emu2-Gen    | 22.8 80.3 20.5 36.4 19.9 85.7
        SEED-LLaMA  | 28.4 72.3 24.6 39.0 24.5 80.9
        LaVIT       | 26.8 73.8 25.1 36.9 25.3 81.1
        SEED-X-Edit | 16.7 81.9 14.6 32.7 18.4 86.1
        DDT-LLaMA   | 14.5 85.5 14.2 29.6 7.1 92.4
        """,
    ),
    _table(
        3, "Comprehension (CIDEr and percent, MME's points)",
        (
            _percent(
                "NoCaps", ("nocaps/cider",), "split not stated: val", "caption/cider",
                "captions of drawn scenes; the idf is that of these few words",
            ),
            _percent("Flickr30K", ("flickr30k/cider",), "split not stated: Karpathy's test"),
            _percent(
                "VQAv2", ("vqav2/accuracy",), VQA_SPLIT.format("val"), "vqa/accuracy",
                f"{ASKED}, one reference an answer",
            ),
            _percent("GQA", ("gqa/accuracy",), VQA_SPLIT.format("testdev")),
            _percent("OKVQA", ("okvqa/accuracy",), VQA_SPLIT.format("val")),
            _percent("VizWiz", ("vizwiz/accuracy",), VQA_SPLIT.format("val")),
            Column(
                "MME perception", ("mme/perception",), "mme/perception", digits=1,
                own_differs=f"{ASKED}: four of the ten categories, at most 800 points",
            ),
            _percent(
                "SEED-Bench", ("seed/all", "seed/image"), "images or all not stated: both; ranking",
                "choice/accuracy", "multiple choice about drawn scenes, by ranking",
            ),
            _percent("POPE", ("pope/f1",), "mean of the three files' F1", "pope/f1", ASKED),
        ),
        """
        InstructBlip  | 123.1 82.4 - 49.2 - 34.5 1212.8 58.8 -
        QWenVL-Chat   | 120.2 81.0 78.2 57.5 56.6 38.9 1487.57 58.2 -
        LLaVA-1.5     | 105.5 - 78.5 62.0 53.4 50.0 1510.7 64.3 85.9
        mPLUG-Owl2    | - 85.1 79.4 56.1 57.7 54.5 1450.3 57.8 86.2
        ShareGPT4V    | - - 80.6 63.3 - 57.2 1567.4 69.7 -
        LLaVA-1.6(HD) | 88.3 - 80.6 64.2 44.3 60.6 - 64.7 86.5
        VILA          | - - 79.9 62.3 - 57.9 1533.0 61.1 85.5
        Emu2-Chat     | 119.8 86.0 84.9 65.1 64.8 54.9 1315.7 62.8 -
        SEED-LLaMA    | 90.4 66.7 66.2 34.8 45.9 55.1 736.7 51.5 -
        VILA-U        | 95.4 70.3 75.3 58.3 59.6 35.3 1336.2 56.3 83.9
        LaVIT         | 114.2 83.0 66.0 46.8 54.6 38.5 997.9 57.3 82.2
        Emu3          | 117.5 82.5 75.1 60.3 61.2 50.5 - 68.2 85.2
        DDT-LLaMA     | 124.2 88.5 76.4 66.3 65.9 57.3 1378.9 67.9 86.9
        """,
    ),
    _table(
        4, "Tokens: reconstruction of ImageNet's validation images, and class-conditional generation",
        (
            Column(
                "PSNR, dB", ("reconstruction/psnr",), "reconstruct/psnr", digits=1,
                left_open="mean over images; shorter side to 256, centre square",
                own_differs="this run's own pictures at its own size",
            ),
            Column(
                "class-conditional FID", ("class_fid/fid",), digits=1, lower_is_better=True,
                left_open="reference and Inception weights not named",
            ),
        ),
        """
        VQGAN          | 18.9 15.8
        VQGAN-LC       | 20.8 15.4
        RQ-Transformer | - 7.6
        MoVQ           | 21.5 7.1
        DDT-LLaMA      | 21.7 6.1
        """,
    ),
)  # fmt: skip
