"""What contains a sample that is to be taken down: by id, by the image's bytes and by url, to the models."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from ddt.data.caption_cache import cache_key, read_answers, write_answers
from ddt.data.caption_faults import Answer
from ddt.data.takedown import Takedown
from ddt.records import read_shard
from ddt.store import open_store
from pipelines.commands.cli import main
from pipelines.commands.takedown import MODELS, Cached, Found, search
from pipelines.services import lock
from tests.pipelines.curated import Curated, picture, url, write_source


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_uri: str) -> Curated:
    """A run of all pictures, and one of the same records without picture 5."""
    made = Curated(
        tmp_path, write_source(tmp_path / "own"), monkeypatch, f"tracking.uri={mlflow_uri}",
        "train_tokenizer.source=" + str(write_source(tmp_path / "images", shards=1, rows=2)),
    )  # fmt: skip
    made.ingest()
    made.model("train_tokenizer", "ingest")
    for without in ((), (5,)):
        made.curate(without)
        made.tokens()
        made.model("pretrain", "train_tokenizer", "tokenize_images")
        made.model("finetune", "train_tokenizer", "tokenize_images", "pretrain")
    return made


def found(runs: Curated, *entries: str) -> Found:
    path = runs.folder / "list.txt"
    path.write_text("\n".join(entries))
    return search(open_store(runs.params.paths.store), Takedown.read(path), runs.params)


def ids(runs: Curated) -> dict[str, str]:
    pairs = [c for c in runs.made["ingest"].commits if c.stats["role"] == "pairs"]
    rows = [row for c in pairs for row in read_shard(runs.store.fetch(c.key)).to_pylist()]
    return {row["url"]: row["sample_id"] for row in rows}


def test_each_kind_of_entry_leads_to_the_same_sample_and_all_that_contains_it(runs: Curated) -> None:
    wanted = ids(runs)[url(5)]
    image = hashlib.sha256(picture(5)).hexdigest()
    by_entry = [found(runs, entry) for entry in (wanted, image, url(5).upper().replace("5.JPG", "5*"))]
    assert by_entry[0] == by_entry[1] == by_entry[2]
    (sample,) = by_entry[0].samples
    assert (sample.sample_id, sample.images, sample.url) == (wanted, (image,), url(5))
    holders = by_entry[0].holders
    without = runs.made  # the second run's; the records are the same
    twice = ["recaption", "recaption", "score", "score"]  # both runs captioned and scored all records
    made_once = ["select", "tokenize_images", "pretrain", "finetune"]
    assert [h.stage for h in holders] == ["ingest", *twice, *made_once]
    assert {h.rows for h in holders if h.stage not in MODELS} == {1}
    keys = {h.key for h in holders}
    assert without["ingest"].key in keys and without["score"].key in keys
    assert not {without[name].key for name in ("select", "tokenize_images", "pretrain", "finetune")} & keys
    assert all(len(h.shards) == 1 for h in holders if h.stage not in MODELS)
    assert "train_tokenizer" not in {h.stage for h in holders}, "it saw pictures 0 and 1 alone"


def test_a_tokenizer_that_saw_it_reaches_every_model_that_works_on_it(runs: Curated) -> None:
    (entry,) = {hashlib.sha256(picture(0)).hexdigest()}
    stages = [h.stage for h in found(runs, entry).holders]
    assert stages.count("train_tokenizer") == 1
    assert stages.count("pretrain") == stages.count("finetune") == 2


def test_what_nothing_contains(runs: Curated, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(runs, "f" * 64, "https://nowhere.example/*") == Found([], [], [], [], [])
    settings = [
        f"--set=paths.store={runs.params.paths.store}",
        f"--set=tracking.uri={runs.params.tracking.uri}",
    ]
    main(["takedown", str(runs.folder / "list.txt"), *settings])
    assert capsys.readouterr().out.splitlines()[-1] == "nothing in the store contains any of it"
    main(["takedown", str(runs.folder / "list.txt"), "--json", *settings])
    assert json.loads(capsys.readouterr().out)["holders"] == []
    with pytest.raises(SystemExit) as told:
        main(["takedown", str(runs.folder / "none.txt"), *settings])
    assert told.value.code == 2 and "none.txt: no such file" in capsys.readouterr().err


def test_answers_of_captioners_are_found_by_image_and_removed_when_asked(
    runs: Curated, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(runs.params.paths.store)
    five, six, gone = (
        hashlib.sha256(data).digest() for data in (picture(5), picture(6), b"no record has it")
    )
    both, alone, other = (cache_key(digit * 16, "a" * 32) for digit in "123")
    answers = {image: [Answer("a picture", True)] for image in (five, six)}
    for key, images in ((both, (five, six)), (alone, (gone,)), (other, (six,))):
        write_answers(store, key, {image: answers.get(image, []) for image in images})
    expected = [Cached(both, (five.hex(),)), Cached(alone, (gone.hex(),))]
    assert found(runs, url(5), gone.hex()).cached == expected
    assert found(runs, url(5)).cached == expected[:1]

    found(runs, url(5), gone.hex())  # writes the list that is used from here on
    paths = runs.params.paths
    settings = [f"--set=paths.store={paths.store}", f"--set=paths.workspace={paths.workspace}"]
    settings.append(f"--set=tracking.uri={runs.params.tracking.uri}")
    command = ["takedown", str(runs.folder / "list.txt"), *settings]
    main(command)
    assert f"answers          {both}: about 1 images, kept" in capsys.readouterr().out.splitlines()
    assert read_answers(store, both) == answers, "nothing is removed unasked"
    with lock.held(Path(paths.workspace), "a run", os.getpid()), pytest.raises(SystemExit) as told:
        main([*command, "--forget"])
    assert told.value.code == 2 and read_answers(store, both) == answers
    main([*command, "--forget"])
    assert f"answers          {both}: about 1 images, removed" in capsys.readouterr().out.splitlines()
    assert read_answers(store, both) == {six: answers[six]}
    assert list(store.list("captions/")) == [both, other], "what has no other answers is gone"
    assert found(runs, url(5), gone.hex()).cached == []
