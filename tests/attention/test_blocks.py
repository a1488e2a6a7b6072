"""Sorting, choosing and attending by blocks, against masked dense attention and brute force."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.attention import KeySet, WeightedAttention, block_attention
from flowcache_core.attention.block_attention import flex, gathered
from flowcache_core.attention.blocks import block_mass, block_means, choose_blocks
from flowcache_core.attention.codes import CODES, code_order, gray_rank, low_bits
from flowcache_core.backbones.hooks import attend
from tests.reference import PROPERTY, naive_attention, normal


def masked(q, blocks, always, table, query_block, block):
    """Dense attention under the table, written out."""
    whole, group = blocks.joined(always), q.shape[1] // blocks.keys.shape[1]
    visible = table.repeat_interleave(query_block, 2)[:, :, :q.shape[2]].repeat_interleave(block, 3)
    visible = torch.nn.functional.pad(visible, (0, always.keys.shape[2]), value=True)
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            k, v = whole.keys[b, h // group], whole.values[b, h // group]
            logits = q[b, h] @ k.T / q.shape[-1] ** 0.5
            if whole.log_m is not None:
                logits = logits + whole.log_m[b, h // group]
            out[b, h] = logits.masked_fill(~visible[b, h // group], -torch.inf).softmax(-1) @ v
    return out


def example(length, blocks, always, block, query_block, group=1, weights=False, seed=0):
    q = normal(2, 2 * group, length, 16, seed=seed)
    parts = [KeySet(normal(2, 2, n, 16, seed=seed + 1 + n), normal(2, 2, n, 16, seed=seed + 2 + n),
                    torch.rand(2, 2, n, generator=torch.Generator().manual_seed(n)) if weights else None)
             for n in (blocks * block, always)]
    table = torch.rand(2, 2, -(-length // query_block), blocks, generator=torch.Generator().manual_seed(seed)) < 0.4
    table[..., 0] = True
    return q, *parts, table, query_block, block


@PROPERTY
@given(st.integers(1, 23), st.integers(1, 5), st.integers(0, 7), st.sampled_from([1, 4, 16]), st.sampled_from([1, 8]),
       st.sampled_from([1, 3]), st.booleans(), st.sampled_from([1, 2**28]))
def test_gathered_equals_the_mask(length, blocks, always, block, query_block, group, weights, tile_bytes):
    made, block_attention.TILE_BYTES = example(length, blocks, always, block, query_block, group, weights), tile_bytes
    try:
        found = gathered(*made, attend, WeightedAttention())
    finally:
        block_attention.TILE_BYTES = 2**28
    torch.testing.assert_close(found, masked(*made), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("length", "always", "group", "weights"), [(100, 0, 1, False), (33, 21, 3, True),
                                                                    (1, 5, 1, True)])
def test_flex_equals_the_mask(length, always, group, weights):
    """Uncompiled, where only the mask function counts, not the lists of blocks."""
    made = example(length, 3, always, 16, 32, group, weights)
    torch.testing.assert_close(flex(*made, compiled=False), masked(*made), atol=1e-5, rtol=1e-5)


def test_all_blocks_are_dense_attention():
    q, blocks, always, table, *sizes = example(20, 3, 5, 8, 8)
    whole = blocks.joined(always)
    found = gathered(q, blocks, always, torch.ones_like(table), *sizes, attend, WeightedAttention())
    torch.testing.assert_close(found, naive_attention(q, whole.keys, whole.values), atol=1e-5, rtol=1e-5)


@PROPERTY
@given(st.integers(1, 40), st.sampled_from([1, 3, 8]))
def test_means_of_blocks(n, size):
    x = normal(1, 2, n, 4)
    expected = torch.stack([part.mean(2) for part in x.split(size, dim=2)], dim=2)
    torch.testing.assert_close(block_means(x, size), expected)


def naive_mass(q, k, log_m, query_block, block):
    """Mean attention of each query block to each key block, over the query heads that share keys."""
    group = q.shape[1] // k.shape[1]
    logits = q @ k.repeat_interleave(group, 1).transpose(-1, -2) / q.shape[-1] ** 0.5
    rows = (logits + log_m.repeat_interleave(group, 1).unsqueeze(2)).softmax(-1).unflatten(1, (-1, group)).mean(2)
    return torch.stack([torch.stack([columns.sum(-1).mean(-1) for columns in part.split(block, dim=3)], dim=-1)
                        for part in rows.split(query_block, dim=2)], dim=2)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("length", [8, 9, 3])
def test_mass_of_single_tokens_is_exact(group, length):
    q, k, log_m = normal(2, 2 * group, length, 4), normal(2, 2, 12, 4, seed=1), torch.rand(2, 2, 12)
    found = block_mass(q, k, 4, 3, 1, log_m)
    torch.testing.assert_close(found, naive_mass(q, k, log_m, 4, 3))
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))


def test_mass_of_means_is_exact_where_the_tokens_of_a_mean_are_equal():
    q, k = (x.repeat_interleave(4, dim=2) for x in (normal(1, 2, 4, 8), normal(1, 2, 6, 8, seed=1)))
    found = block_mass(q, k, 8, 8, 4)
    torch.testing.assert_close(found, naive_mass(q, k, torch.zeros(1, 2, 24), 8, 8))


@PROPERTY
@given(st.integers(1, 12), st.floats(0, 1), st.integers(1, 5), st.integers(0, 5))
def test_the_fewest_blocks_that_hold_the_share(n, keep, least, seed):
    mass = (3 * normal(1, 1, 4, n, seed=seed)).softmax(-1)
    table = choose_blocks(mass, keep, least)
    for row, chosen in zip(mass[0, 0], table[0, 0], strict=True):
        count, total, wanted = int(chosen.sum()), 0.0, 0
        for value in row.sort(descending=True).values.tolist():
            if wanted and total >= keep - 1e-6:
                break
            total, wanted = total + value, wanted + 1
        expected = n if keep >= 1 else max(min(n, least), wanted)
        assert abs(count - expected) <= (abs(total - keep) < 1e-4)   # sums round
        assert row[chosen].min() >= (row[~chosen].max() if count < n else 0)
    larger = choose_blocks(mass, min(1, keep + 0.1), least + 1)
    assert (larger | ~table).all()


def test_no_blocks_are_an_error():
    with pytest.raises(ValueError, match="no key blocks"):
        choose_blocks(torch.zeros(1, 1, 1, 0), 0.5, 1)


def test_neighbours_in_gray_order_differ_in_one_bit():
    codes = torch.tensor([[(n >> shift) & 1 for shift in range(7, -1, -1)] for n in range(256)]).bool()
    order = gray_rank(codes).argsort()
    assert sorted(gray_rank(codes).tolist()) == list(range(256))
    assert all((codes[a] != codes[b]).sum() == 1 for a, b in zip(order[:-1].tolist(), order[1:].tolist(), strict=True))


@pytest.mark.parametrize("name", list(CODES))
def test_codes_are_the_same_in_every_run_and_differ_by_layer(name):
    keys = normal(1, 2, 40, 16)
    first, again, other = (CODES[name](keys, 8, layer)(keys) for layer in (3, 3, 4))
    assert torch.equal(first, again) and first.shape == (1, 2, 40, 8)
    assert name == "quant" or not torch.equal(first, other)
    group = CODES[name](keys, 8, 3)(keys.repeat_interleave(3, dim=1))
    assert torch.equal(group, first.repeat_interleave(3, dim=1))


def test_equal_codes_lie_in_the_order_of_their_places():
    bits = torch.tensor([[[[1, 0], [0, 0], [1, 0], [0, 0]]]]).bool()
    assert code_order(bits).tolist() == [[[1, 3, 0, 2]]]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_low_precision_has_its_number_of_steps(bits):
    x = normal(1, 2, 500, 16)
    found = low_bits(x, bits)
    assert found[0, 0].unique().numel() <= 2**bits
    assert (found - x).abs().max() <= x.abs().max() / (2 ** (bits - 1) - 0.5) / 2 + 1e-6


@pytest.mark.parametrize("name", list(CODES))
def test_planted_clusters_are_found(name):
    """Queries and keys of 8 far directions, shuffled: blocks in code order hold nearly all attention at low density."""
    generator = torch.Generator().manual_seed(1)
    centres = 12 * torch.nn.functional.normalize(normal(8, 32, seed=2), dim=-1)
    labels = [torch.randint(8, (n,), generator=generator) for n in (256, 1024)]
    q, k = (centres[x][None, None] + 0.3 * normal(1, 1, len(x), 32, seed=3) for x in labels)
    mass = (q @ k.transpose(-1, -2) / 32**0.5).softmax(-1)

    def recall(order_q, order_k, sub=1):
        sorted_q, sorted_k = q[:, :, order_q], k[:, :, order_k]
        table = choose_blocks(block_mass(sorted_q, sorted_k, 16, 16, sub), 0.95, 1)
        seen = table.repeat_interleave(16, 2).repeat_interleave(16, 3)
        return (mass[:, :, order_q][..., order_k] * seen).sum(-1).mean().item(), table.float().mean().item()

    bits = CODES[name](k, 8, 0)
    order = code_order(bits(q))[0, 0], code_order(bits(k))[0, 0]
    found, density = recall(*order)
    assert found > 0.95 and density < 0.3
    _, blind = recall(torch.arange(256), torch.arange(1024))
    assert blind > 0.9   # unsorted, every block holds something of every direction
    assert recall(*order, 4)[0] > 0.9 > recall(*order, 16)[0]   # means of more tokens hide directions
