"""Own files in their published formats, through the stages' own functions, to a model tuned on them.

Ray's actors and Great Expectations are left out: the same workers and jobs run here one after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ddt.data.schemas import PAIR_SCHEMA
from ddt.data.tokens import TokenDataset
from ddt.manifest import Commit, Manifest, commits
from ddt.mllm import DDTLlama
from ddt.mllm.config import LoraConfig
from ddt.params import Params, load_params
from ddt.records import read_shard, sample_id, write_shard
from ddt.scenes.crawl import shard_samples
from ddt.scenes.crawl import write_shard as write_crawl
from ddt.store import Store, open_store
from ddt.tokenizer import DDTTokenizer, presets
from pipelines import finetune, ingest, pretrain, tokenize_images, train_tokenizer
from pipelines.commands.cli import main
from pipelines.commands.preflight import check_own_data
from pipelines.engine.language_model import token_shards
from pipelines.engine.runner import StageContext, StageError, is_finished
from pipelines.reports.workspace import manifest_path, report_path
from pipelines.services.models import publish_model
from pipelines.train_tokenizer import image_shards
from tests.data.test_instruction_readers import png, said
from tests.mllm.mllm_tiny import make_tokenizer
from tests.pipelines.engine.test_language_model_jobs import FIT_SHORT, SHAPE
from tests.pipelines.ray_support import RESOURCES

ROOT = Path(__file__).resolve().parents[2]
PARAMS = str(ROOT / "params.yaml")
CHATS = [
    {"id": "a", "image": "coco/red.png", "conversations": said("<image>\nColour?", "Red.", "Sure?", "Yes.")},
    {"id": "b", "image": ["coco/red.png", "b.png"], "conversations": said("<image> or <image>?", "Both.")},
    {"id": "c", "conversations": said("Hello", "Hi")},
    {"id": "d", "image": "gone.png", "conversations": said("<image>", "lost")},
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What a user has: labelled images, conversations, edits and text, as they are published."""
    folder = tmp_path / "own"
    (folder / "coco").mkdir(parents=True)
    (folder / "coco/red.png").write_bytes(png("red"))
    (folder / "b.png").write_bytes(png("blue"))
    (folder / "llava.json").write_text(json.dumps(CHATS))
    images = [{"bytes": png(colour), "path": None} for colour in ("red", "blue", "green", "white")]
    pairs = pa.table({"image": images, "text": [f"a picture {i}" for i in range(4)]})
    pq.write_table(pairs, folder / "pairs.parquet")
    edits = {"original_image": images[:2], "edit_prompt": ["greener", "bluer"], "edited_image": images[2:]}
    pq.write_table(pa.table(edits), folder / "edits.parquet")
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": f"words {i}"}) for i in range(3)))
    return folder


def own_params(files: Path, *overrides: str) -> Params:
    return load_params(
        ROOT / "params.yaml",
        overrides=[
            f"ingest.source={files}/pairs.parquet",
            f"ingest.conversations={files}/llava.json",
            f"ingest.edits={files}/edits.parquet",
            "ingest.min_side_px=8",
            *overrides,
        ],
    )


class Stages:
    """The stages of one run, with the manifests that each leaves to the next."""

    def __init__(self, params: Params, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.params, self.folder = params, folder
        self.store: Store = open_store(folder / "store")
        self.inputs: dict[str, Manifest] = {}
        for module in (ingest, tokenize_images):
            monkeypatch.setattr(module, "run_most_units", one_after_another)
        passed = SimpleNamespace(page=folder, failed=())
        monkeypatch.setattr(tokenize_images, "validate", lambda *_: passed)
        monkeypatch.setattr(tokenize_images, "add_up", added_up)
        monkeypatch.setattr(tokenize_images, "connect", lambda _: contextlib.nullcontext())

    def context(self, name: str) -> StageContext:
        section, print_ = getattr(self.params, name), f"{len(self.inputs):064x}"
        return StageContext(name, self.params, section, self.store, self.folder, print_, dict(self.inputs))

    def keep(self, name: str, made: list[Commit]) -> None:
        self.inputs[name] = Manifest(name, self.context(name).fingerprint, {}, tuple(made))

    def run(self, module: Any, name: str) -> Any:
        result = module.run(self.context(name))
        self.keep(name, list(result.commits))
        return result.report

    def train(self, job: Any, name: str, **arguments: Any) -> DDTLlama:
        ctx = self.context(name)
        job(name, ctx.fingerprint, self.store.root_uri, RESOURCES, []).run(**arguments)
        (made,) = commits(self.store, name, ctx.fingerprint).values()
        self.keep(name, [made])
        return DDTLlama.from_pretrained(self.store.fetch_tree(made.key.removesuffix("/_COMPLETE")))


def one_after_another(ctx: StageContext, worker: Any, units: list[dict[str, Any]], **arguments: Any) -> Any:
    made = worker(ctx.name, ctx.fingerprint, ctx.store.root_uri, arguments)
    return [Commit(**made(unit)) for unit in sorted(units, key=lambda unit: unit["unit"])], []


def added_up(
    function: Any, arguments: dict[str, Any], units: list[dict[str, Any]], *_: Any, **__: Any
) -> Any:
    return sum(function(unit, **arguments) for unit in units)


def select_all(stages: Stages) -> None:
    """`select` without a judge: every pair is kept."""
    from ddt.manifest import write_unit

    made = []
    for c in stages.inputs["ingest"].commits:
        if c.stats["role"] == "pairs":
            rows = read_shard(stages.store.fetch(c.key), ["sample_id", "caption"]).to_pylist()
            path = stages.folder / "pairs.arrow"
            pairs = [
                {"sample_id": r["sample_id"], "short": r["caption"], "long": "", "score": 1.0} for r in rows
            ]
            write_shard(path, pairs, PAIR_SCHEMA)
            stats = {"records": c.key}
            made.append(write_unit(stages.store, "select", "5" * 64, c.unit, path, len(pairs), stats=stats))
    stages.keep("select", made)


def publish_tokenizer(stages: Stages) -> None:
    torch.manual_seed(0)
    folder = stages.folder / "tokenizer"
    DDTTokenizer(presets()["debug"]).eval().save_pretrained(folder)
    (folder / "_COMPLETE").touch()
    stages.keep("train_tokenizer", [publish_model(stages.store, "train_tokenizer", "7" * 64, folder, 1, {})])


def test_a_model_is_tuned_on_own_files_by_params_alone(files, tmp_path, monkeypatch):
    (files / "held.parquet").write_bytes((files / "pairs.parquet").read_bytes())
    params = own_params(
        files, "finetune.mix.chat=1.0", "ingest.max_reject_rate=0.5", f"ingest.holdout={files}/held.parquet"
    )
    stages = Stages(params, tmp_path, monkeypatch)
    report = stages.run(ingest, "ingest")
    counts = [report.metrics[f"ingest/{role}"] for role in ("pairs", "holdout", "chat", "edits", "rejected")]
    assert counts == [4, 4, 3, 2, 1]
    assert "gone.png" in str(report.tables["Rejected samples (some)"])

    select_all(stages)
    publish_tokenizer(stages)
    stages.run(tokenize_images, "tokenize_images")
    (shard,) = token_shards(stages.inputs["tokenize_images"], "chat")
    chats = TokenDataset([shard], stages.store.fetch)
    assert [len(chats.conversation(i)[1]) for i in range(3)] == [1, 2, 0]
    assert (chats.conversation(0)[1] == chats.conversation(1)[1][0]).all()  # the same picture, the same codes
    assert [turn["text"] for turn in chats.conversation(0)[0]][1:] == ["Red.", "Sure?", "Yes."]

    make_tokenizer().save_pretrained(tmp_path / "text")
    section = dataclasses.replace(
        params.pretrain, text_tokenizer=str(tmp_path / "text"), model=SHAPE, row_length=96,
        text_rate=0.5, text_source=f"{files}/text.jsonl", fit=FIT_SHORT,
    )  # fmt: skip
    tokens = stages.inputs["tokenize_images"]
    images = finetune.model_key(stages.inputs["train_tokenizer"])
    shards = token_shards(tokens, "pairs")
    monkeypatch.setattr(pretrain, "run_units", lambda *given: one_after_another(*given)[0])
    ctx = dataclasses.replace(stages.context("pretrain"), section=section)
    for _ in range(2):
        (index,) = pretrain.index_texts(ctx)  # of a file as it is, whatever the training
        assert (index.rows, index.stats["told"]) == (3, "")
        ctx = dataclasses.replace(ctx, fingerprint="d" * 64)
    stages.train(
        pretrain.PretrainJob, "pretrain", params=section, tokenizer=images, shards=shards,
        held_out=token_shards(tokens, "holdout"), texts=[index.key],
    )  # fmt: skip
    measured = stages.inputs["pretrain"].commits[0].stats
    assert measured["held_out/visual_ce"] > 0 < measured["held_out/visual_ce_shuffled"]
    assert "nats a code with their own captions" in pretrain.held_out_note(measured)

    seen: dict[str, Any] = {}

    def train_here(ctx: StageContext, job: Any, **arguments: Any) -> Any:
        seen.update(arguments)
        tuned = dataclasses.replace(ctx.section, row_length=96, fit=FIT_SHORT)
        model = stages.train(job, "finetune", **{**arguments, "params": tuned})
        return stages.inputs["finetune"].commits[0], SimpleNamespace(notes=[], model=model)

    monkeypatch.setattr(finetune, "run_training", train_here)
    report = finetune.run(stages.context("finetune")).report
    assert seen["mix"]["chat"] == 1.0 and "vqa" not in seen["mix"] and seen["chats"] == [shard]
    assert report.notes == ["No data in the source for vqa: left out of the mix."]
    assert report.model.caption(report.model.generate_image(["a picture 1"], cfg_scale=1.0))


def test_questions_of_a_crawl_stay_with_their_pictures(tmp_path, monkeypatch):
    """From a tar's json to token shards beside the captions; no picture is tokenized for them."""
    write_crawl(tmp_path / "00000.tar", 0, 12, 3, 32, {"duplicate": 0.2})
    stages = Stages(load_params(PARAMS, overrides=[f"ingest.source={tmp_path}/*.tar"]), tmp_path, monkeypatch)
    stages.run(ingest, "ingest")
    select_all(stages)
    publish_tokenizer(stages)
    report = stages.run(tokenize_images, "tokenize_images")
    assert report.metrics["tokenize/pairs_with_questions"] == report.metrics["tokenize/pairs"] == 12
    (made,) = stages.inputs["tokenize_images"].commits
    assert made.stats["images"] == 12
    pairs = TokenDataset(token_shards(stages.inputs["tokenize_images"], "pairs"), stages.store.fetch)
    asked = {}
    for sample in shard_samples(0, 12, 3, 32, {"duplicate": 0.2}):
        asked[sample_id(sample.image, sample.caption)] = sample.meta["questions"]
    assert [pairs.questions(n) for n in range(12)] == [asked[pairs.text("sample_id", n)] for n in range(12)]
    assert pairs.num_asked == 12 and min(map(len, asked.values())) >= 5


def test_a_labelled_set_becomes_a_model_that_draws_by_class(files, tmp_path, monkeypatch, capsys):
    images = [{"bytes": png(colour), "path": None} for colour in ("red", "blue", "green", "white")]
    pq.write_table(pa.table({"image": images, "label": [1, 7, 1, 7]}), files / "pairs.parquet")
    overrides = (
        "ingest.caption_column=label",
        "pretrain.class_conditional=true",
        "ingest.conversations=null",
    )
    stages = Stages(own_params(files, *overrides, "ingest.edits=null"), tmp_path, monkeypatch)
    stages.run(ingest, "ingest")
    select_all(stages)
    publish_tokenizer(stages)
    stages.run(tokenize_images, "tokenize_images")
    make_tokenizer().save_pretrained(tmp_path / "text")
    section = dataclasses.replace(
        stages.params.pretrain, text_tokenizer=str(tmp_path / "text"), model=SHAPE, row_length=96,
        text_rate=0.0, text_source=None, fit=FIT_SHORT,
    )  # fmt: skip
    shards = token_shards(stages.inputs["tokenize_images"], "pairs")
    images_key = finetune.model_key(stages.inputs["train_tokenizer"])
    trained = stages.train(
        pretrain.PretrainJob, "pretrain", params=section, tokenizer=images_key, shards=shards,
        held_out=[], texts=[],
    )  # fmt: skip
    assert stages.inputs["pretrain"].commits[0].stats == {}
    assert trained.classes == ("1", "7")
    tuned = dataclasses.replace(
        stages.params.finetune, mix={"class_to_image": 1.0}, row_length=96, fit=FIT_SHORT,
        lora=LoraConfig(2, 4, 0.0),
    )  # fmt: skip
    key = finetune.model_key(stages.inputs["pretrain"])
    arguments = {"params": tuned, "pairs": shards, "edits": [], "chats": [], "mix": tuned.mix}
    assert stages.train(finetune.FinetuneJob, "finetune", model=key, **arguments).classes == ("1", "7")

    folder = stages.store.fetch_tree(finetune.model_key(stages.inputs["finetune"]))
    draw = ["generate", "--model", str(folder), "-o", str(tmp_path / "out.png"), "--params", PARAMS]
    main([*draw, "--class", "7"])
    assert Image.open(tmp_path / "out.png").size == (16, 16)
    for wrong, message in ((["--class", "8"], "class '8': not among"), ([], "a prompt or --class"),
                           (["x", "--class", "7"], "a prompt or --class")):  # fmt: skip
        with pytest.raises(SystemExit):
            main([*draw, *wrong])
        assert message in capsys.readouterr().err


def test_captions_are_not_classes(monkeypatch):
    monkeypatch.setattr(pretrain, "MAX_CLASSES", 3)
    pairs: Any = SimpleNamespace(distinct=lambda column: ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="4 different native captions, expected 1 to 3 names"):
        pretrain.class_names(pairs)


def test_a_changed_picture_is_read_again_and_another_part_is_not(files, monkeypatch):
    monkeypatch.setattr(ingest, "CONVERSATIONS_PER_UNIT", 2)
    params = own_params(files).ingest

    def chat_units() -> list[dict[str, Any]]:
        return [unit for unit in ingest.source_units(params, "f") if unit["role"] == "chat"]

    first = chat_units()
    assert [(unit["start"], unit["stop"]) for unit in first] == [(0, 2), (2, 4)]
    (files / "gone.png").write_bytes(png("white"))
    second = chat_units()
    assert second[0] == first[0] and second[1]["unit"] != first[1]["unit"]
    os.utime(files / "gone.png", ns=(0, 0))  # other pixels may have the same size
    assert chat_units()[1]["unit"] != second[1]["unit"]


def test_a_source_that_changed_under_its_path_is_read_again(files, tmp_path, monkeypatch):
    stages = Stages(own_params(files, "ingest.max_reject_rate=0.5"), tmp_path, monkeypatch)

    def finish() -> set[str]:
        ctx = stages.context("ingest")
        result = ingest.run(ctx)
        manifest = Manifest("ingest", ctx.fingerprint, {}, tuple(result.commits))
        result.report.digest = manifest.digest
        result.report.save(report_path(ctx.workspace, "ingest"))
        manifest.save(manifest_path(ctx.workspace, "ingest"))
        assert is_finished(ctx)
        return {commit.unit for commit in manifest.commits}

    first = finish()
    table = pq.read_table(files / "pairs.parquet")
    pq.write_table(table.slice(1), files / "pairs.parquet")
    assert not is_finished(stages.context("ingest"))
    second = finish()
    assert len(second - first) == len(first - second) == 1  # nothing else is read again


def test_a_tokenizer_with_a_source_of_its_own_never_reads_the_pairs(files, tmp_path, monkeypatch):
    """As the paper's, which trains on ImageNet: `source` is set in its profile."""
    assert load_params(ROOT / "params.yaml", "paper").train_tokenizer.source is not None
    images = [{"bytes": png(colour), "path": None} for colour in ("red", "blue", "green")]
    pq.write_table(pa.table({"image": images}), files / "imagenet.parquet")
    own = f"train_tokenizer.source={files}/imagenet.parquet"
    stages = Stages(own_params(files, "ingest.max_reject_rate=0.5", own), tmp_path, monkeypatch)
    stages.run(ingest, "ingest")
    made = stages.inputs["ingest"]
    pairs, shards = image_shards(made, own_images=False), image_shards(made, own_images=True)
    assert [rows for _, rows in shards] == [3] and not set(pairs) & set(shards)
    seen: dict[str, Any] = {}

    def training(ctx: Any, job: Any, **arguments: Any) -> None:
        seen.update(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_tokenizer, "run_training", training)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer.run(stages.context("train_tokenizer"))
    assert seen["shards"] == shards
    stages.params = own_params(files)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer.run(stages.context("train_tokenizer"))
    assert seen["shards"] == pairs
    stages.params = own_params(files, own)
    kept = tuple(c for c in made.commits if c.stats["role"] != "images")
    stages.inputs["ingest"] = Manifest("ingest", made.fingerprint, {}, kept)  # read before there was one
    with pytest.raises(StageError, match="imagenet.parquet: not ingested; run ingest again"):
        train_tokenizer.run(stages.context("train_tokenizer"))


def test_what_is_not_there_is_named(files, tmp_path, monkeypatch):
    def mistake(*overrides: str) -> str:
        with pytest.raises(ValueError) as caught:
            ingest.source_units(own_params(files, *overrides).ingest, "f")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "ingest.conversations: /nowhere does not exist" in mistake("ingest.conversations=/nowhere")
    assert "ingest.conversation_images: /nowhere is not a folder" in mistake(
        "ingest.conversation_images=/nowhere"
    )
    assert "ingest.edits: no .parquet file" in mistake(f"ingest.edits={files}/coco")
    (files / "empty.json").write_text("[]")
    assert "no conversation in" in mistake(f"ingest.conversations={files}/empty.json")
    (files / "coco/broken.json").write_text("[{")
    assert "broken.json: not JSON" in mistake(f"ingest.conversations={files}/coco/broken.json")
    (files / "lost.json").write_text(json.dumps([CHATS[3]]))
    params = own_params(files, f"ingest.conversations={files}/lost.json", "ingest.max_reject_rate=1.0")
    with pytest.raises(StageError, match="nothing usable in ingest.conversations = .*lost.json"):
        Stages(params, tmp_path, monkeypatch).run(ingest, "ingest")


def test_text_is_part_of_what_a_model_is_and_missing_text_is_named(files, tmp_path):
    def found(source: Path) -> dict[str, str]:
        section = load_params(ROOT / "params.yaml", overrides=[f"pretrain.text_source={source}"]).pretrain
        return pretrain.models(section)

    whole = found(files / "text.jsonl")
    assert whole == found(files) and "text_source/text.jsonl" in whole
    (files / "text.jsonl").write_text('{"text": "other"}')
    assert found(files) != whole
    with pytest.raises(ValueError, match="pretrain.text_source: no .jsonl file in .*coco"):
        found(files / "coco")
    with pytest.raises(ValueError, match="pretrain.text_source: .*gone does not exist"):
        found(files / "gone")


def test_data_that_are_not_there_are_named_before_the_run(files):
    check_own_data(own_params(files, f"pretrain.text_source={files}", "finetune.mix.chat=1"))
    for overrides, message in (
        (("finetune.mix.chat=1", "ingest.conversations=null"), "mix.chat = 1.0: there are no conversations"),
        (("finetune.mix.class_to_image=1",), "mix.class_to_image = 1.0: the model has no classes"),
        (
            (f"pretrain.text_source={files}/llava.json",),
            "text_source: .*llava.json: line 1: not a JSON object",
        ),
        ((f"pretrain.text_source={files}/gone",), "pretrain.text_source: .*gone does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            check_own_data(own_params(files, *overrides))


def test_a_mix_without_its_data_is_named():
    mix = {"text_to_image": 0.5, "edit": 0.5, "vqa": 0.0}
    none = dict.fromkeys(("edit", "vqa", "chat", "class_to_image"), False)
    edits = none | {"edit": True}
    assert finetune.usable_mix(mix, none) == (
        {"text_to_image": 0.5, "vqa": 0.0},
        ["No data in the source for edit: left out of the mix."],
    )
    assert finetune.usable_mix(mix, edits | {"vqa": True}) == (mix, [])
    assert "not used" in finetune.usable_mix(mix, edits | {"chat": True})[1][0]
    with pytest.raises(ValueError, match="finetune.mix.chat = 1: there are no conversations"):
        finetune.usable_mix(mix | {"chat": 1}, edits)
    with pytest.raises(ValueError, match="class_to_image = 1: the model has no classes"):
        finetune.usable_mix({"class_to_image": 1}, none)
    with pytest.raises(ValueError, match="no data for any of its tasks"):
        finetune.usable_mix({"edit": 1.0}, none | {"vqa": True})
