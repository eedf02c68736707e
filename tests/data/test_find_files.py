"""Where shards lie: folders with links and loops, globs, names with brackets, img2dataset's folders."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddt.data.readers import list_sources
from ddt.data.readers.files import find_files
from tests.data.test_readers import image, sample_members, write_tar

SUFFIXES = (".tar", ".parquet")


@pytest.fixture
def shards(tmp_path):
    """A set on a cluster: a folder and a file of it are links, and one link leads back to the set itself."""
    for name in ("elsewhere/1.tar", "elsewhere/deep/2.tar", "3.tar", "set/a/0.tar", "my [new] set?/x.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "set/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/3.tar").symlink_to("../3.tar")
    (tmp_path / "set/a/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/a/up_again").symlink_to("../../set")
    return tmp_path


def found(where, suffixes=SUFFIXES):
    return [path.as_posix() for path in find_files(str(where), "ingest.source", suffixes)]


def below(folder, *names):
    return [f"{folder}/{name}" for name in names]


def refused(where):
    with pytest.raises(ValueError, match="^ingest.source: ") as caught:
        find_files(str(where), "ingest.source", SUFFIXES)
    return str(caught.value)


def test_links_are_followed_and_loops_end(shards):
    want = below(shards / "set", "3.tar", "a/0.tar", "b/1.tar", "b/deep/2.tar")
    assert found(shards / "set") == want
    assert found(f"{shards}/set/**/*.tar") == want == found(f"{shards}/set/**")
    assert found(f"{shards}/se*") == want, "a folder that a glob means is searched"
    assert found(f"{shards}/set/b/*.tar") == below(shards, "set/b/1.tar")
    assert found(f"{shards}/set/**/deep/*.tar") == below(shards, "set/b/deep/2.tar")
    assert found(f"{shards}/*/[ab]/[0-9].tar") == below(shards, "set/a/0.tar", "set/b/1.tar")


def test_what_exists_is_no_glob(shards):
    want = below(shards, "my [new] set?/x.tar")
    for where in ("", "/", "/x.tar", "/*.tar", "/**/*.tar", "/**"):
        assert found(f"{shards}/my [new] set?{where}") == want
    assert found(f"{shards}/my * set?") == want


def test_relative_paths_and_home(shards, monkeypatch):
    monkeypatch.chdir(shards)
    monkeypatch.setenv("HOME", str(shards))
    assert found("set/a/*.tar") == ["set/a/0.tar"] and found("*/deep") == ["elsewhere/deep/2.tar"]
    assert found("~/set/[a]/*.tar") == below(shards, "set/a/0.tar")
    assert found("~/elsewhere") == below(shards, "elsewhere/1.tar", "elsewhere/deep/2.tar")


def test_hidden_files_are_left_out_and_case_does_not_count(tmp_path):
    for name in (
        "A.TAR",
        "b.Parquet",
        "._a.tar",
        ".cache/c.tar",
        "__MACOSX/d.tar",
        "@eaDir/e.tar",
        "f.tar.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert found(tmp_path) == below(tmp_path, "A.TAR", "b.Parquet")
    assert found(tmp_path / ".cache") == below(tmp_path, ".cache/c.tar")


def test_what_can_t_be_read_is_told_in_one_line(shards):
    (shards / "gone").mkdir()
    (shards / "gone/a.tar").symlink_to("/nowhere/a.tar")
    assert refused(shards / "gone").endswith("gone/a.tar is a link to nothing")
    (shards / "loop.tar").symlink_to("loop.tar")
    assert refused(shards / "loop.tar").endswith("loop.tar is a link to nothing")
    assert refused(shards / "none").endswith("none does not exist")
    assert "no .tar or .parquet file in " in refused(f"{shards}/none*")
    assert refused("") == "ingest.source:  does not exist"
    os.mkfifo(shards / "gone/pipe.tar")
    (shards / "gone/a.tar").unlink()
    assert "no .tar or .parquet file in " in refused(shards / "gone")


@pytest.mark.parametrize("name", ["a.tar.gz", "b.TGZ", "c.tar.zst", "d.parquet.gz"])
def test_compressed_shards_are_told_not_passed_over(tmp_path, name):
    (tmp_path / "0.tar").touch()
    (tmp_path / name).touch()
    assert refused(tmp_path).endswith(f"{name} is compressed; expected it unpacked, as .tar or .parquet")
    unpacked = tmp_path / name.replace(".gz", "").replace(".zst", "").replace(".TGZ", ".tar")
    unpacked.touch()
    assert found(tmp_path) == below(tmp_path, "0.tar", unpacked.name)


def test_a_folder_as_img2dataset_leaves_it(tmp_path):
    """NNNNN.tar, NNNNN.parquet with metadata alone, NNNNN_stats.json; then Parquet that has pictures."""
    for shard in range(2):
        write_tar(tmp_path / f"{shard:05d}.tar", sample_members(shard))
        meta = [{"url": f"http://x/{shard}", "caption": "c", "key": f"{shard:05d}", "status": "success"}]
        pq.write_table(pa.Table.from_pylist(meta), tmp_path / f"{shard:05d}.parquet")
        (tmp_path / f"{shard:05d}_stats.json").write_text(json.dumps({"count": 1, "successes": 1}))
    assert [s.name for s in list_sources(tmp_path)] == ["00000.tar", "00001.tar"]
    pq.write_table(pa.table({"jpg": [image()], "caption": ["c"]}), tmp_path / "00001.parquet")
    pq.write_table(pa.table({"jpg": [image()], "caption": ["d"]}), tmp_path / "00002.parquet")
    names = ["00000.tar", "00001.parquet", "00001.tar", "00002.parquet"]
    assert [s.name for s in list_sources(tmp_path)] == names


def test_a_parquet_of_paths_is_another_source_when_a_picture_changes(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jpg").write_bytes(image(len(folder)))
        os.utime(tmp_path / folder / "x.jpg", ns=(0, ord(folder)))
        pq.write_table(pa.table({"image": ["x.jpg"], "text": ["c"]}), tmp_path / folder / "p.parquet")
    before = [source.digest for source in list_sources(tmp_path)]
    assert len(set(before)) == 2, "the same table beside other pictures"
    (tmp_path / "b/x.jpg").write_bytes(image(9))
    after = [source.digest for source in list_sources(tmp_path)]
    assert after[0] == before[0] and after[1] != before[1]
