"""Packed loss equals unpacked loss, for Llama and Gemma-2, however rows are cut among ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddt.mllm.cross_entropy import chunked_cross_entropy
from ddt.mllm.fused_cross_entropy import fused_kernel
from ddt.mllm.loss import LanguageModelLoss
from ddt.mllm.packing import PackedBatch, allowed_attention, assign_rows, pack, slice_rows
from ddt.mllm.sequences import Document
from tests.mllm.mllm_tiny import extended, random_documents


def unpacked_loss(model, documents):
    """The plain way: one document at a time, all logits, one mean over all learned tokens."""
    losses = []
    for document in documents:
        ids = torch.from_numpy(document.ids)[None]
        logits = model(ids).logits[0, :-1]
        keep = torch.from_numpy(document.learned[1:])
        losses.append(F.cross_entropy(logits[keep], ids[0, 1:][keep], reduction="none"))
    return torch.cat(losses).mean()


@pytest.fixture(params=["llama", "gemma"])
def model(request):
    if request.param == "llama":
        return request.getfixturevalue("llama")
    folder = request.getfixturevalue("gemma_folder")
    return extended(folder)[0]


def test_packed_loss_and_gradient_equal_unpacked(model, vocabulary):
    documents = random_documents(9, vocabulary.size)
    expected = unpacked_loss(model, documents)
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    batch = pack(documents, 48, vocabulary.pad, multiple=2)
    loss, metrics = LanguageModelLoss(vocabulary)(model, batch, 0, None)
    loss.backward()
    assert abs(loss.item() - expected.item()) < 1e-5
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-4, msg=name)
    assert 0.5 < metrics["row_fill"] <= 1


def test_micro_batches_and_ranks_average_to_the_same_loss(llama, vocabulary):
    documents = random_documents(11, vocabulary.size)
    loss_fn = LanguageModelLoss(vocabulary)
    whole = loss_fn(llama, pack(documents, 32, vocabulary.pad), 0, None)[0].item()
    padded = pack(documents, 32, vocabulary.pad, multiple=4)
    ranks = [loss_fn(llama, slice_rows(padded, rank, 4), 0, None)[0].item() for rank in range(4)]
    assert abs(np.mean(ranks) - whole) < 1e-5
    rows = len(padded.ids_RL)
    pieces = [PackedBatch(*(t[i : i + 3] for t in padded)) for i in range(0, rows, 3)]
    parts = [loss_fn(llama, piece, 0, None)[0].item() * len(piece.ids_RL) / rows for piece in pieces]
    assert abs(sum(parts) - whole) < 1e-5


def test_a_rank_of_padding_alone_adds_nothing(llama, vocabulary):
    documents = random_documents(5, vocabulary.size)
    loss_fn, whole = LanguageModelLoss(vocabulary), pack(documents, 48, vocabulary.pad)
    expected = loss_fn(llama, whole, 0, None)[0].item()
    world = len(whole.ids_RL) + 2
    padded = pack(documents, 48, vocabulary.pad, multiple=world)
    ranks = [loss_fn(llama, slice_rows(padded, rank, world), 0, None)[0] for rank in range(world)]
    assert abs(np.mean([loss.item() for loss in ranks]) - expected) < 1e-5
    ranks[-1].backward()  # processes average the gradients of every weight, so it must have one
    assert ranks[-1] == 0 and all(not p.grad.any() for p in llama.parameters())


def test_every_document_lies_whole_in_one_row(vocabulary):
    documents = random_documents(20, vocabulary.size)
    batch = pack(documents, 40, vocabulary.pad)
    found = []
    for row in range(len(batch.ids_RL)):
        for number in range(1, int(batch.document_RL[row].max()) + 1):
            where = batch.document_RL[row] == number
            assert batch.position_RL[row][where].tolist() == list(range(int(where.sum())))
            found.append(tuple(batch.ids_RL[row][where].tolist()))
    assert sorted(found) == sorted(tuple(d.ids.tolist()) for d in documents)
    assert len(batch.ids_RL) < len(documents)


def test_attention_stays_inside_documents():
    allowed = allowed_attention(torch.tensor([[1, 1, 2, 2, 0]]))[0].int().tolist()
    assert allowed == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_rows_are_filled_decreasing():
    assert assign_rows([2, 7, 3, 8], 10) == [[3, 0], [1, 2]]
    with pytest.raises(ValueError, match="11 tokens does not fit row_length = 10"):
        assign_rows([11], 10)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunk_logits", [1, 7 * 50, 1 << 20])
def test_chunked_cross_entropy_equals_torch(monkeypatch, softcap, chunk_logits, z_loss):
    monkeypatch.setattr("ddt.mllm.cross_entropy.CHUNK_LOGITS", chunk_logits)
    torch.manual_seed(0)
    hidden, head = torch.randn(23, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets = torch.randint(0, 50, (23,))
    total, each = chunked_cross_entropy(hidden, head, targets, softcap, z_loss)
    (total * 0.3).backward()
    got = hidden.grad.clone(), head.grad.clone()
    hidden.grad = head.grad = None
    logits = hidden @ head.t()
    logits = logits if softcap is None else torch.tanh(logits / softcap) * softcap
    expected = F.cross_entropy(logits, targets, reduction="none")
    summed = expected.sum() + z_loss * logits.logsumexp(dim=1).square().sum()
    (summed * 0.3).backward()
    torch.testing.assert_close(total, summed)
    torch.testing.assert_close(each, expected.detach())
    torch.testing.assert_close(got[0], hidden.grad)
    torch.testing.assert_close(got[1], head.grad)


def liger(hidden, weight, target, **options):
    """What liger-kernel 0.8.5's fused_linear_cross_entropy_forward gives, by torch."""
    assert options["reduction"] == "none" and options["return_z_loss"] and not hidden.requires_grad
    with torch.enable_grad():
        hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
        logits = (hidden @ weight.t()).float()
        cap = options["softcap"]
        logits = logits if cap is None else torch.tanh(logits / cap) * cap
        z_N = options["lse_square_scale"] * logits.logsumexp(dim=1).square()
        sums_N = F.cross_entropy(logits, target, reduction="none") + z_N
        grads = torch.autograd.grad(sums_N.sum(), (hidden, weight))
    grad_weight = grads[1] if options["weight_requires_grad"] else None
    return sums_N.detach(), z_N.detach().to(hidden.dtype), None, None, grads[0], grad_weight, None


@pytest.mark.parametrize(("softcap", "z_loss"), [(None, 0.0), (2.0, 1e-2)])
@pytest.mark.parametrize("frozen", [None, "hidden", "head"])
def test_the_fused_kernel_s_results_are_put_where_ours_are(monkeypatch, softcap, z_loss, frozen):
    torch.manual_seed(0)
    results = []
    for kernel in (None, liger):
        monkeypatch.setattr("ddt.mllm.cross_entropy.fused_kernel", lambda device, kernel=kernel: kernel)
        torch.manual_seed(0)
        hidden = torch.randn(23, 16, requires_grad=frozen != "hidden")
        head = torch.randn(50, 16, requires_grad=frozen != "head")
        targets = torch.randint(0, 50, (23,))
        total, each = chunked_cross_entropy(hidden, head, targets, softcap, z_loss)
        (total * 0.3).backward()
        assert not each.requires_grad
        results.append([total.detach(), each, hidden.grad, head.grad])
    for ours, fused in zip(*results, strict=True):
        assert (ours is None) == (fused is None)
        if ours is not None:
            torch.testing.assert_close(fused, ours)


@pytest.mark.gpu
def test_liger_s_kernel_gives_what_ours_does(monkeypatch):
    pytest.importorskip("liger_kernel")
    results = []
    for uses_it in (True, False):
        if not uses_it:
            monkeypatch.setattr("ddt.mllm.cross_entropy.fused_kernel", lambda device: None)
        torch.manual_seed(0)
        hidden = torch.randn(300, 64, device="cuda", requires_grad=True)
        head = torch.randn(5000, 64, device="cuda", requires_grad=True)
        targets = torch.randint(0, 5000, (300,), device="cuda")
        total, each = chunked_cross_entropy(hidden, head, targets, 30.0, 1e-4)
        total.backward()
        results.append([total.detach(), each, hidden.grad, head.grad])
    for fused, ours in zip(*results, strict=True):
        torch.testing.assert_close(fused, ours, rtol=1e-3, atol=1e-3)


def test_without_cuda_no_kernel_is_looked_for():
    assert fused_kernel(torch.device("cpu")) is None


def test_metrics_tell_the_modalities_apart(llama, vocabulary):
    ids = np.array([vocabulary.bos, 5, 6, vocabulary.bov, vocabulary.text_size, vocabulary.text_size + 1])
    document = Document(ids, np.array([False, True, True, True, True, True]))
    batch = pack([document], 8, vocabulary.pad)
    loss, metrics = LanguageModelLoss(vocabulary)(llama, batch, 0, None)
    losses = F.cross_entropy(
        llama(torch.from_numpy(ids)[None]).logits[0, :-1], torch.from_numpy(ids[1:]), reduction="none"
    )
    assert metrics["text_ce"].item() == pytest.approx(losses[:3].mean().item(), abs=1e-5)
    assert metrics["visual_ce"].item() == pytest.approx(losses[3:].mean().item(), abs=1e-5)
    assert loss.item() == pytest.approx(losses.mean().item(), abs=1e-5)
