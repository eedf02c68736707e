"""The quantizer against hand computation, vector-quantize-pytorch and one process (gloo, 2 and 4 ranks)."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from ddt.tokenizer import lookup
from ddt.tokenizer.codebook_metrics import codebook_metrics, position_perplexity
from ddt.tokenizer.kmeans import count, spherical_kmeans
from ddt.tokenizer.lookup import unit
from ddt.tokenizer.position_norm import PositionNorm
from ddt.tokenizer.quantizer import Quantizer
from tests.float64 import float64


def make(codebook_size=16, code_dim=4, decay=0.9, dead=0.0, unquantized=0, **kwargs):
    torch.manual_seed(0)
    return Quantizer(
        codebook_size,
        code_dim,
        ema_decay=decay,
        dead_threshold=dead,
        unquantized_steps=unquantized,
        **kwargs,
    )


def placed(**kwargs):
    quantizer = make(**kwargs)
    quantizer.ready.fill_(True)
    return quantizer


def vectors(batch=8, num_tokens=6, code_dim=4, seed=1):
    return torch.randn(batch, num_tokens, code_dim, generator=torch.Generator().manual_seed(seed))


def learn(quantizer, z, step):
    """One training step of a codebook: what it gave for the vectors before it moved."""
    out = quantizer(z, step)
    quantizer.finish_step(step)
    return out


def test_lookup_is_the_largest_cosine_in_any_chunking(monkeypatch):
    quantizer, z = make(), vectors()
    whole = quantizer.lookup(z)
    cosine = torch.nn.functional.cosine_similarity(z[:, :, None], quantizer.codebook_Kd, dim=-1)
    assert torch.equal(whole, cosine.argmax(-1))
    monkeypatch.setattr(lookup, "LOOKUP_ELEMENTS", 16 * 5)
    assert torch.equal(quantizer.lookup(z), whole)


def test_lookup_stays_float32_under_autocast():
    quantizer, z = make(codebook_size=512, code_dim=8), vectors(64, 16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = quantizer.lookup(z)
        rounded = (unit(z) @ quantizer.codebook_Kd.T).argmax(-1)
    assert torch.equal(inside, quantizer.lookup(z)) and not torch.equal(inside, rounded)


def test_matches_vector_quantize_pytorch():
    reference_module = pytest.importorskip("vector_quantize_pytorch")
    quantizer, z = placed(decay=0.9), vectors()
    reference = reference_module.VectorQuantize(
        dim=4,
        codebook_size=16,
        use_cosine_sim=True,
        decay=0.9,
        threshold_ema_dead_code=0,
        commitment_weight=1.0,
    )
    reference._codebook.embed.data.copy_(quantizer.codebook_Kd[None])
    reference.eval()
    expected_vectors, expected_codes, _ = reference(z)
    ours = quantizer.eval()(z, step=0)
    assert torch.equal(ours.codes_BT, expected_codes)
    torch.testing.assert_close(ours.vectors_BTd, expected_vectors)
    expected_commitment = (unit(z) - expected_vectors).square().mean()
    torch.testing.assert_close(ours.commitment_BT.mean(), expected_commitment)


def test_gradients_pass_straight_through_to_the_unit_vector():
    quantizer, z = placed(), vectors().requires_grad_()
    out = quantizer(z, step=0)
    weight = vectors(seed=2)
    (got,) = torch.autograd.grad((out.vectors_BTd * weight).sum(), z)
    (expected,) = torch.autograd.grad((unit(z) * weight).sum(), z)
    torch.testing.assert_close(got, expected)


def test_noise_moves_unit_vectors_by_its_length_in_training_only():
    quantizer, z = make(code_dim=64, noise=0.3, unquantized=1), vectors(batch=200, code_dim=64)

    def run(step=0, seed=11):
        return quantizer(z, step, generator=torch.Generator().manual_seed(seed))

    moved = run().vectors_BTd
    torch.testing.assert_close(moved.norm(dim=-1), torch.ones(200, 6))
    # tan of the angle is the length of the noise across z
    cosine = (moved * unit(z)).sum(-1)
    assert (1 / cosine**2 - 1).mean().sqrt().item() == pytest.approx(0.3, rel=0.05)
    assert torch.equal(run().vectors_BTd, moved) and not torch.equal(run(seed=12).vectors_BTd, moved)
    quantizer.ready.fill_(True)
    expected = quantizer.lookup(moved)
    assert torch.equal(run(step=1).codes_BT, expected)  # codes of what was moved
    quantizer.eval()
    torch.testing.assert_close(run().vectors_BTd, unit(z))
    assert torch.equal(run(step=1).codes_BT, quantizer.lookup(z)) and not torch.equal(
        expected, quantizer.lookup(z)
    )


def test_ema_equals_hand_computation():
    quantizer, z = placed(codebook_size=2, code_dim=2, decay=0.75), torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    quantizer.codebook_Kd.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    quantizer.sums_Kd.copy_(torch.tensor([[4.0, 0.0], [-4.0, 0.0]]))
    quantizer.hits_K.copy_(torch.tensor([4.0, 4.0]))
    out = learn(quantizer, z, step=0)
    assert out.codes_BT.tolist() == [[0, 0]]  # (0, 1) is equally far from both: the lowest index
    # hits = 0.75*4 + 0.25*(2, 0); sums = 0.75*old + 0.25*((1, 0) + (0, 1), nothing)
    assert quantizer.hits_K.tolist() == [3.5, 3.0]
    assert quantizer.sums_Kd.tolist() == [[3.25, 0.25], [-3.0, 0.0]]
    torch.testing.assert_close(quantizer.codebook_Kd, unit(torch.tensor([[3.25, 0.25], [-1.0, 0.0]])))


@pytest.mark.parametrize("quantizer", [make(), placed(), make(normalise_positions=6)])
def test_evaluation_leaves_the_codebook_alone(quantizer):
    before = {name: value.clone() for name, value in quantizer.eval().state_dict().items()}
    assert (quantizer(vectors(), step=5).codes_BT is None) == (not quantizer.ready)
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())


def test_dead_codes_restart_at_outputs_of_the_batch():
    quantizer, z = placed(codebook_size=64, decay=0.5, dead=0.2), vectors()
    quantizer.hits_K.zero_()
    out = learn(quantizer, z, step=3)
    matched = out.codes_BT.flatten().bincount(minlength=64)
    limit = 0.2 * 48 / 64
    dead = 0.5 * matched < limit
    assert 0 < dead.sum() <= 48
    restarted = quantizer.codebook_Kd[dead]
    nearest_output = (restarted @ unit(z).flatten(0, 1).T).max(-1).values
    torch.testing.assert_close(nearest_output, torch.ones_like(nearest_output))
    assert len(restarted.unique(dim=0)) == len(restarted)  # drawn without replacement
    assert quantizer.hits_K[dead].tolist() == pytest.approx([limit] * int(dead.sum()))
    torch.testing.assert_close(quantizer.sums_Kd[dead], restarted * limit)


def test_where_dead_codes_are_more_than_the_outputs_the_first_restart():
    quantizer, z = placed(codebook_size=64, decay=0.5, dead=1.0), vectors(batch=2)
    quantizer.hits_K.zero_()
    dead = learn(quantizer, z, step=3).codes_BT.flatten().bincount(minlength=64) == 0
    restarted = quantizer.hits_K == 12 / 64  # one vector counts 1/2 after its step
    assert restarted.nonzero().flatten().tolist() == dead.nonzero().flatten()[:12].tolist()
    chosen = quantizer.codebook_Kd[restarted]
    torch.testing.assert_close(chosen.sort(0)[0], unit(z).flatten(0, 1).sort(0)[0])  # each output once


def test_a_checkpoint_from_before_k_means_is_noticed():
    quantizer, z = make(), vectors()
    fresh = {name: value.clone() for name, value in quantizer.state_dict().items()}
    first = learn(quantizer, z, step=0).codes_BT
    assert quantizer.ready
    for name, buffer in quantizer.state_dict().items():
        buffer.copy_(fresh[name])  # as the training loop does
    assert torch.equal(quantizer(z, step=0).codes_BT, first) and quantizer.ready


def test_unquantized_until_its_step_then_kmeans():
    quantizer, z = make(unquantized=2), vectors()
    before = quantizer(z, step=1)
    assert before.codes_BT is None and not quantizer.ready
    torch.testing.assert_close(before.vectors_BTd, unit(z))
    after = quantizer(z, step=2)
    assert after.codes_BT is not None and quantizer.ready


def test_kmeans_finds_separate_clusters_without_replacement():
    torch.manual_seed(0)
    centres = torch.eye(8)
    z = unit(centres.repeat(20, 1) + 0.05 * torch.randn(160, 8))
    codes, hits, sums = spherical_kmeans(z, 8, seed=0)
    assert len(codes.unique(dim=0)) == 8
    assert hits.sum() == 160
    torch.testing.assert_close(sums.sum(0), z.sum(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(spherical_kmeans(z, 160, seed=0)[0].sort(0)[0], z.sort(0)[0])


def test_kmeans_refuses_a_batch_smaller_than_the_codebook():
    quantizer = make(codebook_size=64)
    assert quantizer(vectors(), step=0).codes_BT is None
    with pytest.raises(ValueError, match="codebook_size = 64.*gives 48"):
        quantizer.finish_step(step=0)


def test_kmeans_waits_for_as_many_micro_batches_as_it_needs():
    quantizer, z = make(codebook_size=40), vectors()
    first, second, third = (quantizer(part, step=0) for part in z.split((3, 4, 1)))
    assert first.codes_BT is None and second.codes_BT is not None and third.codes_BT is not None
    expected, _, _ = spherical_kmeans(unit(z[:7]).flatten(0, 1), 40, seed=0)
    torch.testing.assert_close(quantizer.codebook_Kd, expected)
    quantizer.finish_step(step=0)
    assert quantizer.hits_K.sum() == pytest.approx(0.9 * 42 + 0.1 * 30)


def test_micro_batches_move_the_codebook_as_the_whole_batch_does():
    whole, split = (placed(codebook_size=24, dead=0.3) for _ in range(2))
    for step in range(20):
        z = vectors(seed=step)
        for part in z.split(3):
            split(part, step)
        whole(z, step)
        metrics, expected = split.finish_step(step), whole.finish_step(step)
        assert metrics == expected
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], tensor, atol=1e-5, rtol=1e-5)


def test_what_an_interrupted_step_left_does_not_count():
    quantizer, untouched = placed(), placed()
    quantizer(vectors(seed=5), step=3)  # its training stopped here
    quantizer.train()
    for each in (quantizer, untouched):
        learn(each, vectors(), step=3)
    quantizer(vectors(seed=5), step=4)  # and here, and goes on elsewhere
    for each in (quantizer, untouched):
        learn(each, vectors(), step=9)
    assert torch.equal(quantizer.codebook_Kd, untouched.codebook_Kd)


@float64()  # around 5 to 10 float32 knows a hundredth to three digits
def test_position_norm_centres_each_position_and_evaluates_with_its_averages():
    norm = PositionNorm(6, 4, decay=0.9)
    z = 5 + 0.01 * vectors(batch=64) + torch.arange(6.0)[:, None]
    out = norm(z, use_batch=True)
    torch.testing.assert_close(out.mean(0), torch.ones(6, 4), atol=1e-3, rtol=0)
    torch.testing.assert_close(out.var(0, correction=0), torch.full((6, 4), 0.9), atol=0.2, rtol=0)
    # After one update the averages are those of that batch.
    torch.testing.assert_close(norm(z, use_batch=False), out)
    assert norm(z[:1], use_batch=False).shape == (1, 6, 4)


def test_metrics_closed_forms():
    codes = torch.tensor([[0, 1], [0, 2], [0, 3], [0, 1]])
    metrics = codebook_metrics(codes, count(codes.flatten(), 8))
    assert metrics["codes/usage"] == 0.5
    assert metrics["codes/largest_share"] == 0.5
    assert metrics["codes/min_position_perplexity"] == pytest.approx(1.0)
    expected = torch.tensor([1.0, 2**0.5 * 4**0.5])  # entropy of (1/2, 1/4, 1/4) is 1.5 bits
    torch.testing.assert_close(position_perplexity(codes), expected)
    each = torch.stack([metrics["position_perplexity/0001"], metrics["position_perplexity/0002"]])
    torch.testing.assert_close(each, expected)


def test_entropy_term_acts_below_its_floor_and_spreads_the_codes():
    z = torch.ones(8, 6, 4, requires_grad=True) + 0.01 * vectors()
    low = placed(entropy_floor=1.0)
    low.hits_K.copy_(torch.tensor([1.0] + [0.01] * 15))
    loss = low(z, step=0, entropy=True).entropy_loss
    assert loss > 0 and torch.autograd.grad(loss, z)[0].abs().sum() > 0
    even = placed(entropy_floor=0.5)
    assert even(z, step=0, entropy=True).entropy_loss == 0


def _train_rank(rank, world, meeting, z, result):
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    torch.set_num_threads(1)
    quantizer = make(codebook_size=24, dead=0.3, unquantized=1, normalise_positions=6)
    for step in range(20):
        quantizer(z[step].chunk(world)[rank], step)
        metrics = quantizer.finish_step(step)
    if rank == world - 1:
        save_file(quantizer.state_dict() | metrics, result)
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_hold_the_codebook_of_a_single_process(world, tmp_path):
    z = torch.stack([vectors(seed=s) for s in range(20)])
    _train_rank(0, 1, None, z, tmp_path / "single")
    arguments = (world, tmp_path / "meeting", z, tmp_path / "many")
    # The server imports torch once for all ranks, and they start from a process that has used no threads.
    multiprocessing.set_forkserver_preload([__name__])
    mp.start_processes(_train_rank, arguments, nprocs=world, start_method="forkserver")
    single, many = (load_file(tmp_path / name) for name in ("single", "many"))
    for name in single:
        torch.testing.assert_close(many[name], single[name], atol=1e-5, rtol=1e-5)
