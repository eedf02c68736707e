"""The lineage of any end is its own, whatever lies in the workspace; what is missing is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddt.manifest import Manifest, canonical_json
from ddt.mllm.config import VisualSampling
from pipelines.commands import origin, use
from pipelines.commands.cli import main
from pipelines.commands.ends import find_end
from pipelines.commands.trace import lines
from pipelines.commands.traced import follow, to_dict
from pipelines.engine.graph import STAGES, ancestors
from pipelines.services import tracking
from pipelines.services.models import Found
from tests.pipelines.lineages import ROOT, Lineages

Made = dict[str, Manifest]


@pytest.fixture(scope="module")
def lineages(tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> Lineages:
    made = Lineages(tmp_path_factory.mktemp("trace"), mlflow_uri, "traced")
    for word in "ab":
        made.make(word)
    return made


@pytest.fixture(scope="module")
def first(lineages: Lineages) -> Made:
    """What run a made; the workspace shows run b's."""
    return lineages.made["a"]


def traced(lineages: Lineages, end: str | None) -> dict[str, Any]:
    return to_dict(follow(find_end(end, lineages.params), lineages.params))


def stages(trace: dict[str, Any]) -> dict[str, str]:
    assert len({stage["stage"] for stage in trace["stages"]}) == len(trace["stages"])
    return {stage["stage"]: stage["digest"] for stage in trace["stages"]}


def picture(lineages: Lineages, path: Path, word: str, prompt: str = "a red circle") -> Path:
    """As `ddt generate` writes it."""
    found = Found(lineages.model_folder("finetune", word), lineages.version("1"))
    made_from = {"finetune": lineages.fingerprint("finetune", word), "note": "/home/ann"}
    text = origin.of_picture(found, made_from, {"prompt": prompt, "seeds": [3]}, VisualSampling(), 2.5)
    use.write(Image.new("RGB", (16, 16), "red"), path, text)
    return path


def test_a_version_gives_its_own_lineage(lineages: Lineages, first: Made) -> None:
    trace = traced(lineages, "models:/traced/1")
    assert stages(trace) == {s: first[s].digest for s in STAGES if s != "promote"}
    assert list(stages(trace)) == list(STAGES[:-1]) and trace["missing"] == []
    assert {shard["name"] for shard in trace["sources"]} == {"a-0.tar", "a-1.tar"}
    decision = trace["decision"]
    assert decision["verdict"] == "promoted" and decision["version"] == "1"
    by_stage = {stage["stage"]: stage for stage in trace["stages"]}
    ingest, pretrain, finetune = by_stage["ingest"], by_stage["pretrain"], by_stage["finetune"]
    assert ingest["rows"] == 20 and ingest["fingerprint"] == lineages.fingerprint("ingest", "a")
    assert ingest["where"] == lineages.store.uri(first["ingest"].key) and ingest["rejects"] == {
        "too_small": 2
    }
    assert pretrain["made_from"]["tokenize_images"] == first["tokenize_images"].key
    assert finetune["mlflow"]["id"] == lineages.runs["a", "finetune"]
    assert finetune["versions"] == [{"name": "traced", "version": "1", "aliases": []}]
    assert stages(traced(lineages, None)) == stages(traced(lineages, "models:/traced/2")) != stages(trace)


def ends(lineages: Lineages, first: Made, folder: Path) -> dict[str, tuple[str, str]]:
    """End -> the last stage that it goes back from, what was decided left out."""
    model = lineages.store.fetch_tree(first["finetune"].commits[0].key.rpartition("/")[0])
    return {
        "version": ("models:/traced/1", "evaluate"),
        "digest": (first["finetune"].digest[:8], "evaluate"),
        "dataset": (first["select"].digest, "select"),
        "key": (first["score"].key, "score"),
        "run of a stage": (lineages.runs["a", "pretrain"], "pretrain"),
        "whole run": (lineages.runs["a", "whole"], "promote"),
        "metaflow": ("FullPipeline/a", "promote"),
        "folder": (str(model), "evaluate"),
        "tokenizer": (str(lineages.model_folder("train_tokenizer", "a")), "train_tokenizer"),
        "picture": (str(picture(lineages, folder / "out.png", "a")), "evaluate"),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "version", "digest", "dataset", "key", "run of a stage", "whole run", "metaflow", "folder",
        "tokenizer", "picture",
    ],
)  # fmt: skip
def test_every_end_of_a_run_leads_to_the_same_data(
    kind: str, lineages: Lineages, first: Made, tmp_path: Path
) -> None:
    end, last = ends(lineages, first, tmp_path)[kind]
    trace = traced(lineages, end)
    assert stages(trace) == {s: first[s].digest for s in STAGES if s in ancestors(last) | {last}}
    assert (trace["decision"] or {}).get("version") == ("1" if last in ("evaluate", "promote") else None)
    assert trace["missing"] == []


def test_what_is_printed_names_the_whole_way(
    lineages: Lineages, first: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--params", str(ROOT / "params.yaml"), *(w for s in lineages.settings for w in ("--set", s))]
    main(["trace", "models:/traced@champion", *options])
    printed = capsys.readouterr().out.splitlines()
    begins = [line.split("  ")[0].strip() for line in printed if line and not line.startswith(" ")]
    names = [line.split()[0] for line in printed if line and not line.startswith(" ")]
    assert begins[0] == "version models:/traced/2" and names[1:] == ["source", *STAGES[:-1], "decision"]
    assert any("traced version 2 (candidate, champion)" in line for line in printed)
    assert any(line.strip() == "goes on from store:shards/finetune/b" for line in printed)
    assert printed[-1].startswith("decision         traced version 2 promoted on ")

    main(["trace", first["ingest"].digest[:12], "--json", *options])
    found = json.loads(capsys.readouterr().out)
    assert found["end"]["kind"] == "dataset" and [s["stage"] for s in found["stages"]] == ["ingest"]


def test_a_picture_says_what_drew_it_and_no_path(lineages: Lineages, tmp_path: Path) -> None:
    path = picture(lineages, tmp_path / "out.png", "a", "zwei rote Kreise über \U0001f600")
    said = origin.read_origin(path)
    assert said["prompt"] == "zwei rote Kreise über \U0001f600" and said["seeds"] == [3]
    assert said["reference"] == "models:/traced/1" and said["sampling"]["cfg_scale"] == 2.5
    assert said["made_from"] == {"finetune": lineages.fingerprint("finetune", "a")}
    assert b"/home" not in path.read_bytes() and str(lineages.folder).encode() not in path.read_bytes()
    assert traced(lineages, str(path))["end"]["facts"]["prompt"] == said["prompt"]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.addresses, self.text = list[str](), list[str](), ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else_and_runs_nothing(
    lineages: Lineages, first: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "<script>alert(1)</script> & <img src=x>"
    path = picture(lineages, tmp_path / "out.png", "a", prompt)
    options = ["--params", str(ROOT / "params.yaml"), *(w for s in lineages.settings for w in ("--set", s))]
    main(["trace", str(path), "--html", str(tmp_path / "a.html"), *options])
    found = Tags()
    found.feed((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert not {"script", "img", "link", "iframe"} & set(found.tags) and found.addresses == []
    assert prompt in found.text and found.tags.count("rect") == len(STAGES) + 1  # sources, and the decision
    assert all(manifest.digest in found.text for stage, manifest in first.items() if stage != "promote")
    edges = 1 + 3 + sum(len(manifest.made_from) for stage, manifest in first.items() if stage != "promote")
    assert found.tags.count("path") == edges


def test_what_is_missing_is_told(lineages: Lineages, first: Made, tmp_path: Path) -> None:
    """In a copy of the store: a manifest removed, another in its place, a damaged one, a deleted run."""
    made, store = first, tmp_path / "store"
    shutil.copytree(lineages.store.root, store)
    here = replace(lineages.params, paths=replace(lineages.params.paths, store=str(store)))
    client = tracking.client(lineages.params.tracking)
    (store / made["select"].key).unlink()
    (store / made["score"].key).write_bytes(b'{"commits": [], "inputs": []}')
    (store / made["recaption"].key).write_bytes(b"\xff\xfe")
    run = lineages.runs["a", "ingest"]
    client.delete_run(run)
    try:
        trace = to_dict(follow(find_end(made["pretrain"].digest, here), here))
        printed = list(lines(follow(find_end(made["pretrain"].digest, here), here)))
        deleted = to_dict(follow(find_end(run, here), here))
    finally:
        client.restore_run(run)
    told = {stage["stage"]: stage["missing"] for stage in trace["stages"]}
    assert told.pop("select").endswith(
        f"{made['select'].key}: no such manifest; it was removed from the store"
    )
    assert set(told.values()) == {None} and "score" not in told  # what it was made from nobody knows now
    assert trace["missing"][0] == "runs in MLflow that made ingest: deleted, or logged elsewhere"
    assert (
        trace["missing"][1]
        == f"select: {store}/{made['select'].key}: no such manifest; it was removed from the store"
    )
    assert printed[printed.index("missing") + 1] == f"  {trace['missing'][0]}"
    assert f"run {run} was deleted in MLflow" in deleted["missing"]

    damaged = to_dict(follow(find_end(made["score"].digest, here), here))
    assert [stage["stage"] for stage in damaged["stages"]] == ["score"]
    assert damaged["stages"][0]["missing"].startswith(
        f"{store}/{made['score'].key}: not a manifest ('stage')"
    )
    garbage = to_dict(follow(find_end(made["recaption"].digest, here), here))
    assert garbage["stages"][0]["missing"].startswith(f"{store}/{made['recaption'].key}: 'utf-8' codec")


def test_a_changed_model_is_not_taken_for_the_stores(lineages: Lineages, tmp_path: Path) -> None:
    shutil.copytree(lineages.model_folder("finetune", "a"), tmp_path / "model")
    (tmp_path / "model" / "_COMPLETE").write_bytes(b"")
    (tmp_path / "model" / "weights").write_text("others")
    [told] = traced(lineages, str(tmp_path / "model"))["missing"]
    assert told.startswith("the model ") and f"is not what {lineages.store.root} has of this finetune" in told


def test_a_checkpoint_goes_by_its_run(lineages: Lineages, first: Made) -> None:
    where = lineages.params.tracking
    client, started = tracking.client(where), lineages.fingerprint("finetune", "running")
    read = {
        name: (first[name].digest, lineages.store.uri(first[name].key))
        for name in ("pretrain", "train_tokenizer")
    }
    tags = {"stage": "finetune", "fingerprint": started}
    run = client.create_run(tracking.experiment_id(where, client), tags=tags).info.run_id
    tracking.log_inputs(client, run, {}, read)
    folder = lineages.folder / "store" / "checkpoints" / "finetune" / started[:16] / "step-000000010-000"
    folder.mkdir(parents=True)
    trace = traced(lineages, str(folder))
    assert stages(trace) == {s: first[s].digest for s in STAGES if s in ancestors("finetune")}
    assert trace["end"]["facts"]["run"] == run
    assert trace["missing"] == [f"{folder} is not complete: its writer was interrupted"]
    unknown = folder.parent.parent / ("0" * 16) / folder.name
    unknown.mkdir(parents=True)
    assert any(
        line.startswith(f"finetune {'0' * 16}: no run") for line in traced(lineages, str(unknown))["missing"]
    )


def test_an_mlflow_that_is_away_is_told(lineages: Lineages, first: Made, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not a database")
    away = replace(lineages.params.tracking, uri=f"sqlite:///{tmp_path}/notes")
    params = replace(lineages.params, tracking=away)
    trace = to_dict(follow(find_end(first["select"].digest, params), params))
    assert len(trace["stages"]) == 4
    [told] = trace["missing"]
    assert told.startswith("what MLflow knows of it: tracking.uri = ") and "no SQLite database" in told


def test_two_ways_to_the_same_data_are_both_told(lineages: Lineages, first: Made) -> None:
    other = replace(first["score"], fingerprint="f" * 64)
    key = other.keep(lineages.store)
    try:
        trace = traced(lineages, other.digest[:10])
    finally:
        lineages.store.delete(key)
    assert trace["end"]["facts"] == {"ways": 2}
    assert [stage["stage"] for stage in trace["stages"]].count("score") == 2


def png(path: Path, text: str | None) -> str:
    texts = PngInfo()
    if text is not None:
        texts.add_text("ddt", text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=texts)
    return str(path)


def test_an_end_that_is_nothing_is_named_in_one_line(lineages: Lineages, first: Made, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    model = tmp_path / "model"
    model.mkdir()
    (model / "ddt.json").write_text("{")
    nothing = {
        "deadbeef": "no manifest in .* has a digest that begins so",
        "0" * 32: "no manifest in",
        "xyz": "expected a version",
        "deadbee": "expected a version",
        "FullPipeline/nope": "no file or folder, and no Metaflow run",
        "models:/traced/77": "no such version",
        "models:/traced@nope": "no such alias",
        str(tmp_path / "folder"): "does not say what it was made from",
        str(model): "ddt.json: not JSON",
        str(tmp_path / "text.png"): "not a readable image",
        png(tmp_path / "silent.png", None): "says nothing of its origin",
        png(tmp_path / "garbage.png", "{"): "its text `ddt` is not JSON",
        png(tmp_path / "list.png", "[1]"): "names no model by its digest",
        png(tmp_path / "short.png", '{"model": "../etc"}'): "names no model by its digest",
        png(tmp_path / "deep.png", "[" * 100_000): "nested too deep",
    }
    for end, message in nothing.items():
        with pytest.raises(ValueError, match=message) as caught:
            find_end(end, lineages.params)
        assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300 + len(str(tmp_path))
    bare = png(tmp_path / "bare.png", canonical_json({"model": "0" * 64, "made_from": ["x"]}))
    trace = traced(lineages, bare)
    assert trace["stages"] == [] and "does not say what it was made from" in trace["missing"][0]


def test_a_beginning_of_several_digests_is_refused(lineages: Lineages, first: Made) -> None:
    digest = first["ingest"].digest
    key = f"manifests/ingest/{digest[:9]}{'0' * 55}/{'0' * 16}.json"
    lineages.store.put_bytes(key, b"")
    try:
        with pytest.raises(ValueError, match=f"^{digest[:8]}: 2 digests begin so \\("):
            find_end(digest[:8], lineages.params)
        assert find_end(digest[:16], lineages.params).name == digest
    finally:
        lineages.store.delete(key)
