"""Pre-training and tuning as the workers run them, in one process and spread over four: the same models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ddt.data.tokens import ShardFacts, TokenMeta, write_shard
from ddt.manifest import commits
from ddt.mllm import DDTLlama
from ddt.mllm.config import LanguageModelConfig, SamplingConfig
from ddt.params import load_params
from ddt.sections.language_model import FinetuneParams, PretrainParams
from ddt.store import mark_complete, open_store
from ddt.tokenizer import DDTTokenizer, presets
from pipelines.engine.language_checks import check_language_model
from pipelines.finetune import FinetuneJob
from pipelines.pretrain import PretrainJob
from tests.mllm.mllm_tiny import make_tokenizer
from tests.mllm.test_training import FIT
from tests.pipelines.ray_support import RESOURCES
from tests.processes import run_processes

ROOT = Path(__file__).resolve().parents[3]
PAIRS = "shards/pairs.arrow"
FIT_SHORT = dataclasses.replace(FIT, steps=4, global_batch=8, micro_batch=2, lr=1e-3, warmup_steps=1)
SHAPE = LanguageModelConfig(32, 2, 4, 2, 64, 256, False, 10_000.0)
SPREAD = dataclasses.replace(
    RESOURCES, train_workers=4, tensor_parallel=2, shard_weights=True, checkpoint_activations=True
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, str]:
    """A store with an image tokenizer and token shards of pairs, and a text tokenizer beside it."""
    folder = tmp_path_factory.mktemp("jobs")
    store = open_store(folder / "store")
    torch.manual_seed(0)
    tokenizer = DDTTokenizer(presets()["debug"]).eval()
    tokenizer.save_pretrained(folder / "images")
    mark_complete(folder / "images")
    store.put_tree("shards/train_tokenizer/model", folder / "images")
    config = tokenizer.config
    rows = 40
    columns = {
        "sample_id": [str(n) for n in range(rows)],
        "short": [f"a red circle {n}" for n in range(rows)],
        "long": [f"a long story of a red circle {n}" for n in range(rows)],
        "codes": np.random.default_rng(0).integers(0, config.codebook_size, (rows, config.num_tokens)),
    }
    meta = TokenMeta(tokenizer.digest, config.num_tokens, config.codebook_size, config.token_order)
    write_shard(folder / "pairs.arrow", columns, meta, "pairs")
    store.put_file(PAIRS, folder / "pairs.arrow")
    make_tokenizer().save_pretrained(folder / "text")
    return {"store": store.root_uri, "text": str(folder / "text")}


def run_jobs(store: str, text: str, name: str, spread: bool) -> list[float]:
    """Both jobs after each other; the loss of every step."""
    losses: list[float] = []
    hooks = [lambda step, metrics: losses.append(metrics["train/loss"])]
    resources = SPREAD if spread else RESOURCES
    facts = facts_of(store, PAIRS)
    config = dataclasses.replace(FIT_SHORT, log_every=1)
    pretrain = PretrainParams(
        None, "mean", text, SHAPE, 96, 0.6, 0.1, 0.0, 0.0, None, False, 1e-4, None, config
    )
    PretrainJob("pretrain", f"{name}-{'a' * 40}", store, resources, hooks).run(
        pretrain, "shards/train_tokenizer/model", facts, facts, []
    )
    key = published(store, "pretrain", name).relative_to(store).as_posix()
    mix = {"text_to_image": 0.6, "caption": 0.4}
    finetune = FinetuneParams(96, mix, 0.6, 0.1, 0.0, None, config, SamplingConfig())
    FinetuneJob("finetune", f"{name}-{'b' * 40}", store, resources, hooks).run(
        finetune, key, facts, [], [], mix
    )
    return losses


def facts_of(store: str, key: str) -> list[ShardFacts]:
    return [ShardFacts.of(Path(store) / key, key)]


def published(store: str, stage: str, name: str) -> Path:
    markers = [
        k for k in open_store(store).list(f"shards/{stage}") if name in k and k.endswith("/model/_COMPLETE")
    ]
    assert len(markers) == 1
    return Path(store) / Path(markers[0]).parent


@pytest.mark.slow
def test_spread_jobs_publish_what_one_process_does(inputs):
    one = run_jobs(inputs["store"], inputs["text"], "one", False)
    four = run_processes(run_jobs, 4, inputs["store"], inputs["text"], "four", True)[0]
    assert len(one) == len(four) == 8
    assert np.abs(np.array(one) - four).max() < 1e-4
    for stage in ("pretrain", "finetune"):
        first, second = (published(inputs["store"], stage, name) for name in ("one", "four"))
        ours, theirs = (AutoModelForCausalLM.from_pretrained(folder) for folder in (first, second))
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4, msg=name)
        marker = json.loads((second / "_COMPLETE").read_text())
        assert {"config.json", "model.safetensors", "ddt.json", "tokenizer.json"} <= set(marker["files"])
    measured = [
        commit.stats["held_out/visual_ce"]
        for name in ("one", "four")
        for commit in commits(open_store(inputs["store"]), "pretrain", f"{name}-{'a' * 40}").values()
    ]
    assert measured[0] == pytest.approx(measured[1], abs=1e-3)
    assert not open_store(inputs["store"]).list("checkpoints/")  # gone once the model is published
    assert DDTLlama.from_pretrained(second).generate_image(["a red circle"], cfg_scale=1.0)


TWO = ("resources.train_workers=2", "resources.tensor_parallel=2")
ADAMW = ("pretrain.fit.optimizer=adamw", "finetune.fit.optimizer=adamw")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*TWO, "pretrain.fit.optimizer=adamw"), "finetune.fit.optimizer = muon: wants whole matrices"),
        (
            (*TWO, *ADAMW, "finetune.lora={rank: 2, alpha: 4, dropout: 0.0}"),
            r"finetune.lora: .* expected resources.tensor_parallel = 1",
        ),
        (
            (*TWO, *ADAMW, "pretrain.model.kv_heads=1"),
            "tensor_parallel = 2: expected a divisor of the model's num_key_value_heads = 1",
        ),
        (
            ("resources.train_workers=3", "resources.tensor_parallel=2"),
            "tensor_parallel = 2: expected a divisor of train_workers = 3",
        ),
        (("pretrain.row_length=512",), "pretrain: row_length = 512: expected at most model.max_length = 256"),
    ],
)
def test_settings_that_contradict_are_refused_before_anything_is_made(overrides, message):
    with pytest.raises(ValueError, match=message):
        check_language_model(load_params(ROOT / "params.yaml", overrides=overrides))


def test_a_checkpoint_is_looked_at_before_anything_is_made(tmp_path):
    def check(folder: Path, *overrides: str) -> None:
        init = (f"pretrain.init={folder}", "pretrain.model=null", *overrides)
        check_language_model(load_params(ROOT / "params.yaml", overrides=init))

    with pytest.raises(ValueError, match="its type is 'gpt2'; supported: llama, gemma2"):
        check(write_config(tmp_path / "class", model_type="gpt2"))
    with pytest.raises(ValueError, match="the model has 100 embedding rows, its tokenizer .* text ids"):
        check(write_config(tmp_path / "rows", vocab_size=100))
    fits = write_config(tmp_path / "fits", vocab_size=5000, max_position_embeddings=100)
    with pytest.raises(ValueError, match="pretrain.row_length = 128: expected at most the model's max_pos"):
        check(fits)
    with pytest.raises(ValueError, match="finetune.row_length = 128: expected at most the model's max_pos"):
        check(fits, "pretrain.row_length=64")
    check(fits, "pretrain.row_length=64", "finetune.row_length=64")
    with pytest.raises(ValueError, match="language model .*nowhere: can't be loaded"):
        check(tmp_path / "nowhere")


def test_a_checkpoint_of_another_text_tokenizer_is_named_before_anything_is_made(tmp_path):
    """It has rows for all ids of the smaller vocabulary, so that training would run, on other words."""
    init = write_config(tmp_path / "init", vocab_size=5000, max_position_embeddings=256)
    make_tokenizer().save_pretrained(init)
    make_tokenizer().save_pretrained(tmp_path / "text")

    def check(text: str) -> None:
        settings = (f"pretrain.init={init}", "pretrain.model=null", f"pretrain.text_tokenizer={text}")
        check_language_model(load_params(ROOT / "params.yaml", overrides=settings))

    check(str(tmp_path / "text"))
    check(str(init))
    message = r"pretrain.init = .*/init: its own tokenizer has '.*' as id \d+, the text tokenizer .* together"
    with pytest.raises(ValueError, match=message):
        check("scenes:bpe")
    grown = make_tokenizer()
    grown.add_tokens(["of one's own"])
    grown.save_pretrained(tmp_path / "grown")
    check(str(tmp_path / "grown"))  # the same ids and more


@pytest.fixture
def no_weights(monkeypatch):
    """Weights must not be read: what is wrong is seen before."""

    def read(*arguments, **options):
        raise AssertionError("weights were read")

    for name in ("ddt.mllm.build.load_model", "ddt.mllm.sharding.load_sharded"):
        monkeypatch.setattr(name, read)


def pretrain_from(inputs: dict[str, str], init: Path, shards: str = PAIRS) -> None:
    config = dataclasses.replace(FIT_SHORT, log_every=1)
    params = PretrainParams(
        str(init), "mean", inputs["text"], None, 96, 0.6, 0.1, 0.0, 0.0, None, False, 1e-4, None, config
    )
    job = PretrainJob("pretrain", "d" * 64, inputs["store"], RESOURCES, [])
    job.run(params, "shards/train_tokenizer/model", facts_of(inputs["store"], shards), [], [])


def write_config(folder: Path, **values: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 32, **values}))
    return folder


def test_a_checkpoint_that_does_not_fit_is_named_before_its_weights_are_read(inputs, no_weights, tmp_path):
    with pytest.raises(ValueError, match="its type is 'gpt2'; supported: llama, gemma2"):
        pretrain_from(inputs, write_config(tmp_path / "class", model_type="gpt2"))
    with pytest.raises(ValueError, match="the model has 100 embedding rows, its tokenizer .* text ids"):
        pretrain_from(inputs, write_config(tmp_path / "rows", vocab_size=100))
    other = write_config(tmp_path / "codes", vocab_size=5000)
    settings = {"format_version": 2, "tokenizer_digest": "f" * 64, "codebook_size": 9}
    settings |= {"sampling": {}, "made_from": {}}
    (other / "ddt.json").write_text(json.dumps(settings))
    (other / "_COMPLETE").touch()
    with pytest.raises(ValueError, match="knows the codes of tokenizer ffffffffffffffff, the data those of"):
        pretrain_from(inputs, other)


def put_shard_of_another_tokenizer(inputs: dict[str, str], folder: Path) -> None:
    columns = {"sample_id": ["a"], "short": ["a"], "long": ["a"], "codes": [[0, 1, 2, 3]]}
    write_shard(folder / "other.arrow", columns, TokenMeta("e" * 64, 4, 32, "V_1..V_T"), "pairs")
    open_store(inputs["store"]).put_file("shards/other.arrow", folder / "other.arrow")


def test_shards_of_another_tokenizer_are_named_before_weights_are_read(inputs, no_weights, tmp_path):
    put_shard_of_another_tokenizer(inputs, tmp_path)
    with pytest.raises(ValueError, match="made by tokenizer eeeeeeeeeeeeeeee, but the tokenizer given is"):
        pretrain_from(inputs, write_config(tmp_path / "init", vocab_size=5000), "shards/other.arrow")


def test_one_process_publishes_a_whole_model(inputs, request, tmp_path):
    losses = run_jobs(inputs["store"], inputs["text"], "alone", False)
    assert len(losses) == 8
    tuned = DDTLlama.from_pretrained(published(inputs["store"], "finetune", "alone"))
    assert set(tuned.made_from) == {"pretrain", "image_tokenizer", "finetune"}
    assert tuned.caption(tuned.generate_image(["a red circle"], cfg_scale=1.0))

    put_shard_of_another_tokenizer(inputs, tmp_path)
    request.getfixturevalue("no_weights")
    key = published(inputs["store"], "pretrain", "alone").relative_to(inputs["store"]).as_posix()
    finetune = FinetuneParams(96, {"caption": 1.0}, 0.6, 0.1, 0.0, None, FIT_SHORT, SamplingConfig())
    job = FinetuneJob("finetune", "e" * 64, inputs["store"], RESOURCES, [])
    with pytest.raises(ValueError, match="made by tokenizer eeeeeeeeeeeeeeee, but the tokenizer given is"):
        job.run(finetune, key, facts_of(inputs["store"], "shards/other.arrow"), [], [], {"caption": 1.0})
