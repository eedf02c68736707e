"""Checkpoints that would have to be unpickled, as their genuine classes once saved them: refused by every
loader before a byte of them is read, in one line that names what was found."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from ddt.data.captioner import Captioner
from ddt.data.clip_score import ClipScorer
from ddt.eval.scorers import BlipVQA, open_detector
from ddt.eval.scorers.vae import VAE
from ddt.mllm.build import load_config, load_model
from ddt.scenes import weights_dir
from ddt.tokenizer import DDTTokenizer
from ddt.tokenizer.sd3 import init_from_sd3
from ddt.weights import check_safetensors, why_not_loaded
from tests.eval.official import tiny
from tests.tokenizer.test_model import debug

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
REFUSED = r"holds (\w+\.bin|\w+-00001-of-\w+\.bin and 8 more), no safetensors; nothing is unpickled here: "


def llama(folder: Path, max_shard_size: str = "1GB") -> str:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=20, **SHAPE)).save_pretrained(
        folder, max_shard_size=max_shard_size
    )
    return str(folder)


def captioner(folder: Path) -> str:
    shutil.copytree(weights_dir("captioner"), folder, dirs_exist_ok=True)
    return str(folder)


def sd3(folder: Path) -> str:
    from tests.tokenizer.test_sd3 import tiny_sd3

    tiny_sd3().save_pretrained(folder / "transformer")
    return str(folder)


def pickled(folder: Path) -> None:
    """Every file of safetensors as the .bin of before, and the indices that name them."""
    for path in list(folder.rglob("*.safetensors")):
        name = path.name.replace("model", "pytorch_model") if path.name.startswith("model") else path.name
        torch.save(load_file(path), path.with_name(name.replace(".safetensors", ".bin")))
        path.unlink()
    for index in list(folder.rglob("*.safetensors.index.json")):
        text = index.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        index.with_name("pytorch_model.bin.index.json").write_text(text)
        index.unlink()


LOADERS = {
    "llama": (llama, load_model),
    "llama in shards": (lambda folder: llama(folder, "4KB"), load_model),
    "its config": (llama, load_config),
    "clip": (tiny.clip, lambda folder: ClipScorer(folder, "cpu")),
    "captioner": (captioner, lambda folder: Captioner(folder, device="cpu", engine="transformers")),
    "blip": (tiny.blip, lambda folder: BlipVQA(folder, "cpu")),
    "mask2former": (tiny.mask2former, lambda folder: open_detector(folder, "cpu")),
    "owlv2": (tiny.owlv2, lambda folder: open_detector(folder, "cpu")),
    "vae": (tiny.vae, lambda folder: VAE(folder, "cpu")),
    "sd3": (sd3, lambda folder: init_from_sd3(DDTTokenizer(debug()), folder)),
}


@pytest.mark.parametrize("name", LOADERS)
def test_no_loader_unpickles(name, tmp_path, monkeypatch):
    make, load = LOADERS[name]
    folder = make(tmp_path / "model")
    pickled(tmp_path / "model")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match=REFUSED) as refused:
        load(folder)
    assert "\n" not in str(refused.value) and len(str(refused.value)) - len(folder) < 250


def test_safetensors_are_read_whatever_lies_beside_them(tmp_path):
    """In one file or several; what is pickled beside them, as on the hub, is left alone."""
    whole, split = (load_model(llama(tmp_path / size, size)) for size in ("1GB", "4KB"))
    assert len(list((tmp_path / "4KB").glob("*.safetensors"))) > 2
    for name in ("pytorch_model.bin", "optimizer.pt"):
        (tmp_path / "1GB" / name).write_bytes(b"no pickle")
    beside = load_model(tmp_path / "1GB")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(split.state_dict()[name], tensor) and torch.equal(
            beside.state_dict()[name], tensor
        )


def test_an_index_of_safetensors_that_names_a_pickle_is_refused(tmp_path):
    folder = Path(llama(tmp_path, "4KB"))
    index = folder / "model.safetensors.index.json"
    described = json.loads(index.read_text())
    described["weight_map"]["model.norm.weight"] = "norm.bin"
    torch.save({"model.norm.weight": torch.ones(16)}, folder / "norm.bin")
    index.write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"holds norm.bin, no safetensors"):
        load_model(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.bin", "adapter_model.safetensors"])
def test_an_adapter_is_no_model(tmp_path, name):
    """Transformers would put it on the model, or read it in the model's place, from a pickle too."""
    llama(tmp_path)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"{tmp_path}: holds an adapter \({name}\); merge it"):
        load_model(tmp_path)


def test_what_is_no_model_is_left_to_its_loader(tmp_path):
    check_safetensors("x", "some/hub-id")
    (tmp_path / "vocab.bin").touch()  # a tokenizer's, say
    check_safetensors("x", tmp_path)


def test_the_hub_without_safetensors_is_told_alike(monkeypatch):
    """What Transformers says of a repository that has none, from its own code with the network stubbed."""
    from transformers import modeling_utils

    monkeypatch.setattr(modeling_utils, "cached_file", lambda *a, **k: None)
    monkeypatch.setattr(modeling_utils, "is_offline_mode", lambda: True)
    with pytest.raises(OSError) as said:  # noqa: PT011
        modeling_utils._get_resolved_checkpoint_files("some/one", None, None, True, None, False)
    assert "use_safetensors" in str(said.value)
    assert why_not_loaded(said.value).startswith("no safetensors; nothing is unpickled here")
    assert why_not_loaded(OSError("a\nb")) == "a" and why_not_loaded(KeyError()) == "KeyError"
