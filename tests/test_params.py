"""params.yaml and the profiles: all load; the paper profile holds every number of the paper; mistakes."""

import json
from pathlib import Path

import pytest
import yaml

from ddt.config import ConfigError
from ddt.mllm.config import VisualSampling
from ddt.params import load_params
from ddt.tokenizer import presets
from pipelines.commands.plan import language_model_config, plan_sizes

ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / "params.yaml"
PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_profiles_load(profile: str | None) -> None:
    params = load_params(PARAMS, profile)
    assert params.select.keep > 0


def test_there_are_the_agreed_profiles() -> None:
    assert {"smoke", "h200", "paper"} <= set(PROFILES)


def test_paper_profile_is_the_paper() -> None:
    params = load_params(PARAMS, "paper")
    model, fit = params.train_tokenizer.model, params.train_tokenizer.fit
    assert model == presets()["paper"]
    assert (model.image_size, model.num_tokens, model.codebook_size, model.code_dim) == (256, 480, 65_536, 16)
    assert (model.encoder_depth, model.encoder_width, model.encoder_image_tokens) == (20, 256, 1024)
    assert (model.decoder_depth, model.decoder_width) == (24, 1536)
    assert (model.schedule, model.prefix, model.hidden_tokens, model.target) == (
        "linear",
        "ceil",
        "zero",
        "x0",
    )
    assert (fit.steps, fit.global_batch, fit.lr, fit.warmup_steps) == (140_000, 1024, 1e-4, 5000)
    assert (fit.betas, fit.eps, fit.weight_decay, fit.clip) == ((0.9, 0.99), 1e-6, 0.0, None)
    assert (model.position_period, model.gate_start) == (10_000.0, 0.0)
    assert {f.optimizer for f in (fit, params.pretrain.fit, params.finetune.fit)} == {"adamw"}
    pretrain = params.pretrain
    assert (pretrain.long_caption_rate, pretrain.caption_drop_rate, pretrain.text_rate) == (0.6, 0.1, 0.1)
    assert pretrain.image_first_rate == 0.0
    assert (pretrain.fit.steps, pretrain.fit.global_batch, pretrain.fit.lr) == (360_000, 1280, 1e-4)
    assert (pretrain.fit.warmup_steps, pretrain.fit.weight_decay, pretrain.fit.clip) == (5000, 0.05, 1.0)
    assert (pretrain.fit.betas, pretrain.fit.rewind_steps) == ((0.9, 0.95), 500)
    tuning = params.finetune.fit
    assert (tuning.steps, tuning.global_batch, tuning.lr, tuning.warmup_steps) == (160_000, 256, 1e-5, 2000)
    sampling = params.finetune.sampling
    assert sampling.draw == sampling.edit == VisualSampling(8.0, 4096, 0.9, 1.0) == VisualSampling()
    assert (sampling.text.top_k, sampling.text.top_p, sampling.text.temperature) == (50, 1.0, 1.0)
    mix = params.finetune.mix
    assert mix["text_to_image"] == mix["edit"] == mix["caption"] + mix["vqa"] + mix["chat"]
    stages = ("train_tokenizer", "pretrain", "finetune")
    assert [params.resources.of_stage(stage).train_workers for stage in stages] == [32, 512, 256]
    assert params.select.keep == 200_000_000
    assert (params.resources.train_workers, params.resources.min_train_workers) == (512, 448)


@pytest.mark.parametrize("profile", ["paper", "h200"])
def test_nothing_that_was_tuned_on_a_laptop_gets_into_a_profile_with_a_preset(
    profile: str, tmp_path: Path
) -> None:
    values = yaml.safe_load(PARAMS.read_text())
    model = values["train_tokenizer"]["model"]
    model |= {"code_dim": 5, "qk_norm": True, "code_noise": 0.7, "time_power": 9.0, "tail_dropout": 0.9}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    changed = load_params(tmp_path / "params.yaml", profile).train_tokenizer.model
    assert changed == load_params(PARAMS, profile).train_tokenizer.model


def test_a_preset_is_where_a_tokenizer_starts_from() -> None:
    chosen = load_params(PARAMS, "paper", ["train_tokenizer.model.preset=selftok"]).train_tokenizer.model
    assert chosen == presets()["selftok"]
    layers = ["train_tokenizer.model={preset: selftok, decode_steps: 7}"]
    assert load_params(PARAMS, None, layers).train_tokenizer.model == chosen.replace(decode_steps=7)
    with pytest.raises(
        ConfigError, match="train_tokenizer.model.preset = 'sd3': expected one of paper, self"
    ):
        load_params(PARAMS, None, ["train_tokenizer.model.preset=sd3"])


def test_paper_plan_counts_without_allocating() -> None:
    sizes = plan_sizes(load_params(PARAMS, "paper"))
    assert sizes["vocabulary"] == 193_794
    assert sizes["bits per image"] == 7680
    assert sizes["language model parameters"] == 8_030_261_248 + 2 * (193_794 - 128_256) * 4096
    assert sizes["token shard bytes"] == 192_000_000_000


def test_a_plan_counts_the_ids_that_training_would_have(tmp_path: Path) -> None:
    """A checkpoint's rows past its tokenizer's ids, padding or codes of an earlier training, are no ids."""
    config = {"model_type": "llama", "vocab_size": 5000, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    params = load_params(PARAMS, overrides=[f"pretrain.init={tmp_path}", "pretrain.model=null"])
    scratch = language_model_config(load_params(PARAMS))
    assert language_model_config(params).vocab_size == scratch.vocab_size < 5000


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["select.keep=0"], "select.keep = 0: expected a number >= 1"),
        (["selekt.keep=1"], "selekt: unknown key"),
        (
            ["train_tokenizer.model.schedule=cosine"],
            "train_tokenizer.model.schedule = 'cosine': expected one of",
        ),
        (["select.keep"], "override 'select.keep': expected section.key=value"),
        (["pretrain.model.rope_theta=0"], "pretrain.model: rope_theta = 0.0: expected a positive number"),
        (
            ["resources.tensor_parallel=7"],
            "resources: tensor_parallel = 7: expected a divisor of train_workers",
        ),
        (
            ["resources.min_train_workers=3"],
            "resources: min_train_workers = 3: expected at most train_workers = 2",
        ),
        (["resources.min_train_workers=0"], "resources.min_train_workers = 0: expected a number >= 1"),
        (
            [
                "resources.train_workers=4",
                "resources.tensor_parallel=2",
                "resources.min_train_workers=3",
            ],
            "resources: min_train_workers = 3: expected a multiple of tensor_parallel = 2",
        ),
        (["pretrain.model=null"], "pretrain: init and model: expected exactly one of them, neither is set"),
        (["pretrain.init=x"], "pretrain: init and model: expected exactly one of them, both are set"),
        (["pretrain.lora={rank: 4, alpha: 8, dropout: 0}"], "pretrain: lora: adapts a checkpoint"),
        (["finetune.lora={rank: 0, alpha: 8, dropout: 0}"], "finetune.lora.rank = 0: expected a number >= 1"),
        (
            ["finetune.mix.drawing=1"],
            "finetune: mix.drawing: unknown task; allowed here: text_to_image, edit",
        ),
        (["train_tokenizer.fit.warmup_steps=1000000"], "train_tokenizer.fit: warmup_steps"),
        (["evaluate.benchmarks=[vqa, genevil]"], r"evaluate.benchmarks\[1\] = 'genevil': expected one of"),
    ],
)
def test_a_wrong_override_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_params(PARAMS, overrides=overrides)


def test_a_key_given_twice_is_named(tmp_path: Path) -> None:
    twice = tmp_path / "twice.yaml"
    twice.write_text("select:\n  keep: 1\n  seed: 2\n  keep: 3\n")
    with pytest.raises(ConfigError, match=r"twice.yaml, line 4: keep is given twice, first on line 2$"):
        load_params(PARAMS, str(twice))
    twice.write_text(PARAMS.read_text() + "\nselect:\n  keep: 1\n")
    with pytest.raises(ConfigError, match=r"twice.yaml, line \d+: select is given twice, first on line \d+$"):
        load_params(twice)
    with pytest.raises(ConfigError, match=r"override 'finetune.mix=.*', line 1: vqa is given twice"):
        load_params(PARAMS, overrides=["finetune.mix={vqa: 1, vqa: 2}"])


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    profile = tmp_path / "merged.yaml"
    profile.write_text("select: &all {keep: 7, seed: 1}\n")
    params = load_params(PARAMS, str(profile))
    profile.write_text("select: {<<: {keep: 7, seed: 1}, keep: 8}\n")
    assert (params.select.keep, load_params(PARAMS, str(profile)).select.keep) == (7, 8)


def test_of_two_overrides_of_a_key_the_last_counts() -> None:
    assert load_params(PARAMS, overrides=["select.keep=7", "select.keep=8"]).select.keep == 8


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.yaml: cannot be read"):
        load_params(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="profile 'nope' not found; there are: .*smoke"):
        load_params(PARAMS, "nope")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match="broken.yaml: not valid YAML"):
        load_params(broken)
