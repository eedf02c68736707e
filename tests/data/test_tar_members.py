"""Archives as people make them: names with dots, names that are no UTF-8, captions in all their forms."""

import io
import json
import re
import tarfile
from collections import Counter

import pytest

from ddt.data.readers import read_source, read_tar
from ddt.data.readers.tar import split_name
from ddt.records import RECORD_SCHEMA, REJECT_SCHEMA, write_shard
from tests.data.test_readers import CONFIG, image, split, write_tar


def pairs(*keys):
    return [
        m
        for i, key in enumerate(keys)
        for m in ((f"{key}.jpg", image(i)), (f"{key}.txt", f"text {key}".encode("utf-8", "replace")))
    ]


def read(tmp_path, members, **options):
    """(captions by key, rejects) of a tar with these members, written into shards as ingest does."""
    with tarfile.open(tmp_path / "0.tar", "w", **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    good, bad = split(read_source(tmp_path / "0.tar", "0.tar", CONFIG))
    write_shard(tmp_path / "r", good, RECORD_SCHEMA)
    write_shard(tmp_path / "b", [reject.row() for reject in bad], REJECT_SCHEMA)
    return {row["source"].removeprefix("0.tar/"): row["caption"] for row in good}, bad


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("photo.00001.jpg", "photo.00001", "jpg"),
        ("a/b.c/v1.2.JPEG", "a/b.c/v1.2", "jpeg"),
        ("./a.txt", "a", "txt"),
        ("a.jpg.txt", "a", "jpg.txt"),
        ("a.tif.jpg", "a", "tif.jpg"),
        ("a.seg.png", "a.seg", "png"),
        ("x.npy", "x", "npy"),
        ("../../a.jpg", "../../a", "jpg"),
        ("/abs.jpg", "abs", "jpg"),
        ("README", "", ""),
        ("d/._a.jpg", "", ""),
        (".git/a.jpg", "", ""),
        ("__MACOSX/a.jpg", "", ""),
        (".jpg", "", ""),
        ("", "", ""),
    ],
)
def test_the_key_ends_before_the_last_known_extension(name, key, extension):
    assert split_name(name) == (key, extension)


def test_names_with_dots_are_samples_of_their_own(tmp_path):
    keys = [f"photo.{i:05d}" for i in range(40)]
    captions, bad = read(tmp_path, pairs("good/00000", *keys, "IMG_1.final.edit"))
    assert captions == {key: f"text {key}" for key in ("good/00000", *keys, "IMG_1.final.edit")} and bad == []


def test_further_members_of_a_sample_do_not_break_it(tmp_path):
    members = [
        *pairs("a", "b.1", "b.1.x"),
        ("a.seg.png", image(9)), ("a.depth.npy", b"0"), ("a.cls", b"3"),
        ("c.jpg", image(3)), ("c.en.txt", b"english"),
        ("d.png", image(4)), ("d.png.txt", b"after the whole name"),
        ("notes.md", b"#"), ("stats.csv", b"1,2"), (".DS_Store", b"x"), ("._a.jpg", b"x"),
    ]  # fmt: skip
    captions, bad = read(tmp_path, members[::-1])
    assert captions == {"a": "text a", "b.1": "text b.1", "b.1.x": "text b.1.x", "c": "english",
                        "d": "after the whole name"} and bad == []  # fmt: skip


def test_a_triple_of_pictures_is_no_pair(tmp_path):
    """Editing sets as WebDataset has them: neither picture may become the caption's by itself."""
    captions, bad = read(
        tmp_path, [("1.txt", b"make it red"), ("1.input.jpg", image(1)), ("1.out.jpg", image(2))]
    )
    assert captions == {"1.input": "", "1.out": ""} and [r.reason for r in bad] == ["missing_image"]


def test_repeated_keys_count_each_lost_pair(tmp_path):
    members = [("photo.jpg", image(0)), ("photo.txt", b"first")] * 40 + pairs("ok")
    captions, (reject,) = read(tmp_path, members)
    assert captions == {"photo": "first", "ok": "text ok"}
    assert (reject.key, reject.reason, reject.lost) == ("photo", "bad_record", 39)


def test_names_that_are_no_utf_8_are_escaped_and_pair_up(tmp_path):
    members = pairs("00000", "jaime_mu\udcf1oz", "línea\u2028dos", "tab\there")
    captions, bad = read(
        tmp_path, members, encoding="utf-8", errors="surrogateescape", format=tarfile.GNU_FORMAT
    )
    assert list(captions) == ["00000", r"jaime_mu\xf1oz", "línea dos", "tab here"] and bad == []


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        (b"\xef\xbb\xbfa cat", "a cat"),
        ("a cat".encode("utf-16"), "a cat"),
        ("ein Bär".encode("cp1252"), "ein Bär"),
        (b"a \xf0\x9f\x90\x88 cat \xf0\x9f", "a 🐈 cat"),
        (b"a\0 cat\x07", "a cat"),
        ("a\u2028cat\r\n".encode(), "a cat"),
        (b"", ""),
    ],
)
def test_captions_in_every_encoding(tmp_path, data, caption):
    assert read(tmp_path, [("a.jpg", image()), ("a.txt", data)])[0] == {"a": caption}


def test_a_caption_that_is_no_text_is_that_samples_reject(tmp_path):
    members = [*pairs("a"), ("b.jpg", image(5)), ("b.txt", "你好世界".encode("gbk"))]
    captions, (reject,) = read(tmp_path, members)
    assert list(captions) == ["a"] and (reject.reason, reject.key) == ("bad_record", "b")
    assert "neither UTF-8 nor Windows-1252" in reject.detail


@pytest.mark.parametrize(
    ("meta", "caption"),
    [
        ({"caption": "a string"}, "a string"),
        ({"caption": ["the first", "the second"]}, "the first"),
        ({"caption": [None, " ", "the first that is not empty"]}, "the first that is not empty"),
        ({"TEXT": "as LAION writes it"}, "as LAION writes it"),
        ({"caption": "", "alt": "from the next name"}, "from the next name"),
        ({"sentences": [{"tokens": ["a"], "raw": "as COCO writes it"}]}, "as COCO writes it"),
        ({"json": {"prompt": "one level down"}}, "one level down"),
        ({"caption": "half \ud83d an emoji"}, "half an emoji"),
        ({"caption": "a", "n": float("nan"), "deep": 10**500}, "a"),
        (
            {
                "caption": "a",
                "planted": "half \ud83d",
                "questions": [{"question": "\ud83d?", "answer": "y\0"}],
            },
            "a",
        ),
    ],
)
def test_captions_of_the_json_under_usual_names(tmp_path, meta, caption):
    captions, bad = read(tmp_path, [("a.jpg", image()), ("a.json", json.dumps(meta).encode())])
    assert captions == {"a": caption} and bad == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"caption": 17}', "caption is of type int"),
        (
            b'{"beschreibung": "ein Bild", "width": 3}',
            "no caption under a usual name .*: beschreibung, width",
        ),
        (b"{broken", r"\.json: not JSON at column 2"),
        (b"[" * 100_000, r"\.json: JSON that is nested too deep"),
        (b'["a"]', r"\.json: expected an object"),
    ],
)
def test_a_caption_that_is_not_understood_is_told_and_its_sample_kept(tmp_path, data, told):
    captions, (reject,) = read(tmp_path, [("a.jpg", image()), ("a.json", data)])
    assert captions == {"a": ""}
    assert (reject.reason, reject.key, reject.lost) == ("unread_caption", "a", 0)
    assert re.search(told, reject.detail)


@pytest.mark.parametrize("meta", [{"caption": None}, {"caption": "", "url": "x"}, {"captions": []}, {}])
def test_metadata_without_a_caption_say_so_and_nothing_is_told(tmp_path, meta):
    captions, bad = read(tmp_path, [("a.jpg", image()), ("a.json", json.dumps(meta).encode())])
    assert captions == {"a": ""} and bad == []


def test_metadata_are_not_looked_into_without_end(tmp_path):
    deep = 400
    meta = ('{"meta": ' * deep + '{"caption": ' + "[" * deep + '"x"' + "]" * deep + "}" + "}" * deep).encode()
    members = [("a.jpg", image()), ("a.json", meta), ("b.jpg", image(1)), ("b.json", meta[deep * 9 : -deep])]
    assert read(tmp_path, members)[0] == {"a": "", "b": ""}


def test_the_text_file_comes_before_the_json_unless_it_is_blank(tmp_path):
    meta = json.dumps({"caption": "of the json"}).encode()
    members = [("a.jpg", image(0)), ("a.txt", b"of the text"), ("a.json", meta),
               ("b.jpg", image(1)), ("b.txt", b" \n"), ("b.json", meta)]  # fmt: skip
    assert read(tmp_path, members)[0] == {"a": "of the text", "b": "of the json"}


def test_a_linked_member_costs_its_sample_once(tmp_path):
    write_tar(tmp_path / "0.tar", pairs("a", "b"))
    with tarfile.open(tmp_path / "0.tar", "a") as archive:
        for name, kind in (
            ("c.jpg", tarfile.SYMTYPE),
            ("a.extra.png", tarfile.LNKTYPE),
            ("d.txt", tarfile.SYMTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("c.txt", "d.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(image(7))
            archive.addfile(info, io.BytesIO(image(7)))
    good, bad = split(read_tar(tmp_path / "0.tar"))
    assert [s.key for s in good] == ["a", "b"]
    assert [(r.key, r.reason, r.lost) for r in bad] == [("c", "bad_record", 1), ("d", "bad_record", 1)]


def test_archives_one_after_the_other_in_one_file_are_all_read(tmp_path):
    """`cat a.tar b.tar`: tar itself stops at the first end marker."""
    a, b = write_tar(tmp_path / "a.tar", pairs("a")), write_tar(tmp_path / "b.tar", pairs("b", "c"))
    both = tmp_path / "both.tar"
    both.write_bytes(a.read_bytes() + b.read_bytes())
    good, bad = split(read_tar(both))
    assert [s.key for s in good] == ["a", "b", "c"] and bad == []
    both.write_bytes(a.read_bytes() + b"anything" * 100)  # tar leaves what follows alone
    good, bad = split(read_tar(both))
    assert [s.key for s in good] == ["a"] and bad == []


@pytest.mark.parametrize(
    ("head", "name"), [(b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\3\4", "zip")]
)
def test_a_compressed_archive_is_told(tmp_path, head, name):
    (tmp_path / "0.tar").write_bytes(head + bytes(range(256)) * 20)
    (reject,) = read_tar(tmp_path / "0.tar")
    assert reject.reason == "corrupt_archive" and f"{name}-compressed, expected a plain tar" in reject.detail


@pytest.mark.parametrize("kind", [b"x", b"L", b"S", b"0", b"g"])
@pytest.mark.parametrize("size", [1 << 40, -(1 << 40), -512, (1 << 60) - 1])
def test_headers_that_claim_what_can_t_be_end_the_archive_not_the_reading(tmp_path, kind, size):
    """Sizes without memory for them, and below zero, which some versions of tarfile follow for ever."""
    whole = write_tar(tmp_path / "0.tar", pairs("a", "b")).read_bytes().rstrip(b"\0")
    info = tarfile.TarInfo("c.jpg")
    info.type, info.size = kind, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (b"\x80" if size > 0 else b"\xff") + (size % (1 << 88)).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    padding = b"\0" * (-len(whole) % 512)
    (tmp_path / "0.tar").write_bytes(whole + padding + header[:512] + b"\0" * 2048)
    good, bad = split(read_tar(tmp_path / "0.tar"))
    assert [s.key for s in good] == ["a", "b"]
    assert "corrupt_archive" in {r.reason for r in bad} <= {"corrupt_archive", "bad_record"}


def test_what_is_behind_a_damaged_header_is_counted_about(tmp_path):
    path = write_tar(tmp_path / "0.tar", pairs(*map(str, range(50))))
    with tarfile.open(path) as archive:
        start = archive.getmember("20.jpg").offset
    data = bytearray(path.read_bytes())
    data[start : start + 300] = b"\xa5" * 300
    path.write_bytes(data)
    good, (reject,) = split(read_tar(path))
    assert len(good) == 20 and 25 <= reject.lost <= 35
    path.write_bytes(b"\xa5" * 2_000_000)  # nothing to compare with: pictures of the web have some 100 kB
    (reject,) = read_tar(path)
    assert reject.lost == 20


def test_an_archive_of_something_else_is_told(tmp_path):
    for members in ([], [("README.md", b"x"), ("clip.mp4", b"y"), ("d/stats.csv", b"z")]):
        (reject,) = read_tar(write_tar(tmp_path / "0.tar", members))
        assert (reject.reason, reject.key, reject.lost) == ("missing_image", "0.tar", 0)
        assert reject.detail == "no picture and no text in it"


def test_a_json_that_can_t_be_read_costs_the_metadata_not_the_sample(tmp_path):
    members = [*pairs("a"), ("a.json", b'{"x": "' + b"y" * (1 << 20) + b'"}'), *pairs("b")]
    captions, bad = read(tmp_path, members)
    assert captions == {"a": "text a", "b": "text b"} and bad == []


def test_a_sample_that_is_cut_off_is_lost_once(tmp_path):
    path = write_tar(tmp_path / "0.tar", pairs("a", "b", "c"))
    with tarfile.open(path) as archive:
        cut = archive.getmember("c.jpg").offset_data + 100
    path.write_bytes(path.read_bytes()[:cut])
    good, bad = split(read_tar(path))
    assert [s.key for s in good] == ["a", "b"] and sum(r.lost for r in bad) == 1
    assert Counter(r.reason for r in bad) == {"corrupt_archive": 2}
