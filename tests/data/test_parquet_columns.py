"""Parquet as Spark, pandas, Arrow, Hugging Face and img2dataset write it: types, encodings, damaged text."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddt.data.readers import list_sources, read_edits, read_parquet, read_source
from ddt.data.readers.edits import INSTRUCTION, SOURCE, TARGET
from ddt.data.schemas import EDIT_SCHEMA
from ddt.records import RECORD_SCHEMA, write_shard
from tests.data.test_readers import CONFIG, image, split

LIMITS = {"max_pixels": 10_000, "min_side_px": 8}
TEXTS = [f"text {i}" for i in range(4)]


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [png(colour) for colour in ("red", "blue", "green", "white")]


def unchecked(values, kind):
    """A string column with these bytes, as writers that do not look at them make it."""
    binary = pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary())
    return pa.Array.from_buffers(kind, len(binary), binary.buffers())


def pairs(tmp_path, name="a", **columns):
    path = tmp_path / f"{name}.parquet"
    pq.write_table(pa.table(columns), path)
    good, bad = split(read_source(path, path.name, CONFIG))
    write_shard(tmp_path / "shard", good, RECORD_SCHEMA)
    return [row["caption"] for row in good], bad


def edits(tmp_path, **columns):
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table(columns), path)
    good, bad = split(read_edits(path, **LIMITS))
    write_shard(tmp_path / "shard", good, EDIT_SCHEMA)
    return good, bad


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_text_that_is_no_utf_8_costs_at_most_its_row(tmp_path, kind):
    texts = [b"one", b"caf\xe9 at night", "你好世界".encode("gbk"), b"a\0 b"]
    for column in (unchecked(texts, kind), pa.array(texts, pa.binary())):
        captions, (reject,) = pairs(tmp_path, image=[image(i) for i in range(4)], caption=column)
        assert captions == ["one", "café at night", "a b"]
        assert (reject.reason, reject.source, reject.key) == ("bad_record", "a.parquet", "row 2")
        rows, (reject,) = edits(tmp_path, source_img=IMAGES, instruction=column, target_img=IMAGES[::-1])
        assert [row["instruction"] for row in rows] == ["one", "café at night", "a b"]
        assert (reject.source, reject.key) == ("e.parquet", "row 2")


def test_text_that_is_no_utf_8_within_dictionaries_and_views(tmp_path):
    """Arrow can't even build these columns, nor a batch in which they are, by its own schema."""
    texts = [b"one", b"caf\xe9 at night", "你好世界".encode("gbk"), b"one"]
    plain = unchecked(texts, pa.string())
    coded = pa.DictionaryArray.from_arrays(pa.array([3, 1, 2, 0], pa.int8()), plain)
    for column in (coded, pa.ListArray.from_arrays(pa.array([0, 1, 2, 3, 4]), plain)):
        captions, (reject,) = pairs(tmp_path, image=[image(i) for i in range(4)], caption=column)
        assert captions == ["one", "café at night", "one"] and reject.key == "row 2"


def test_a_file_of_any_name_is_read(tmp_path):
    path = tmp_path / "caf\udce9 \n[x].parquet"
    pq.write_table(pa.table({"image": [image()], "caption": ["c"]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").rename(path)
    (row,) = read_source(path, path.name, CONFIG)
    assert row["source"] == r"caf\xe9 [x].parquet/row 0" and row["caption"] == "c"
    assert [source.place for source in list_sources(tmp_path)] == [str(path)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXTS),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.string_view()),
        pa.array(TEXTS).dictionary_encode(),
        pa.array([t.encode() for t in TEXTS], pa.binary_view()),
        pa.array([[t, "another"] for t in TEXTS]),
        pa.array([["", None, t] for t in TEXTS]),
        pa.array([{"raw": t, "tokens": 2} for t in TEXTS]),
        pa.array([[{"raw": t}] for t in TEXTS]),
        pa.array([f"\ufeff{t}\u2028" for t in TEXTS]),
    ],
    ids=lambda column: str(column.type)[:30],
)
def test_captions_of_every_type(tmp_path, column):
    for name in ("caption", "TEXT", "Title"):
        columns = {"image": [image(i) for i in range(4)], name: column, "n": [1] * 4}
        assert pairs(tmp_path, **columns) == (TEXTS, [])


def test_a_caption_within_the_metadata_of_each_row(tmp_path):
    """As the hub shows WebDataset: jpg, json, __key__, __url__."""
    meta = pa.array([{"caption": t, "width": 3} for t in TEXTS])
    keys = [f"k{i}" for i in range(4)]
    columns = {"jpg": [image(i) for i in range(4)], "json": meta, "__key__": keys, "__url__": keys}
    assert pairs(tmp_path, **columns) == (TEXTS, [])


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    "column",
    [
        pa.array(IMAGES, pa.binary()),
        pa.array(IMAGES, pa.large_binary()),
        pa.array(IMAGES, pa.binary_view()),
        pa.array(IMAGES).dictionary_encode(),
        pa.array([{"bytes": data, "path": None} for data in IMAGES], STRUCT),
        pa.array([{"bytes": data, "path": "gone.png"} for data in IMAGES], STRUCT),
        pa.array([{"bytes": None, "path": f"in/{i}.png"} for i in range(4)], STRUCT),
        pa.array([{"bytes": None, "path": f"in/{i}.png"} for i in range(4)]),  # the bytes are of type null
        pa.array([{"bytes": b"", "path": f"./in/{i}.png"} for i in range(4)], STRUCT),
        pa.array([{"path": f"in/{i}.png"} for i in range(4)]),
        pa.array([{"bytes": data} for data in IMAGES]),
        pa.array([{"image": {"bytes": data, "path": None}} for data in IMAGES]),
        pa.array([f"in/{i}.png" for i in range(4)]),
        pa.array([f"in/{i}.png" for i in range(4)]).dictionary_encode(),
        pa.array([[data] for data in IMAGES]),
        pa.array([[{"bytes": data, "path": None}] for data in IMAGES]),
        pa.array([[None, f"in/{i}.png"] for i in range(4)]),
    ],
    ids=lambda column: str(column.type)[:40].replace("\n", " "),
)
def test_images_of_every_type(tmp_path, column):
    (tmp_path / "in").mkdir()
    for i, data in enumerate(IMAGES):
        (tmp_path / f"in/{i}.png").write_bytes(data)
    pq.write_table(pa.table({"image": column, "caption": TEXTS}), tmp_path / "p.parquet")
    assert [sample.image for sample in read_parquet(tmp_path / "p.parquet")] == IMAGES
    rows, bad = edits(tmp_path, source_image=column, edit_prompt=TEXTS, edited_image=column)
    assert [row["image"] for row in rows] == [row["target"] for row in rows] == IMAGES and bad == []


@pytest.mark.parametrize(
    ("names", "forms"),
    [
        (
            ("original_image", "edit_prompt", "edited_image"),
            {"edited_prompt": "a caption"},
        ),  # InstructPix2Pix
        (("source_img", "instruction", "target_img"), {"img_id": "1", "turn_index": 1}),  # MagicBrush
        (("input_image", "edit", "output_image"), {"input": "text", "output": "text"}),  # HQ-Edit
        (
            ("source_image", "edit_prompt", "edited_image"),
            {"source_caption": "c", "target_caption": "d"},
        ),  # UltraEdit
        (("src_img", "edited_prompt_list", "edited_img"), {"omni_edit_id": "1", "task": "swap"}),  # OmniEdit
        (("source_image", "instruction", "target_image"), {}),  # SEED-Data-Edit
        (("image_file", "edit_instruction", "edited_file"), {"edit_type": "add"}),  # AnyEdit
        (("input_image", "input_prompt", "output_image"), {}),  # ShareGPT-4o-Image
        (("Source_Img", "INSTRUCTION", "Target_Img"), {"source": "coco", "target": "x"}),
    ],
)
def test_edits_under_the_names_of_published_sets(tmp_path, names, forms):
    source, instruction, target = names
    texts = [[t, "shorter"] for t in TEXTS] if instruction == "edited_prompt_list" else TEXTS
    others = {name: [value] * 4 for name, value in forms.items()}
    columns = {**others, source: IMAGES, instruction: texts, target: IMAGES[::-1]}
    rows, bad = edits(tmp_path, **columns)
    assert [(row["image"], row["instruction"], row["target"]) for row in rows] == list(
        zip(IMAGES, TEXTS, IMAGES[::-1], strict=True)
    )
    assert bad == []


def test_a_bad_row_of_edits_is_rejected_alone(tmp_path):
    (tmp_path / "secret.png").write_bytes(png("black"))
    (tmp_path / "set").mkdir()
    paths = [
        "../secret.png",
        f"{tmp_path}/secret.png",
        "gone.png",
        "http://x/a.png",
        "a\0.png",
        "x" * 5000,
        "",
        None,
    ]
    columns = {
        "source_img": [*paths, "ok.png", "ok.png"],
        "instruction": [*(["change"] * len(paths)), "change", " \ufeff"],
        "target_img": ["ok.png"] * (len(paths) + 2),
    }
    (tmp_path / "set/ok.png").write_bytes(png("red"))
    (row,), bad = edits(tmp_path / "set", **columns)
    assert row["image"] == png("red")
    reasons = [reject.reason for reject in bad]
    assert reasons == ["bad_record"] * 2 + ["missing_image"] * 2 + ["bad_record"] + ["missing_image"] * 3 + [
        "bad_record"
    ]
    assert [reject.key for reject in bad] == [f"row {i}" for i in range(8)] + ["row 9"]
    assert all(len(reject.detail) <= 300 and reject.detail.isprintable() for reject in bad)


def test_several_images_where_one_is_expected_are_that_rows_reject(tmp_path):
    column = pa.array([[data] for data in IMAGES[:3]] + [IMAGES[:2]])
    rows, (reject,) = edits(tmp_path, source_img=column, instruction=TEXTS, target_img=IMAGES)
    assert len(rows) == 3 and (reject.key, reject.detail) == ("row 3", "2 images, expected one")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"source_img": [1.5], "instruction": ["x"], "target_img": [b"x"]},
         "column 'source_img' is of type double"),
        ({"source_img": [[[0, 255]]], "instruction": ["x"], "target_img": [b"x"]},
         r"column 'source_img' is of type list<.*list<.*int64>>, expected image bytes, a path"),
        ({"source_img": [b"x"], "instruction": [7], "target_img": [b"x"]},
         "column 'instruction' is of type int64, expected text or a list of texts; columns: source_img"),
        ({"source_img": [b"x"], "instruction": ["x"]}, "no column for the target image"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_are_refused_by_name_and_type(tmp_path, columns, message):
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ValueError, match=f"e.parquet: {message}") as caught:
        list(read_edits(path, **LIMITS))
    assert "\n" not in str(caught.value)


def test_a_column_that_is_there_twice_is_told(tmp_path):
    table = pa.table(
        [pa.array([b"x"]), pa.array([b"y"]), pa.array(["c"])], names=["image", "image", "caption"]
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="there are 2 columns 'image', expected one"):
        list(read_parquet(tmp_path / "a.parquet"))


def test_bytes_come_before_paths_and_usual_names_before_others():
    text, data = pa.string(), pa.binary()
    names = [("source", text), ("src_img", data), ("target", data), ("prompt", text), ("edit", text)]
    schema = pa.schema(names)
    assert [wanted.find("p", schema) for wanted in (SOURCE, INSTRUCTION, TARGET)] == [
        "src_img",
        "edit",
        "target",
    ]


def test_failed_downloads_are_told_and_are_no_loss(tmp_path):
    """img2dataset in its Parquet form leaves a row for each address that it could not fetch."""
    captions, (reject, missing) = pairs(
        tmp_path,
        jpg=[image(0), None, None],
        caption=["a", "b", "c"],
        status=["success", "failed_to_download", "success"],
        error_message=[None, "HTTP Error 404: Not Found", None],
        key=["000", "001", "002"],
    )
    assert captions == ["a"]
    assert (reject.reason, reject.key, reject.lost) == ("not_downloaded", "row 1 (001)", 0)
    assert reject.detail == "failed_to_download: HTTP Error 404: Not Found"
    assert (missing.reason, missing.lost) == ("missing_image", 1)


def test_columns_in_which_a_shard_has_nothing(tmp_path):
    """pandas writes them without a type: no reason to stop at that shard."""
    assert pairs(tmp_path, image=[image(0), image(1)], caption=pa.nulls(2)) == (["", ""], [])
    captions, bad = pairs(tmp_path, jpg=pa.nulls(2), caption=["a", "b"], status=["failed", "success"])
    assert captions == [] and [r.reason for r in bad] == ["not_downloaded", "missing_image"]
    rows, bad = edits(tmp_path, source_img=pa.nulls(1), instruction=["x"], target_img=[IMAGES[0]])
    assert rows == [] and [r.reason for r in bad] == ["missing_image"]


def test_keys_of_any_kind_say_where_a_row_stands(tmp_path):
    images = [b"", image(0)]
    for key in (["a\nb", "c"], [b"\xff", b"x"], [1, 2], [None, None], [{"a": 1}, {"a": 2}]):
        _, (reject,) = pairs(tmp_path, image=images, caption=["x", "y"], id=key)
        assert reject.key.startswith("row 0") and reject.key.isprintable()


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\x1f\x8b" * 50, b"<html>404</html>"])
def test_a_file_that_is_no_parquet_is_one_reject_of_pairs_and_edits(tmp_path, data):
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    for read in (read_parquet(path), read_edits(path, **LIMITS)):
        (reject,) = read
        assert (reject.reason, reject.key) == ("corrupt_archive", "a.parquet") and reject.detail
        assert reject.lost == 1


def test_of_a_file_that_can_t_be_opened_so_many_are_lost_as_would_fit(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"image": [bytes(100_000)] * 30, "caption": ["c"] * 30})
    pq.write_table(table, path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes()[:-100])
    (reject,) = read_parquet(path)
    assert reject.reason == "corrupt_archive" and reject.lost == 30
