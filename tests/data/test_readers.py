"""Tars and Parquet files, whole and damaged: good samples come out, the rest is named with a reason."""

import io
import json
import tarfile
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddt.data.readers import RawSample, list_sources, read_parquet, read_source, read_tar
from ddt.records import RECORD_SCHEMA, Reject, sample_id, write_shard

CONFIG = SimpleNamespace(image_column=None, caption_column=None, min_side_px=16, max_pixels=10_000)


def image(seed=0, side=20, image_format="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def sample_members(index):
    meta = json.dumps({"url": f"http://x/{index}", "planted": "clean"}).encode()
    key = f"{index:05d}"
    return [(f"{key}.jpg", image(index)), (f"{key}.txt", f"caption {index}".encode()), (f"{key}.json", meta)]


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def members_of(path):
    with tarfile.open(path) as archive:
        return archive.getmembers()


def split(items):
    items = list(items)
    return [i for i in items if not isinstance(i, Reject)], [i for i in items if isinstance(i, Reject)]


class TestTar:
    def test_samples_of_an_img2dataset_tar(self, tmp_path):
        path = write_tar(tmp_path / "0.tar", [m for i in range(5) for m in sample_members(i)])
        good, bad = split(read_tar(path))
        assert [(s.key, s.caption, s.planted) for s in good] == [
            (f"{i:05d}", f"caption {i}", "clean") for i in range(5)
        ]
        assert [s.image for s in good] == [image(i) for i in range(5)] and bad == []

    def test_order_of_members_does_not_matter(self, tmp_path):
        members = [m for i in range(8) for m in sample_members(i)]
        want = {s.key: s for s in read_tar(write_tar(tmp_path / "a.tar", members))}
        shuffled = [members[i] for i in np.random.default_rng(0).permutation(len(members))]
        good, bad = split(read_tar(write_tar(tmp_path / "b.tar", shuffled)))
        assert {s.key: s for s in good} == want and bad == []

    @pytest.mark.parametrize("cut", [0.15, 0.4, 0.66, 0.9])
    def test_truncated_tar_keeps_what_is_whole(self, tmp_path, cut):
        path = write_tar(tmp_path / "0.tar", [m for i in range(10) for m in sample_members(i)])
        want = {s.key: s for s in read_tar(path)}
        data = path.read_bytes()
        ends = [m.offset_data + m.size for m in members_of(path) if m.name.endswith(".jpg")]
        at = int(ends[-1] * cut)
        path.write_bytes(data[:at])
        good, bad = split(read_tar(path))
        whole = sum(end <= at for end in ends)
        assert 0 < whole < 10 and whole - 1 <= len(good) <= whole
        assert all(s.image == want[s.key].image for s in good)
        assert bad and {r.reason for r in bad} <= {"corrupt_archive", "missing_image"}
        assert bad[-1].reason == "corrupt_archive" and bad[-1].key == "0.tar"

    def test_cut_exactly_between_samples_is_noticed(self, tmp_path):
        path = write_tar(tmp_path / "0.tar", [m for i in range(3) for m in sample_members(i)])
        start = next(m.offset for m in members_of(path) if m.name == "00002.jpg")
        path.write_bytes(path.read_bytes()[:start])
        good, bad = split(read_tar(path))
        assert len(good) == 2 and [r.reason for r in bad] == ["corrupt_archive"]
        assert "no end marker" in bad[0].detail and "00001" in bad[0].detail

    def test_damaged_header_in_the_middle_is_noticed(self, tmp_path):
        path = write_tar(tmp_path / "0.tar", [m for i in range(4) for m in sample_members(i)])
        start = next(m.offset for m in members_of(path) if m.name == "00002.jpg")
        data = bytearray(path.read_bytes())
        data[start : start + 300] = b"\xa5" * 300
        path.write_bytes(data)
        good, bad = split(read_tar(path))
        assert [s.key for s in good] == ["00000", "00001"] and [r.reason for r in bad] == ["corrupt_archive"]

    @pytest.mark.parametrize("data", [b"", b"not a tar", bytes(range(256)) * 40, b"\0" * 100])
    def test_garbage_is_one_reject_that_names_the_file(self, tmp_path, data):
        (tmp_path / "bad.tar").write_bytes(data)
        good, bad = split(read_source(tmp_path / "bad.tar", "bad.tar", CONFIG))
        assert good == [] and [(r.reason, r.key, r.source) for r in bad] == [
            ("corrupt_archive", "bad.tar", "bad.tar")
        ]
        assert "\n" not in bad[0].detail

    def test_missing_and_doubled_members(self, tmp_path):
        members = [
            ("a.txt", b"no image"),
            ("b.jpg", image(1)),
            ("c.jpg", image(2)), ("c.json", b'{"caption": "from json"}'),
            ("d.png", image(3, image_format="PNG")), ("d.txt", b"broken \xff text"),
            ("d.json", b"{broken"),
            ("e.tiff", b"II*\0"),
            ("f.jpg", image(4)), ("f.jpg", image(5)),
            ("README", b"not a sample"), (".hidden", b""), ("dir.v1/g.jpg", image(6)),
        ]  # fmt: skip
        good, bad = split(read_tar(write_tar(tmp_path / "0.tar", members)))
        captions = {s.key: s.caption for s in good}
        assert captions == {"b": "", "c": "from json", "d": "broken ÿ text", "f": "", "dir.v1/g": ""}
        assert [(r.key, r.reason) for r in bad] == [
            ("a", "missing_image"),
            ("e", "unsupported_format"),
            ("f", "bad_record"),
        ]
        assert next(s for s in good if s.key == "f").image == image(4)

    def test_hostile_paths_and_links_write_and_read_nothing(self, tmp_path):
        path = tmp_path / "in" / "evil.tar"
        path.parent.mkdir()
        with tarfile.open(path, "w") as archive:
            for name, kind, target in (
                ("../../escape.jpg", tarfile.REGTYPE, ""),
                ("/abs.jpg", tarfile.REGTYPE, ""),
                ("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
                ("hard.jpg", tarfile.LNKTYPE, "/etc/passwd"),
                ("fifo.jpg", tarfile.FIFOTYPE, ""),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, target
                data = image() if kind == tarfile.REGTYPE else b""
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        good, bad = split(read_tar(path))
        assert len(good) == 2 and Counter(r.reason for r in bad) == {"bad_record": 3}
        assert [p.name for p in tmp_path.rglob("*")] == ["in", "evil.tar"]

    def test_claimed_sizes_are_not_believed(self, tmp_path):
        path = write_tar(tmp_path / "0.tar", sample_members(0))
        info = tarfile.TarInfo("bomb.jpg")
        info.size = 1 << 40
        data = path.read_bytes()
        end = len(data.rstrip(b"\0")) // 512 * 512 + 512
        path.write_bytes(data[:end] + info.tobuf() + b"\0" * 1024)
        good, bad = split(read_tar(path))
        assert [s.key for s in good] == ["00000"]
        assert {(r.key, r.reason) for r in bad} == {("bomb", "corrupt_archive"), ("0.tar", "corrupt_archive")}

    def test_memory_is_bounded(self, tmp_path):
        noise = np.random.default_rng(0).bytes(1 << 20)
        path = write_tar(tmp_path / "big.tar", [(f"{i}.jpg", noise) for i in range(40)])
        tracemalloc.start()
        assert sum(len(s.image) for s in read_tar(path)) == 40 << 20
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20


class TestParquet:
    def write(self, path, columns, **options):
        pq.write_table(pa.table(columns), path, **options)
        return path

    def test_plain_bytes(self, tmp_path):
        path = self.write(
            tmp_path / "a.parquet", {"jpg": [image(0), image(1)], "text": ["x", None], "n": [1, 2]}
        )
        assert list(read_parquet(path)) == [
            RawSample("row 0", image(0), "x"),
            RawSample("row 1", image(1), ""),
        ]

    def test_hugging_face_struct_and_class_labels(self, tmp_path):
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = pa.array([{"bytes": image(i), "path": None} for i in range(3)], struct)
        features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}, "image": {"_type": "Image"}}
        schema = pa.schema([("image", struct), ("label", pa.int64())], metadata={
            "huggingface": json.dumps({"info": {"features": features}})
        })  # fmt: skip
        pq.write_table(pa.table({"image": images, "label": [0, 1, 7]}, schema=schema), tmp_path / "a.parquet")
        good, bad = split(read_parquet(tmp_path / "a.parquet"))
        assert [s.caption for s in good] == ["cat", "dog"]
        assert [r.reason for r in bad] == ["bad_record"] and "no class 7" in bad[0].detail

    def test_named_columns_and_their_absence(self, tmp_path):
        path = self.write(tmp_path / "a.parquet", {"photo": [image()], "says": ["hello"], "image": [[0.5]]})
        assert next(read_parquet(path, "photo", "says")).caption == "hello"
        for columns, words in (
            (
                (None, "says"),
                "column 'image' is of type list<.*double>, .*; set image_column; columns",
            ),
            (("photo", None), "set caption_column"),
            (("nope", "says"), "image_column 'nope' does not exist; columns: photo, says, image"),
            (("image", "says"), "image_column 'image' is of type list<"),
            (("photo", "image"), "caption_column 'image' is of type list<.*, expected text"),
        ):
            with pytest.raises(ValueError, match=words):
                list(read_parquet(path, *columns))

    def test_rows_without_an_image(self, tmp_path):
        path = self.write(tmp_path / "a.parquet", {"image": [None, b"", image()], "caption": ["a", "b", "c"]})
        good, bad = split(read_parquet(path))
        assert len(good) == 1 and [r.reason for r in bad] == ["missing_image"] * 2

    def test_damaged_file_gives_what_it_can(self, tmp_path):
        columns = {"image": [image(i) for i in range(300)], "caption": ["x"] * 300}
        path = self.write(tmp_path / "a.parquet", columns, row_group_size=100, compression="none")
        second = pq.ParquetFile(path).metadata.row_group(1).column(0)
        data = bytearray(path.read_bytes())
        start = second.dictionary_page_offset or second.data_page_offset
        data[start : start + 64] = b"\xff" * 64
        path.write_bytes(data)
        good, (reject,) = split(read_source(path, "a.parquet", CONFIG))
        assert len(good) == 200 and good[100]["image"] == image(200), "the row groups beside it are read"
        assert (reject.reason, reject.lost) == ("corrupt_archive", 100)
        assert "unreadable from row 100 to 199" in reject.detail
        path.write_bytes(b"PAR1 not at all")
        assert [r.reason for r in read_source(path, "a.parquet", CONFIG)] == ["corrupt_archive"]


class TestRecords:
    def test_bad_images_are_rejected_and_the_rest_stays(self, tmp_path):
        members = [
            ("ok.jpg", image(0)), ("ok.txt", b" two  words "),
            ("cut.jpg", image(1)[:300]), ("cut.json", b'{"planted": "corrupt"}'),
            ("tiny.png", image(2, side=8, image_format="PNG")),
            ("huge.png", image(3, side=101, image_format="PNG")),
            ("mute.jpg", image(4)),
        ]  # fmt: skip
        good, bad = split(read_source(write_tar(tmp_path / "0.tar", members), "0.tar", CONFIG))
        assert [(r.key, r.reason, r.planted, r.source) for r in bad] == [
            ("cut", "corrupt_image", "corrupt", "0.tar"),
            ("tiny", "too_small", None, "0.tar"),
            ("huge", "too_large", None, "0.tar"),
        ]
        assert [r["caption"] for r in good] == ["two words", ""]
        assert good[0]["sample_id"] == sample_id(image(0), "two words") and good[0]["image"] == image(0)
        assert (good[0]["width"], good[0]["format"], good[0]["source"]) == (20, "JPEG", "0.tar/ok")
        assert write_shard(tmp_path / "r.arrow", good, RECORD_SCHEMA) == 2


class TestListSources:
    def test_folders_files_and_globs(self, tmp_path):
        (tmp_path / "sub").mkdir()
        for name, data in (("b.tar", b"1"), ("a.parquet", b"2"), ("sub/c.tar", b"3"), ("copy.tar", b"1")):
            (tmp_path / name).write_bytes(data)
        (tmp_path / "notes.txt").write_text("no source")
        names = [(s.name, s.kind) for s in list_sources(tmp_path)]
        assert names == [("a.parquet", "parquet"), ("b.tar", "tar"), ("c.tar", "tar")], "equal content once"
        assert [s.name for s in list_sources(tmp_path / "b.tar")] == ["b.tar"]
        assert [s.name for s in list_sources(f"{tmp_path}/*/*.tar")] == ["c.tar"]
        (tmp_path / "b.tar").rename(tmp_path / "z.tar")
        assert {s.digest for s in list_sources(tmp_path / "z.tar")} == {
            s.digest for s in list_sources(tmp_path / "copy.tar")
        }

    def test_nothing_to_read_is_one_line(self, tmp_path):
        for where, words in ((tmp_path, "no .tar or .parquet"), (tmp_path / "none", "does not exist")):
            with pytest.raises(ValueError, match=f"^ingest.source: .*{words}") as caught:
                list_sources(where, "ingest.source")
            assert "\n" not in str(caught.value)

    def test_s3_prefix(self, s3_endpoint, tmp_path, monkeypatch):
        from ddt.store import open_store

        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        path = write_tar(tmp_path / "0.tar", sample_members(0))
        open_store("s3://test-bucket/raw-data").put_file("deep/0.tar", path)
        (source,) = list_sources("s3://test-bucket/raw-data/")
        assert source.name == "0.tar" and source.fetch().read_bytes() == path.read_bytes()
        with pytest.raises(ValueError, match="ingest.source: no .tar"):
            list_sources("s3://test-bucket/elsewhere/", "ingest.source")
        with pytest.raises(ValueError, match="ingest.source: .*bucket does not exist"):
            list_sources("s3://absent-bucket/x", "ingest.source")


def test_planted_faults_of_the_crawl_are_rejected_for_their_reason(tmp_path):
    from ddt.scenes.crawl import write_shard as write_crawl

    faults = {"corrupt": 0.2, "tiny": 0.1, "empty_caption": 0.1, "duplicate": 0.1}
    planted = write_crawl(tmp_path / "0.tar", 0, 300, 0, 32, faults)
    good, bad = split(read_source(tmp_path / "0.tar", "0.tar", CONFIG))
    assert Counter((r.planted, r.reason) for r in bad) == {
        ("corrupt", "corrupt_image"): planted["corrupt"],
        ("tiny", "too_small"): planted["tiny"],
    }
    assert Counter(r["planted"] for r in good) == {
        k: n for k, n in planted.items() if n and k not in ("corrupt", "tiny")
    }


def test_questions_of_the_metadata_are_text_or_left_out():
    good = {"question": " How\nmany? ", "answer": "two", "id": 7}
    bad = [
        None,
        "x",
        {"question": "Why?"},
        {"question": "Why?", "answer": 2},
        {"question": " ", "answer": "x"},
    ]
    for meta, found in (
        ({"questions": [*bad, good]}, [{"question": "How many?", "answer": "two"}]),
        ({"questions": good}, []),
        ({}, []),
    ):
        assert RawSample("a", b"", "", meta).questions == found
