"""The lmms-eval plugin against a stub of its interface: the class `lmms`, and its requests."""

import abc
import importlib
import sys
import types
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ddt.eval.ranking import option_losses
from ddt.mllm import DDTLlama
from ddt.mllm.build import load_tokenizer, new_model
from ddt.mllm.config import SamplingConfig
from ddt.mllm.vocabulary import extend_tokenizer
from ddt.scenes import weights_dir
from ddt.tokenizer import DDTTokenizer, presets
from tests.mllm.mllm_tiny import TINY

DOCUMENTS = {
    "pope": {
        "test": [{"picture": "red", "options": ["yes", "no"]}, {"picture": "blue", "options": ["a", "b"]}]
    }
}


class Interface(abc.ABC):
    """lmms_eval.api.model.lmms, as far as a model sees it."""

    def __init__(self):
        self.task_dict, self.cached = {}, []
        self.cache_hook = SimpleNamespace(add_partial=lambda *partial: self.cached.append(partial))

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """The plugin's class, found as lmms-eval finds it, with a tiny saved model."""
    registry: dict[str, type] = {}

    def register_model(*names):
        return lambda cls: registry.update(dict.fromkeys(names, cls)) or cls

    for name, content in (
        ("lmms_eval", {}), ("lmms_eval.api", {}), ("lmms_eval.api.model", {"lmms": Interface}),
        ("lmms_eval.api.registry", {"register_model": register_model}),
    ):  # fmt: skip
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    models = importlib.import_module("ddt.eval.lmms.models")
    for name, cls in models.AVAILABLE_MODELS.items():
        monkeypatch.delitem(sys.modules, f"ddt.eval.lmms.models.{name}", raising=False)
        found = getattr(importlib.import_module(f"ddt.eval.lmms.models.{name}"), cls)
    assert registry == {"ddt_llama": found}
    torch.manual_seed(0)
    image_tokenizer, text_tokenizer = (
        DDTTokenizer(presets()["debug"]).eval(),
        load_tokenizer(weights_dir("bpe")),
    )
    vocabulary = extend_tokenizer(text_tokenizer, image_tokenizer.config.codebook_size)
    model = DDTLlama(new_model(TINY, vocabulary, 0), text_tokenizer, image_tokenizer, SamplingConfig())
    model.save_pretrained(tmp_path / "model")
    made = found(pretrained=str(tmp_path / "model"), batch_size="2", device="cpu", max_batch_size=None)
    made.task_dict = DOCUMENTS
    return made


def visual(document):
    return [Image.new("RGB", (20, 16), document["picture"])]


def request(context, second, doc_id=0, to_visual=visual):
    return SimpleNamespace(args=(context, second, to_visual, doc_id, "pope", "test"))


def test_generates_in_the_order_of_the_requests(plugin):
    short, long = {"max_new_tokens": 2, "until": ["\n"]}, {"max_new_tokens": 6, "temperature": 0}
    requests = [request("What?", long), request("Is it red?", short, 1), request("Why?", long, 1)]
    together = plugin.generate_until(requests)
    assert together == [plugin.generate_until([each])[0] for each in requests]
    ids = plugin.model.text_tokenizer(together[1], add_special_tokens=False)["input_ids"]
    assert len(ids) <= 3 and len(plugin.cached) == 6 and plugin.cached[1][0] == "generate_until"
    stop = together[0][1:3]
    cut = plugin.generate_until([request("What?", long | {"until": stop})])[0]
    assert cut == together[0].split(stop)[0].strip() != together[0]


def test_losses_rank_the_options(plugin):
    requests = [request("Which?", option) for option in DOCUMENTS["pope"]["test"][0]["options"]]
    requests.append(request("Which?", lambda document: document["options"][1]))
    (first, _), (second, greedy), again = plugin.loglikelihood(requests)
    codes_T = plugin.model.encode(visual(DOCUMENTS["pope"]["test"][0]))[0]
    assert [first, second] == pytest.approx(
        option_losses(plugin.model, codes_T, "Which?", ["yes", "no"]), rel=1e-5
    )
    assert again == (pytest.approx(second), greedy)


def test_what_it_can_not_do_is_told(plugin):
    with pytest.raises(ValueError, match="pope test 0: ddt_llama takes exactly one picture, got "):
        plugin.generate_until([request("?", {}, to_visual=lambda document: visual(document) * 2)])
    with pytest.raises(ValueError, match="several rounds are refused"):
        plugin.generate_until_multi_round([])
