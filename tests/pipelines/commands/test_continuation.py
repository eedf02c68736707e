"""What is new since the last manifests, the champion that training goes on from, what is not done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ddt.config import build, to_dict
from ddt.data.refs import check_reference, model_digest, resolve
from ddt.manifest import Commit, Manifest
from ddt.params import Params, load_params
from ddt.scenes.crawl import write_shard as write_crawl
from ddt.store import mark_complete, open_store
from pipelines import ingest, recaption
from pipelines.commands.continuation import continued, find_champion, keep_tokenizer, what_is_new
from pipelines.engine.graph import INPUTS, STAGES
from pipelines.engine.language_checks import check_language_model
from pipelines.engine.runner import StageError, is_finished, stage_context
from pipelines.reports.report import Report
from pipelines.reports.workspace import manifest_path, show
from pipelines.services import registry
from pipelines.services.models import publish_model
from pipelines.services.tracking import MANIFEST_KEY

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A crawl of two shards."""
    (tmp_path / "crawl").mkdir()
    add_shard(tmp_path, 0)
    add_shard(tmp_path, 1)
    return tmp_path


def add_shard(place: Path, index: int) -> None:
    write_crawl(place / "crawl" / f"{index:05d}.tar", index, 2, 5, 32, {})


def params_in(place: Path, *overrides: str) -> Params:
    places = (
        f"paths.store={place}/store",
        f"paths.workspace={place}/workspace",
        f"ingest.source={place}/crawl",
    )
    return load_params(ROOT / "params.yaml", None, [*places, *overrides])


def save(params: Params, stage: str, commits: list[Commit], fingerprint: str = "f") -> Manifest:
    """A stage's manifest and report as of a run on what now lies in the workspace."""
    workspace = Path(params.paths.workspace)
    made = {name: Manifest.load(manifest_path(workspace, name)) for name in INPUTS[stage]}
    manifest = Manifest(
        stage,
        fingerprint,
        {name: m.digest for name, m in made.items()},
        tuple(commits),
        made_from={name: m.key for name, m in made.items()},
    )
    show(workspace, manifest, Report(stage, fingerprint, manifest.digest))
    return manifest


def save_ingest(params: Params) -> Manifest:
    ctx = stage_context("ingest", params)
    units = ingest.source_units(ctx.section, ctx.fingerprint)
    made = [
        Commit(u["unit"], f"shards/ingest/{u['unit']}.arrow", 2, 9, u["unit"] * 2, stats={"role": u["role"]})
        for u in units
    ]
    return save(params, "ingest", made, ctx.fingerprint)


def save_all(params: Params) -> None:
    for stage in STAGES:
        if stage == "ingest":
            save_ingest(params)
        else:
            save(params, stage, [Commit(stage, stage, 1, 1, stage)])


def test_news_are_shards_that_no_manifest_has(place: Path) -> None:
    params = params_in(place)
    assert what_is_new(params) == ["00000.tar", "00001.tar"]
    save_all(params)
    assert what_is_new(params) == []
    (place / "crawl" / "00001.tar").rename(place / "crawl" / "later.tar")  # the same content, another name
    assert what_is_new(params) == []
    add_shard(place, 2)
    assert what_is_new(params) == ["00002.tar"]


def test_a_run_that_was_broken_off_is_news(place: Path) -> None:
    params = params_in(place)
    save_all(params)
    add_shard(place, 2)
    save_ingest(params)  # and no further
    assert what_is_new(params) == ["recaption", "score", "select", "tokenize_images", "evaluate"]
    for stage in STAGES:
        if stage not in (
            "ingest",
            "train_tokenizer",
        ):  # the tokenizer is kept: it need not be of these shards
            save(params, stage, [Commit(stage, stage, 1, 1, f"{stage} again")])
    assert what_is_new(params) == []
    manifest_path(Path(params.paths.workspace), "promote").unlink()
    assert what_is_new(params) == ["promote"]


def test_other_settings_of_ingest_make_all_shards_new(place: Path) -> None:
    save_all(params_in(place))
    assert what_is_new(params_in(place, "ingest.min_side_px=17")) == ["00000.tar", "00001.tar"]


def test_new_shards_repeat_no_captions(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def units_of_recaption() -> set[str]:
        asked: list[dict[str, Any]] = []
        monkeypatch.setattr(
            recaption, "run_most_units", lambda ctx, worker, units, **_: asked.extend(units) or stop()
        )
        with pytest.raises(Seen):
            recaption.run(stage_context("recaption", params))
        return {unit["unit"] for unit in asked}

    def stop() -> None:
        raise Seen

    params = params_in(place)
    save_all(params)
    before, fingerprint = units_of_recaption(), stage_context("recaption", params).fingerprint
    save(params, "recaption", [], fingerprint)
    assert is_finished(stage_context("recaption", params))
    add_shard(place, 2)
    save_ingest(params)
    ctx = stage_context("recaption", params)
    assert ctx.fingerprint == fingerprint
    assert not is_finished(ctx)  # made from other inputs: it runs, for what is missing
    after = units_of_recaption()
    assert before < after and len(after) == 3
    other = params_in(place, "recaption.max_new_tokens=7")
    assert stage_context("recaption", other).fingerprint != fingerprint


def model(place: Path, params: Params, stage: str, fingerprint: str) -> Commit:
    folder = place / f"{stage}-{fingerprint}"
    folder.mkdir()
    (folder / "weights").write_text(fingerprint)
    mark_complete(folder)
    return publish_model(open_store(params.paths.store), stage, fingerprint, folder, 1, {})


def version(params: Params, name: str, number: str, made: Commit, tags: dict[str, str]) -> registry.Version:
    """As `promote` registers it."""
    store = open_store(params.paths.store)
    place = {"store": store.root_uri, "key": made.key.rpartition("/")[0], "fingerprint": number * 64}
    stage = "train_tokenizer" if "tokenizer" in name else "finetune"
    place[MANIFEST_KEY] = Manifest(stage, number * 64, {}, (made,)).keep(store)
    return registry.Version(name, number, "", place | tags)


def test_training_goes_on_from_the_champion_and_its_tokenizer(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = params_in(place)
    made, registered = {}, {}
    for number in ("1", "2"):
        made[number] = model(place, params, "train_tokenizer", number * 64)
        registered["ddt-tokenizer", number] = version(params, "ddt-tokenizer", number, made[number], {})
        pair = {registry.TOKENIZER: json.dumps({"name": "ddt-tokenizer", "version": number})}
        whole = model(place, params, "finetune", number * 64)
        registered["ddt-llama", number] = version(params, "ddt-llama", number, whole, pair)
    monkeypatch.setattr(registry, "find_version", lambda where, *which: registered.get(which))
    with pytest.raises(ValueError, match="^ddt-llama: neither champion nor candidate in sqlite"):
        find_champion(params)
    registered["ddt-llama", "candidate"] = registered["ddt-llama", "2"]
    assert find_champion(params).version.number == "2"
    assert "is used: there is no champion yet" in capsys.readouterr().err
    registered["ddt-llama", "champion"] = registered["ddt-llama", "1"]
    champion = find_champion(params)
    assert champion.version.number == "1"

    settings = continued(to_dict(params), champion)
    assert settings["pretrain"]["init"] == "store:shards/finetune/1111111111111111/model"
    assert settings["pretrain"]["fit"] == to_dict(params)["pretrain"]["fit"]
    after = build(Params, settings)
    assert after.pretrain.model is None
    check_language_model(after)
    store = open_store(params.paths.store)
    assert (Path(resolve(str(after.pretrain.init), store)) / "weights").read_text() == "1" * 64
    assert model_digest(str(after.pretrain.init)) == after.pretrain.init
    check_reference("pretrain.init", str(after.pretrain.init))
    with pytest.raises(ValueError, match="pretrain.init alone is read from there"):
        resolve("store:shards/finetune/1/model")

    report = keep_tokenizer(params, champion.tokenizer)
    kept = Manifest.load(manifest_path(Path(params.paths.workspace), "train_tokenizer"))
    assert kept.commits == (made["1"],)
    assert report.digest == kept.digest and report.skipped
    assert report.notes == [f"kept: the champion's, version {kept.digest[:16]}"]
    with pytest.raises(StageError, match="gone.json: no such manifest; it was removed from the store"):
        keep_tokenizer(params, "manifests/train_tokenizer/gone.json")
    with pytest.raises(StageError, match="ddt-llama version 1 is in .*, expected in .*/other"):
        find_champion(params_in(place, f"paths.store={place}/other"))
    del registered["ddt-tokenizer", "1"]
    with pytest.raises(StageError, match="ddt-tokenizer version 1, its tokenizer, was deleted"):
        find_champion(params)
