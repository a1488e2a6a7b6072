"""The network by itself: names and shapes of real checkpoints, token order, time per frame, rotary places."""

import pytest
import torch

from flowcache_core.backbones.hooks import rotate
from flowcache_core.backbones.wan import WanConfig, WanTransformer, _sinusoid, rope_table
from tests.reference import SIDE, TINY, TOKENS, Masked, block_causal, normal, tiny_wan


def expected_keys(c: WanConfig) -> dict[str, tuple[int, ...]]:
    """Section 2 of the page on Wan-shaped checkpoints, written out."""
    def linear(name, out, into):
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    d = c.dim
    keys = {"patch_embedding.weight": (d, c.channels, 1, 2, 2), "patch_embedding.bias": (d,),
            **linear("text_embedding.0", d, c.text_dim), **linear("text_embedding.2", d, d),
            **linear("time_embedding.0", d, c.freq_dim), **linear("time_embedding.2", d, d),
            **linear("time_projection.1", 6 * d, d), **linear("head.head", 4 * c.channels, d),
            "head.modulation": (1, 2, d)}
    for i in range(c.layers):
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                keys |= linear(f"blocks.{i}.{attention}.{part}", d, d)
            keys |= {f"blocks.{i}.{attention}.norm_{part}.weight": (d,) for part in "qk"}
        keys |= {f"blocks.{i}.norm3.weight": (d,), f"blocks.{i}.norm3.bias": (d,), f"blocks.{i}.modulation": (1, 6, d),
                 **linear(f"blocks.{i}.ffn.0", c.ffn, d), **linear(f"blocks.{i}.ffn.2", d, c.ffn)}
    if c.fps:
        keys |= {"fps_embedding.weight": (2, d), **linear("fps_projection.0", d, d),
                 **linear("fps_projection.2", 6 * d, d)}
    return keys


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("fps", [False, True])
def test_keys_and_shapes_are_those_of_the_checkpoints(layers, fps):
    config = WanConfig(dim=48, layers=layers, ffn=80, heads=4, freq_dim=16, text_dim=10, channels=16, fps=fps)
    state = {key: tuple(value.shape) for key, value in WanTransformer(config).state_dict().items()}
    assert state == expected_keys(config)
    assert len(state) == 15 + 27 * layers + 5 * fps


@pytest.mark.parametrize(("dim", "ffn", "heads", "layers", "fps", "keys", "parameters"), [
    (1536, 8960, 12, 30, False, 825, 1_418_996_800), (1536, 8960, 12, 30, True, 830, 1_435_525_696),
    (5120, 13824, 40, 40, False, 1095, 14_288_491_584)])
def test_released_sizes(dim, ffn, heads, layers, fps, keys, parameters):
    with torch.device("meta"):
        model = WanTransformer(WanConfig(dim, layers, ffn, heads, fps=fps))
    state = model.state_dict()
    assert (len(state), sum(value.numel() for value in state.values())) == (keys, parameters)
    assert model.sizes.head_dim == 128 and model.sizes.tokens_per_frame(68, 120) == 2040


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 2, 2), (3, 4, 6), (2, 6, 4)])
def test_tokens_come_in_frame_row_column_order(frames, height, width):
    """Every token must depend on its own patch alone."""
    model, latent = tiny_wan(), normal(1, 4, frames, height, width)
    tokens = model.patch_tokens(latent)
    place = 0
    for f in range(frames):
        for row in range(0, height, 2):
            for column in range(0, width, 2):
                patch = latent[:, :, f:f + 1, row:row + 2, column:column + 2]
                torch.testing.assert_close(tokens[:, place], model.patch_tokens(patch)[:, 0])
                place += 1
    assert place == tokens.shape[1]


def test_unpatchify_puts_every_value_back_where_its_patch_was():
    """Tokens that hold their own pixels, ordered (patch row, patch column, channel), give the latent back."""
    latent = normal(2, 4, 3, 4, 6)
    b, c, f, h, w = latent.shape
    tokens = torch.stack([latent[:, :, t, y:y + 2, x:x + 2].permute(0, 2, 3, 1).flatten(1)
                          for t in range(f) for y in range(0, h, 2) for x in range(0, w, 2)], dim=1)
    assert torch.equal(tiny_wan()._unpatchify(tokens, f, h, w), latent)


def test_a_timestep_per_frame_equals_calls_of_one_frame_each():
    model, latent, text = tiny_wan(), normal(2, 4, 3, SIDE, SIDE), normal(2, 5, TINY.dim, seed=1)
    times = torch.tensor([[900.0, 500.0, 0.0], [10.0, 999.0, 321.5]])
    own_frame = torch.block_diag(*[torch.ones(TOKENS, TOKENS)] * 3).bool()
    together = model(latent, times, text, hooks=Masked(own_frame))
    for f in range(3):
        alone = model(latent[:, :, f:f + 1], times[:, f:f + 1], text, frame_index=(f,))
        torch.testing.assert_close(together[:, :, f:f + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_time_of_one_frame_reaches_no_other_under_the_causal_mask():
    model, latent, text = tiny_wan(), normal(1, 4, 3, SIDE, SIDE), normal(1, 5, TINY.dim, seed=1)
    causal = Masked(block_causal([TOKENS] * 3))
    first = model(latent, torch.tensor([[900.0, 500.0, 0.0]]), text, hooks=causal)
    second = model(latent, torch.tensor([[900.0, 500.0, 700.0]]), text, hooks=causal)
    assert torch.equal(first[:, :, :2], second[:, :, :2])
    assert not torch.allclose(first[:, :, 2], second[:, :, 2], atol=1e-3)


def test_times_are_embedded_cosines_first_with_a_period_of_10000():
    frequencies = 10000.0 ** (-torch.arange(4) / 4)
    at_0, at_250 = _sinusoid(torch.tensor([[0.0, 250.0]]), 8)[0]
    assert at_0.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    angles = 250 * frequencies
    torch.testing.assert_close(at_250, torch.cat([angles.cos(), angles.sin()]), atol=1e-5, rtol=0)


def test_the_fps_row_is_0_for_16_and_1_for_everything_else():
    config = WanConfig(dim=24, layers=1, ffn=16, heads=2, freq_dim=16, text_dim=8, channels=4, fps=True)
    model, at = tiny_wan(config), torch.tensor([[500.0]])
    found = {}
    for fps in (16, 24, 30, None):
        model.fps = fps
        found[fps] = model.time_modulation(at)
    assert torch.equal(found[24], found[30]) and torch.equal(found[24], found[None])
    assert not torch.allclose(found[16], found[24])


def test_the_fps_embedding_is_a_constant_added_to_the_bias_of_the_time_projection():
    config = WanConfig(dim=24, layers=1, ffn=16, heads=2, freq_dim=16, text_dim=8, channels=4, fps=True)
    with_fps, plain = tiny_wan(config), tiny_wan(WanConfig(**{**config.__dict__, "fps": False}))
    plain.load_state_dict(with_fps.state_dict(), strict=False)
    plain.time_projection[1].bias += with_fps.fps_projection(with_fps.fps_embedding.weight[1])
    inputs = (normal(1, 4, 2, SIDE, SIDE), torch.tensor([[700.0, 20.0]]), normal(1, 3, 24, seed=1))
    torch.testing.assert_close(with_fps(*inputs), plain(*inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("offset", [0, 1, 300, 1023, 5000])
def test_rotary_logits_depend_on_differences_of_place_only(offset):
    q, k = normal(1, 2, 12, 128, seed=1), normal(1, 2, 12, 128, seed=2)
    at_0, shifted = (rope_table(range(start, start + 3), 2, 2, 128, torch.device("cpu")) for start in (0, offset))
    logits = [rotate(q, table) @ rotate(k, table).transpose(-1, -2) for table in (at_0, shifted)]
    torch.testing.assert_close(logits[1], logits[0], atol=1e-4, rtol=0)


def test_rotary_pairs_turn_as_complex_numbers_by_time_row_and_column():
    """128 numbers: 44 of time, 42 of row, 42 of column; pair i of an axis of width D turns by place * 10000^(-2i/D)."""
    table = rope_table((7, 1030), 2, 3, 128, torch.device("cpu"))
    x = normal(1, 1, 12, 128).double()
    turned = torch.view_as_complex(rotate(x.float(), table).double().unflatten(-1, (-1, 2)).contiguous())
    places = [(t, row, column) for t in (7, 1030) for row in range(2) for column in range(3)]
    for token, place in enumerate(places):
        angles = [p * 10000 ** (-2 * i / width) for p, width in zip(place, (44, 42, 42), strict=True)
                  for i in range(width // 2)]
        turn = torch.polar(torch.ones(64).double(), torch.tensor(angles, dtype=torch.float64))
        expected = torch.view_as_complex(x[0, 0, token].unflatten(-1, (-1, 2)).contiguous()) * turn
        torch.testing.assert_close(turned[0, 0, token], expected, atol=1e-6, rtol=0)


def test_the_network_sees_differences_of_place_only():
    model, latent, text = tiny_wan(), normal(1, 4, 3, SIDE, SIDE), normal(1, 5, TINY.dim, seed=1)
    times = torch.full((1, 3), 400.0)
    torch.testing.assert_close(model(latent, times, text, frame_index=(500, 501, 502)), model(latent, times, text),
                               atol=1e-5, rtol=0)


def test_rotation_is_done_in_fp32_for_a_bf16_model():
    x = normal(1, 2, 3, 12).bfloat16()
    table = rope_table((300, 301, 302), 1, 1, 12, torch.device("cpu"))
    assert torch.equal(rotate(x, table), rotate(x.float(), table).bfloat16())
    assert len({tuple(row.flatten().tolist()) for row in table}) == 3


def test_a_bf16_model_answers_in_the_dtype_of_the_latent():
    model = tiny_wan().bfloat16()
    latent, times = normal(1, 4, 2, SIDE, SIDE), torch.full((1, 2), 300.0)
    velocity = model(latent, times, model.embed_text(normal(1, 3, TINY.text_dim)))
    assert velocity.dtype == torch.float32 and velocity.shape == latent.shape and velocity.isfinite().all()


@pytest.mark.parametrize(("settings", "value"), [({"heads": 5}, "5 heads"), ({"heads": 8}, "8 heads"),
                                                 ({"freq_dim": 15}, "freq_dim 15")])
def test_sizes_that_cannot_be_say_why(settings, value):
    with pytest.raises(ValueError, match=value):
        WanConfig(**{**TINY.__dict__, **settings})


@pytest.mark.parametrize(("shape", "times", "frames", "text", "value"), [
    ((1, 3, 2, 4, 4), (1, 2), 2, (1, 5, 24), r"\(1, 3, 2, 4, 4\)"),
    ((1, 4, 2, 3, 4), (1, 2), 2, (1, 5, 24), "even sides"),
    ((1, 4, 2, 4, 4), (1, 1), 2, (1, 5, 24), r"\(1, 1\)"),
    ((1, 4, 2, 4, 4), (1, 2), 3, (1, 5, 24), "3 frame positions"),
    ((1, 4, 2, 4, 4), (1, 2), 2, (2, 5, 24), r"\(2, 5, 24\)"),
    ((1, 4, 2, 4, 4), (1, 2), 2, (1, 5, 8), "embed_text")])
def test_shapes_that_do_not_fit_say_why(shape, times, frames, text, value):
    with pytest.raises(ValueError, match=value):
        tiny_wan()(normal(*shape), torch.zeros(times), normal(*text), frame_index=range(frames))
