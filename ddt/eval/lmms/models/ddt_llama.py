"""DDT-LLaMA for lmms-eval (the extra `lmms`): its model interface over `answer` and answer ranking.

python -m lmms_eval --model ddt_llama --model_args pretrained=FOLDER --tasks mme,pope --batch_size 32
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.api.registry import register_model
from PIL import Image

from ddt.data.decode import fitted, to_rgb
from ddt.data.pretrained import pick_device
from ddt.eval.ranking import judge_options
from ddt.mllm import DDTLlama


@register_model("ddt_llama")
class DDTLlamaModel(lmms):
    """Takes one picture a question. Runs in one process, on the GPU where there is one."""

    def __init__(
        self, pretrained: str, batch_size: int | str = 32, device: str | None = None, **unused: Any
    ) -> None:
        super().__init__()
        self.model = DDTLlama.from_pretrained(pretrained, str(pick_device(device)))
        self.model.batch_size = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each request, greedy unless it asks for samples; cut at the first of its stops."""
        texts: dict[int, str] = {}
        for options, indices in _grouped(requests):
            images, questions = [], []
            for index in indices:
                context, _, to_visual, *where = requests[index].args
                images.append(self._image(to_visual, *where))
                questions.append(context)
            self.model.sampling = _sampling(self.model.sampling, options)
            answers = self.model.answer(images, questions)
            for index, text in zip(indices, answers, strict=True):
                texts[index] = _cut(text, options.get("until", ()))
                self.cache_hook.add_partial("generate_until", requests[index].args[:2], texts[index])
        return [texts[index] for index in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(mean loss of the continuation, whether it is the greedy one) of each request.

        A loss, not a log-likelihood, is what lmms-eval takes: it chooses the smallest.
        """
        results = []
        for request in requests:
            context, target, to_visual, *where = request.args
            continuation = target if isinstance(target, str) else target(self._document(*where))
            codes_T = self.model.encode([self._image(to_visual, *where)])[0]
            results += judge_options(self.model, codes_T, context, [continuation])
        return results

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise ValueError("ddt_llama: was tuned on single questions, so tasks of several rounds are refused")

    def _document(self, doc_id: Any, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _image(self, to_visual: Any, doc_id: Any, task: str, split: str) -> Image.Image:
        found = to_visual(self._document(doc_id, task, split))
        if not (isinstance(found, Sequence) and len(found) == 1 and isinstance(found[0], Image.Image)):
            raise ValueError(
                f"{task} {split} {doc_id}: ddt_llama takes exactly one picture, got {found!r:.80}"
            )
        return fitted(to_rgb(found[0]), self.model.image_tokenizer.config.image_size)


def _grouped(requests: Sequence[Any]) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    """Requests with the same generation options together."""
    groups: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(repr(sorted(request.args[1].items())), []).append(index)
    for indices in groups.values():
        yield requests[indices[0]].args[1], indices


def _sampling(sampling: Any, options: Mapping[str, Any]) -> Any:
    temperature = float(options.get("temperature") or 0) if options.get("do_sample") else 0.0
    tokens = int(options.get("max_new_tokens", sampling.text.max_new_tokens))
    text = dataclasses.replace(sampling.text, temperature=temperature, max_new_tokens=tokens)
    return dataclasses.replace(sampling, text=text)


def _cut(text: str, until: str | Sequence[str]) -> str:
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text.strip()
