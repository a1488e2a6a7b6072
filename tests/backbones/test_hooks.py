"""The hook contract, as the reference network keeps it."""

import pytest
import torch

from flowcache_core.backbones.hooks import BlockInput, NoHooks, attend
from flowcache_core.backbones.wan import rope_table
from tests.reference import SIDE, TINY, TOKENS, block_causal, naive_attention, normal, tiny_wan

FRAMES, ROWS = 3, 2
EVERYTHING = torch.arange(FRAMES * TOKENS)


@pytest.fixture(scope="module")
def model():
    return tiny_wan()


@pytest.fixture(scope="module")
def inputs():
    return (normal(ROWS, 4, FRAMES, SIDE, SIDE), torch.tensor([[900.0, 500.0, 100.0], [50.0, 60.0, 70.0]]),
            normal(ROWS, 5, TINY.dim, seed=1))


class Recorder(NoHooks):
    def __init__(self):
        self.calls = []

    def begin(self, call):
        self.calls.append(("begin", tuple(call.latent.shape), call.frame_index, call.tokens_per_frame))

    def block(self, index, x, run):
        self.calls.append(("block", index))
        return run(x)

    def attention(self, index, kind, q, k, v, attend):
        self.calls.append((kind, index, tuple(q.shape), tuple(k.shape)))
        return attend(q, k, v)

    def output(self, velocity):
        self.calls.append(("output", tuple(velocity.shape)))
        return velocity


def test_hooks_are_called_in_the_order_of_the_contract(model, inputs):
    hooks = Recorder()
    model(*inputs, frame_index=(4, 5, 6), hooks=hooks)
    latent, tokens = (ROWS, 4, FRAMES, SIDE, SIDE), (ROWS, 2, FRAMES * TOKENS, 12)
    block = [("self", tokens, tokens), ("cross", tokens, (ROWS, 2, 5, 12))]
    assert hooks.calls == [("begin", latent, (4, 5, 6), TOKENS),
                           *[call for i in range(2) for call in [("block", i), *[(k, i, q, kv) for k, q, kv in block]]],
                           ("output", latent)]


def test_no_hooks_equals_hooks_that_do_nothing_bit_for_bit(model, inputs):
    assert torch.equal(model(*inputs), model(*inputs, hooks=NoHooks()))
    assert torch.equal(model(*inputs), model(*inputs, hooks=Recorder()))


def test_an_answer_of_begin_skips_everything_but_the_output_hook(model, inputs):
    answer = normal(*inputs[0].shape, seed=9)

    class Answers(Recorder):
        def begin(self, call):
            return answer

    hooks = Answers()
    assert model(*inputs, hooks=hooks) is answer
    assert [call[0] for call in hooks.calls] == ["output"]


def test_what_output_returns_is_the_velocity(model, inputs):
    class Doubles(NoHooks):
        def output(self, velocity):
            return 2 * velocity

    assert torch.equal(model(*inputs, hooks=Doubles()), 2 * model(*inputs))


class Takes(NoHooks):
    def __init__(self, rows=None, tokens=None):
        self.chosen = (rows, tokens)

    def block(self, index, x, run):
        return run(x.take(*self.chosen))


@pytest.mark.parametrize("rows", [None, torch.arange(ROWS)])
@pytest.mark.parametrize("tokens", [None, EVERYTHING])
def test_taking_everything_changes_nothing_bit_for_bit(model, inputs, rows, tokens):
    assert torch.equal(model(*inputs, hooks=Takes(rows, tokens)), model(*inputs))


@pytest.mark.parametrize("row", range(ROWS))
def test_taking_a_row_computes_that_row_alone(model, inputs, row):
    class Splices(NoHooks):
        def block(self, index, x, run):
            chosen = torch.tensor([row])
            return x.hidden.index_copy(0, chosen, run(x.take(chosen)))

    alone = model(*(value[row:row + 1] for value in inputs))
    torch.testing.assert_close(model(*inputs, hooks=Splices())[row:row + 1], alone, atol=1e-6, rtol=1e-6)


SUBSET = torch.tensor([0, 3, 4, 9, 11])   # of all three frames, not in whole frames


def test_chosen_tokens_get_what_all_tokens_get_in_the_parts_without_attention(model, inputs):
    class NoAttention(Takes):
        def attention(self, index, kind, q, k, v, attend):
            return torch.zeros_like(q)

        def block(self, index, x, run):
            everything = run(x)
            part = run(x.take(*self.chosen))
            torch.testing.assert_close(part, everything[:, SUBSET], atol=1e-6, rtol=1e-6)
            return everything

    model(*inputs, hooks=NoAttention(tokens=SUBSET))


def test_chosen_tokens_with_the_keys_of_all_equal_the_whole_block(model, inputs):
    """What PARTIAL does: queries of some tokens, keys and values of every token."""
    class Partial(NoHooks):
        def __init__(self):
            self.kept = {}

        def attention(self, index, kind, q, k, v, attend):
            if kind == "cross":
                return attend(q, k, v)
            whole = k.shape[2] == FRAMES * TOKENS
            keys, values = self.kept.setdefault(index, (k, v)) if whole else self.kept[index]
            return attend(q, keys, values)

        def block(self, index, x, run):
            everything = run(x)
            torch.testing.assert_close(run(x.take(tokens=SUBSET)), everything[:, SUBSET], atol=1e-6, rtol=1e-6)
            return everything

    model(*inputs, hooks=Partial())


def block_input():
    return BlockInput(normal(2, 8, 6), normal(2, 2, 6, 6, seed=1), rope_table((0, 1), 2, 2, 12, torch.device("cpu")),
                      normal(2, 3, 6, seed=2), 4)


def test_taking_twice_is_taking_the_chosen_of_the_chosen():
    x = block_input()
    twice = x.take(torch.tensor([1]), torch.tensor([1, 4, 7])).take(tokens=torch.tensor([0, 2]))
    once = x.take(torch.tensor([1]), torch.tensor([1, 7]))
    for name in ("hidden", "modulation", "rope", "text", "token_index"):
        assert torch.equal(getattr(twice, name), getattr(once, name)), name
    assert torch.equal(twice.spread(x.modulation[1:, :, 0]), x.modulation[1:, [0, 1], 0])


def test_taking_leaves_the_original_alone():
    x = block_input()
    taken = x.take(torch.tensor([0]), torch.tensor([2]))
    taken.hidden.zero_()
    assert x.hidden.abs().min() > 0 and x.token_index is None


@pytest.mark.parametrize("bias", [None, "causal"])
def test_attend_is_softmax_attention(bias):
    q, k, v = (normal(2, 4, 12, 8, seed=s) for s in (1, 2, 3))
    visible = block_causal([4, 4, 4]) if bias else None
    added = torch.zeros(12, 12).masked_fill(~visible, -torch.inf) if bias else None
    torch.testing.assert_close(attend(q, k, v, added), naive_attention(q, k, v, visible), atol=1e-6, rtol=1e-5)


def test_attend_shares_key_heads_in_groups():
    q, k, v = normal(1, 4, 5, 8), normal(1, 2, 7, 8, seed=1), normal(1, 2, 7, 8, seed=2)
    expected = naive_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
    torch.testing.assert_close(attend(q, k, v), expected, atol=1e-6, rtol=1e-5)


def test_attention_over_nothing_says_so():
    q, empty = normal(1, 2, 5, 8), normal(1, 2, 0, 8)
    with pytest.raises(ValueError, match="no keys"):
        attend(q, empty, empty)
