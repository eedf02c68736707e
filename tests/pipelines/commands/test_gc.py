"""`ddt gc` removes what nothing reaches, and nothing else; `ddt verify` of an end finds what is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ddt.data.caption_cache import CAPTIONER, cache_key
from ddt.manifest import Manifest, verify
from ddt.params import Params
from ddt.store import FolderStore, S3Store, StoreError
from pipelines.commands import gc
from pipelines.commands import verify as verifying
from pipelines.reports.workspace import manifest_path
from pipelines.services import lock, tracking
from tests.pipelines.lineages import Lineages

DAY = 24 * 3600


BOTH = pytest.mark.parametrize("lineages", ["folder", "s3"], indirect=True)


@pytest.fixture
def lineages(
    request: pytest.FixtureRequest, tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> Lineages:
    """Two runs; the first one's workspace is gone."""
    store = None
    if getattr(request, "param", "folder") == "s3":
        request.getfixturevalue("s3_endpoint")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        store = f"s3://test-bucket/{tmp_path.name}"
    return Lineages(tmp_path, mlflow_uri, f"gc-{tmp_path.name}", store)


@pytest.fixture(autouse=True)
def forget(lineages: Lineages) -> Iterator[None]:
    """Runs of one test reach nothing of another: the experiment goes."""
    yield
    client = tracking.client(lineages.params.tracking)
    client.delete_experiment(tracking.experiment_id(lineages.params.tracking, client))


def age(lineages: Lineages, seconds: float = 2 * DAY) -> None:
    """All that the store has was written so long ago."""
    for key in lineages.store.list():
        written(lineages, key, time.time() - seconds)


def written(lineages: Lineages, key: str, when: float) -> None:
    """The store's clock says that a key was last written then; moto's as well, which runs in this process."""
    store = lineages.store
    if isinstance(store, FolderStore):
        os.utime(store.root / key, (when, when))
        return
    assert isinstance(store, S3Store)
    from moto.s3.models import s3_backends

    found = s3_backends["123456789012"]["aws"].buckets[store.bucket].keys[store.prefix + key]
    found.last_modified = datetime.fromtimestamp(when, UTC).replace(tzinfo=None)


def removed(lineages: Lineages, capsys: pytest.CaptureFixture[str], params: Params | None = None) -> set[str]:
    """What a collection takes, as its dry run said before."""
    before, here = set(lineages.store.list()), params or lineages.params
    gc.run(here, 24, dry_run=True)
    told = capsys.readouterr().out
    assert set(lineages.store.list()) == before
    gc.run(here, 24, dry_run=False)
    assert capsys.readouterr().out == told.replace("would be removed", "removed         ")
    gone = before - set(lineages.store.list())
    assert int(told.splitlines()[-1].split()[-2].replace(",", "")) == len(gone)
    return gone


def delete_runs(lineages: Lineages, word: str) -> None:
    client = tracking.client(lineages.params.tracking)
    for (run_of, _), run in lineages.runs.items():
        if run_of == word:
            client.delete_run(run)


def of_runs(lineages: Lineages, made: dict[str, Manifest]) -> set[str]:
    """All keys that a run has written."""
    reached = gc.Reached()
    for manifest in made.values():
        reached.add(manifest)
    return {entry.key for entry in lineages.store.entries() if reached.has(entry)}


@BOTH
def test_a_run_that_nothing_names_goes_whole(lineages: Lineages, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = lineages.make("a", until="tokenize_images"), lineages.make("b", until="select")
    whole = set(lineages.store.list())
    age(lineages)
    assert removed(lineages, capsys) == set()
    delete_runs(lineages, "a")
    mine = of_runs(lineages, first)
    for stage in ("train_tokenizer", "tokenize_images"):  # of run a, which the workspace still shows
        manifest_path(Path(lineages.params.paths.workspace), stage).unlink()
    assert removed(lineages, capsys) == mine
    assert any(key.startswith("raw/") for key in mine) and any(".rejects" in key for key in mine)
    assert set(lineages.store.list()) == whole - mine == of_runs(lineages, second)
    for manifest in second.values():
        assert verify(lineages.store, Manifest.kept(lineages.store, manifest.key)) == []


def test_a_version_keeps_all_that_it_goes_back_to(
    lineages: Lineages, capsys: pytest.CaptureFixture[str]
) -> None:
    first = lineages.make("a")
    lineages.make("b", until="ingest")
    delete_runs(lineages, "a")
    for stage in first:
        if stage != "ingest":
            manifest_path(Path(lineages.params.paths.workspace), stage).unlink()
    age(lineages)
    gone = removed(lineages, capsys)
    assert {key.split("/")[1] for key in gone} == {"promote"}  # its decision is the version's tag
    number = lineages.version("1").number
    verifying.run(lineages.params, f"models:/{lineages.params.tracking.model_name}/{number}")
    assert " 0 faults" in capsys.readouterr().out

    where = lineages.params.tracking
    client = tracking.client(where)
    client.delete_model_version(where.model_name, number)
    client.delete_model_version(where.tokenizer_name, "1")
    gone = removed(lineages, capsys)
    assert {first["evaluate"].key, first["ingest"].key, first["finetune"].commits[0].key} <= gone


@BOTH
def test_what_is_new_or_at_work_stays(lineages: Lineages, capsys: pytest.CaptureFixture[str]) -> None:
    made = lineages.make("a", until="ingest")
    store = lineages.store
    for group in ("1" * 16, "2" * 16, "3" * 16):
        for name in ("u.json", "v.json"):
            store.put_bytes(f"units/recaption/{group}/{name}", b"{}")
    store.put_bytes("shards/renderer/tokenizer-1/model", b"")
    store.put_bytes("images/ab/ab.png", b"")
    age(lineages)
    store.put_bytes(f"shards/recaption/{'1' * 16}/late.arrow", b"")  # somebody's units, finished over days
    store.put_bytes("checkpoints/renderer/9/step-000000001-000/_COMPLETE", b"")  # its tokenizer is old
    where = lineages.params.tracking
    client = tracking.client(where)
    tags = {"stage": "recaption", "fingerprint": "2" * 64}
    run = client.create_run(tracking.experiment_id(where, client), tags=tags).info.run_id
    gone = removed(lineages, capsys)
    assert gone == {f"units/recaption/{'3' * 16}/{name}" for name in ("u.json", "v.json")} | {
        "images/ab/ab.png"
    }
    client.set_terminated(run, "FAILED")
    assert removed(lineages, capsys) == {
        f"units/recaption/{'2' * 16}/{name}" for name in ("u.json", "v.json")
    }
    assert of_runs(lineages, made) <= set(store.list())


def test_a_new_manifest_keeps_the_old_ones_that_it_names(
    lineages: Lineages, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run in another workspace, whose MLflow is not ours."""
    made = lineages.make("a", until="select")
    lineages.make("b", until="select")
    delete_runs(lineages, "a")
    age(lineages)
    written(lineages, made["select"].key, time.time())
    assert removed(lineages, capsys) == set()


def test_what_select_counted_stays_as_long_as_its_pairs(
    lineages: Lineages, capsys: pytest.CaptureFixture[str]
) -> None:
    made = lineages.make("a", until="select")["select"]
    kept = f"select/outcome/{made.fingerprint[:16]}"
    orphans = {
        f"shards/select/filter/{made.fingerprint[:16]}/f.arrow",
        f"units/select/outcome/{'1' * 16}/u.json",
    }
    for key in (f"units/{kept}/u.json", f"shards/{kept}/u.json", *orphans):
        lineages.store.put_bytes(key, b"{}")
    age(lineages)
    assert removed(lineages, capsys) == orphans


def test_answers_stay_as_long_as_captions_of_that_captioner(
    lineages: Lineages, capsys: pytest.CaptureFixture[str]
) -> None:
    made = lineages.make("a", until="recaption")["recaption"]
    manifest = replace(made, extra={CAPTIONER: "1" * 16})
    manifest.save(manifest_path(Path(lineages.params.paths.workspace), "recaption"))
    kept, gone = (cache_key(digit * 16, "a" * 32) for digit in "12")
    for key in (kept, gone):
        lineages.store.put_bytes(key, b"")
    age(lineages)
    assert removed(lineages, capsys) == {gone}
    lineages.store.put_bytes(cache_key("3" * 16, "b" * 32), b"")  # of a run that has no manifest yet
    assert removed(lineages, capsys) == set()


def test_it_refuses_while_a_run_has_the_workspace(lineages: Lineages) -> None:
    workspace = Path(lineages.params.paths.workspace)
    lineages.make("a", until="ingest")
    with lock.held(workspace, "FullPipeline/7", os.getpid()):
        for dry_run in (True, False):
            with pytest.raises(lock.Locked, match="in use by FullPipeline/7"):
                gc.run(lineages.params, 24, dry_run)
    gc.run(lineages.params, 0, dry_run=False)


@BOTH
def test_it_refuses_what_it_does_not_understand(lineages: Lineages, tmp_path: Path) -> None:
    made = lineages.make("a", until="score")
    age(lineages)
    for hours in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^--keep-hours .*: expected a number >= 0$"):
            gc.run(lineages.params, hours, dry_run=True)
    delete_runs(lineages, "a")
    new = replace(lineages.params.paths, workspace=str(tmp_path / "new"))
    before = lineages.store.list()
    with pytest.raises(ValueError, match=f"^{lineages.store.root_uri}: nothing in it is reached from"):
        gc.run(replace(lineages.params, paths=new), 24, dry_run=False)
    lineages.store.put_bytes(made["recaption"].key, b"{}")
    age(lineages)
    with pytest.raises(ValueError, match="recaption.*not a manifest.*what it reaches is not known"):
        gc.run(lineages.params, 24, dry_run=False)
    assert lineages.store.list() == before


@BOTH
def test_a_removal_that_breaks_off_leaves_only_garbage(
    lineages: Lineages, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lineages.make("a", until="ingest")
    lineages.make("b", until="ingest")
    delete_runs(lineages, "a")
    age(lineages)
    mine, really = of_runs(lineages, first), type(lineages.store).delete

    def refuse_shards(store: object, key: str) -> None:
        if key.startswith(("shards/", "units/")):
            raise StoreError(f"{key}: permission denied")
        really(lineages.store, key)

    monkeypatch.setattr(type(lineages.store), "delete", refuse_shards)
    with pytest.raises(StoreError, match="permission denied"):
        gc.run(lineages.params, 24, dry_run=False)
    monkeypatch.undo()
    assert not lineages.store.exists(first["ingest"].key)
    removed(lineages, capsys)
    assert not mine & set(lineages.store.list())


def test_verify_reads_every_shard_of_an_end(lineages: Lineages, capsys: pytest.CaptureFixture[str]) -> None:
    first = lineages.make("a", until="pretrain")
    lineages.make("b", until="pretrain")
    digest = first["pretrain"].digest[:12]
    verifying.run(lineages.params, digest)
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [
        "ingest",
        "recaption",
        "score",
        "select",
        "train_tokenizer",
        "tokenize_images",
        "pretrain",
    ]
    shard = first["score"].commits[1].key
    lineages.store.put_bytes(shard, b"cut")
    verifying.run(lineages.params)  # the workspace shows the other run
    lineages.store.delete(first["recaption"].key)
    capsys.readouterr()
    with pytest.raises(ValueError, match="^2 shards or models are missing or have changed"):
        verifying.run(lineages.params, digest)
    printed = capsys.readouterr().out
    assert f"  {lineages.store.uri(shard)}: its content has changed\n" in printed
    assert "no such manifest; it was removed from the store" in printed
