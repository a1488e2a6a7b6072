"""A video that is decoded as its latents finish: the same bits however it is cut, and memory that does not grow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcache_core.backbones.wan_vae import WanVAE, pixel_frames
from tests.reference import PROPERTY, normal

FRAMES = 7


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return WanVAE(8).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def latents():
    return normal(1, 16, FRAMES, 2, 3, seed=1)


@pytest.fixture(scope="module")
def whole(vae, latents):
    return vae.decode(latents)


@settings(PROPERTY, max_examples=12)
@given(cuts=st.sets(st.integers(1, FRAMES - 1)))
def test_any_split_gives_the_same_bits(cuts, vae, latents, whole):
    edges, stream = [0, *sorted(cuts), FRAMES], vae.decode_stream()
    pieces = [stream.push(latents[:, :, a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    assert torch.equal(torch.cat(pieces, dim=2), whole)
    first, *others = zip(pieces, edges[:-1], edges[1:], strict=True)
    assert first[0].shape[2] == pixel_frames(first[2]) and all(p.shape[2] == 4 * (b - a) for p, a, b in others)


def test_it_equals_one_pass_over_everything(vae, latents, whole):
    """The slow truth: no stream at all, every layer sees the whole clip at once."""
    with torch.inference_mode():
        at_once = vae.reconstruct(latents * vae.std + vae.mean)
    assert whole.shape == at_once.shape == (1, 3, pixel_frames(FRAMES), 16, 24)
    torch.testing.assert_close(whole, at_once, atol=1e-5, rtol=1e-5)


def test_what_a_stream_remembers_does_not_grow(vae, latents):
    stream, held = vae.decode_stream(), []
    for n in range(FRAMES):
        stream.push(latents[:, :, n:n + 1])
        held.append(sum(tail.untyped_storage().nbytes() for tail in stream._memory._tails.values()))
    assert held[2:] == [held[2]] * (FRAMES - 2)


def test_two_streams_do_not_meet(vae, latents, whole):
    one, other = vae.decode_stream(), vae.decode_stream()
    pieces = []
    for n in range(FRAMES):
        pieces.append(one.push(latents[:, :, n:n + 1]))
        other.push(-latents[:, :, n:n + 1])
    assert torch.equal(torch.cat(pieces, dim=2), whole)
