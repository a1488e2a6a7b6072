"""A run that goes on from any of its states ends with the same bits, and does not repeat what was done."""

from dataclasses import dataclass, replace
from enum import Enum

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcache_core.generation import UNCOND
from flowcache_core.kv import Compression, KVBudget, KVShape, KVStore
from flowcache_core.kv.scorers.key_norm import KeyNorm
from flowcache_core.plan import History, dense, diffusion_forcing, pipelined, rolling, sequential
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.reuse.predictors import Increment, Residual
from flowcache_core.run_state import read_state, write_state
from flowcache_core.saved import pack, saved, unpack
from flowcache_core.solvers import Renoise
from tests.reference import PROPERTY, decisions, normal, tiny_run, tiny_wan

CONTENT = FlowCache(threshold=0.3, distance_signal="patch_embedding", warmup_steps=1)
TIME = FlowCache(threshold=0.3, warmup_steps=2)
CASES = {
    "pyramid, accumulators": (diffusion_forcing(6, 2, 6, 2), {"policy": CONTENT, "guidance": 3.0}),
    "pyramid with a given chunk": (diffusion_forcing(7, 2, 6, 3, 1, commit=True), {"policy": TIME, "guidance": 3.0}),
    "in step": (diffusion_forcing(6, 2, 6, 0), {"policy": CONTENT}),
    "fresh noise": (sequential(5, 2, 6, first_steps=7), {"solver": Renoise(), "policy": TIME, "items": 2}),
    "short history": (sequential(8, 2, 6, history=History(1, 1)), {"policy": EveryNth(), "predictor": Residual()}),
    "pipelined": (pipelined(8, 2, 6, 2, commit=True), {"policy": CONTENT, "predictor": Increment()}),
    "near-clean": (pipelined(8, 2, 6, 2, near_clean_from=4), {"policy": CONTENT, "guidance": 2.0}),
    "joint": (rolling(6, 2, 6), {"policy": TIME}),
    "dense": (dense(5, 2, 6), {"policy": TIME}),
    "oldest leave": (sequential(12, 2, 4), {"budget": KVBudget(3), "guidance": 2.0}),
    "folded": (sequential(12, 2, 4), {"budget": KVBudget(3), "compression": Compression(), "guidance": 2.0}),
    "folded in flight": (diffusion_forcing(14, 2, 6, 3), {"budget": KVBudget(4), "compression": Compression(KeyNorm()),
                                                          "policy": CONTENT, "guidance": 3.0}),
    "folded when finished": (diffusion_forcing(14, 2, 6, 3), {"compression": Compression(finished_chunks=2),
                                                              "policy": CONTENT, "guidance": 3.0}),
    "with kept queries": (pipelined(14, 2, 6, 2), {"compression": Compression(cached_chunks=4), "policy": TIME}),
    "bf16 keys": (sequential(8, 2, 4), {"kv_dtype": torch.bfloat16, "budget": KVBudget(2.5)}),
}
by_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def model():
    return tiny_wan()


class Counting:
    """A network that counts its calls."""

    def __init__(self, inner):
        self.inner, self.calls = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, *arguments):
        self.calls += 1
        return self.inner(*arguments)


def make(case, model):
    plan, wanted = CASES[case]
    return tiny_run(plan, model, seed=1, **wanted)


def recorded(run, folder, backbone):
    """Latents, finished chunks, and for every state its file and the calls made by then."""
    chunks, states = {}, []

    def keep(state):
        path = folder / f"{len(states)}.safetensors"
        write_state(path, state, {})
        states.append((path, backbone.calls))

    return run.run(None, lambda chunk, latent: chunks.update({chunk: latent.clone()}), keep), chunks, states


@by_case
def test_a_run_goes_on_from_every_state_bit_for_bit(case, model, tmp_path):
    whole_model = Counting(model)
    whole = make(case, whole_model)
    latents, chunks, states = recorded(whole, tmp_path, whole_model)
    assert len(states) == len({state.row for state in (read_state(path)[0] for path, _ in states)})
    for path, calls in states:
        state, _ = read_state(path)
        rest_model = Counting(model)
        rest = make(case, rest_model)
        rest.restore(state, {chunk: chunks[chunk] for chunk in state.finished})
        assert torch.equal(rest.run(), latents)
        assert rest_model.calls == whole_model.calls - calls
        assert decisions(rest) == decisions(whole)
        kept = [(p.kv_tokens, p.kv_bytes, p.keys) for p in rest.trace.passes]
        assert kept == [(p.kv_tokens, p.kv_bytes, p.keys) for p in whole.trace.passes]


def test_the_states_hold_what_the_cases_are_for(model, tmp_path):
    """Else the test above could pass without having tried."""
    found = {}
    for case in CASES:
        backbone = Counting(model)
        _, _, states = recorded(make(case, backbone), tmp_path, backbone)
        found[case] = [read_state(path)[0] for path, _ in states]
    in_flight = [s for s in found["pyramid, accumulators"] if s.video["latents"]]
    assert in_flight and all(state.lanes["states"] and state.lanes["kept"] for state in in_flight)
    assert all(s.order and len(s.clean) == 2 for state in in_flight for s in state.video["solver"].values())
    assert any(state.cache["store"]["layout"]["folded"] for state in found["folded"])
    assert any(state.cache["store"]["positions"] and state.video["latents"] for state in found["folded in flight"])
    assert any(state.cache["store"]["layout"]["folded"] for state in found["folded when finished"])
    assert any(state.cache["queries"] for state in found["with kept queries"])
    assert any(UNCOND in lane for state in in_flight for lane in state.lanes["states"])


def test_an_announced_compression_is_kept():
    shape = KVShape(layers=2, streams=1, items=1, heads=2, head_dim=4, bytes_per_number=4)
    stores = [KVStore(shape, ["cond#0"], 9, torch.float32, "cpu") for _ in range(2)]
    for chunk in range(3):
        stores[0].reserve(chunk, 3, 3 * chunk)
        for layer in range(2):
            stores[0].write(layer, "cond#0", chunk, normal(1, 2, 3, 4, seed=chunk), normal(1, 2, 3, 4, seed=layer))
    stores[0].fold([0, 1], 2)
    stores[0].settle(0, "cond#0", lambda keys, values, positions: torch.tensor([1, 4]).expand(1, 2, 2))
    state = unpack(*packed(stores[0].export_state()))
    stores[1].restore(state)
    for store in stores:
        assert [store.is_pending(layer, "cond#0") for layer in range(2)] == [False, True]
        store.settle(1, "cond#0", lambda keys, values, positions: torch.tensor([0, 5]).expand(1, 2, 2))
    for layer in range(2):
        a, b = (store.read(layer, "cond#0", (0, 1, 2)) for store in stores)
        assert a[0].shape[2] == 5 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert torch.equal(*(store.folded_positions(layer, "cond#0") for store in stores))


def packed(value):
    tensors = []
    tree = pack(value, tensors)
    return tree, [tensor.clone() for tensor in tensors]


def test_the_state_does_not_grow_with_the_video(model, tmp_path):
    plan = sequential(40, 2, 4)
    backbone = Counting(model)
    run = tiny_run(plan, backbone, budget=KVBudget(3), compression=Compression())
    _, _, states = recorded(run, tmp_path, backbone)
    held = [sum(t.nbytes for t in tensors_of(read_state(path)[0])) for path, _ in states]
    assert held[-1] <= max(held[:4])


def tensors_of(state):
    tensors = []
    pack({"video": state.video, "lanes": state.lanes, "cache": state.cache}, tensors)
    return tensors


def test_a_state_without_a_finished_chunk_is_refused(model, tmp_path):
    backbone = Counting(model)
    _, chunks, states = recorded(make("folded", backbone), tmp_path, backbone)
    state, _ = read_state(states[2][0])
    with pytest.raises(ValueError, match="no latent of the finished chunk 1"):
        make("folded", model).restore(state, {0: chunks[0]})
    with pytest.raises(ValueError, match="chunk 1: expected"):
        make("folded", model).restore(state, {**chunks, 1: chunks[1][:, :, :1]})


@pytest.mark.parametrize("damage", ["cut", "header cut", "empty", "text", "bit in a tensor", "bit in the text", "gone"])
def test_a_damaged_file_is_found(damage, model, tmp_path):
    backbone = Counting(model)
    _, _, states = recorded(make("folded", backbone), tmp_path, backbone)
    path = states[-1][0]
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage.startswith("bit"):
        place = len(data) - 5 if damage == "bit in a tensor" else data.index(b"positions")
        data[place] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes({"cut": data[:-9], "header cut": data[:40], "empty": b"", "text": b"not a state " * 9}[damage])
    with pytest.raises(ValueError, match=path.name):
        read_state(path)


@saved
@dataclass(frozen=True)
class Sample:
    count: int
    parts: tuple = ()


@saved
class Shade(Enum):
    DARK = "dark"


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3) | st.just(Shade.DARK),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.tuples(st.integers(), st.text(max_size=2)) | st.integers(), inner, max_size=3)
    | st.frozensets(st.integers(), max_size=3)
    | st.builds(Sample, st.integers(), st.lists(inner, max_size=2).map(tuple)),
    max_leaves=8)


@settings(PROPERTY, max_examples=30)
@given(trees)
def test_what_is_packed_comes_back(value):
    assert unpack(pack(value, []), []) == value


def test_a_tensor_is_stored_once_and_nan_survives():
    tensors, one = [], torch.ones(3)
    back = unpack(pack({"a": one, "b": (one, float("nan"), float("inf"))}, tensors), tensors)
    assert len(tensors) == 1 and back["a"] is back["b"][0] is one
    assert back["b"][1] != back["b"][1] and back["b"][2] == float("inf")


def test_only_registered_types_are_packed_and_made():
    @dataclass(frozen=True)
    class Stranger:
        count: int = 0

    with pytest.raises(TypeError, match="Stranger cannot stand in a run state"):
        pack({"state": Stranger()}, [])
    with pytest.raises(ValueError, match="'Stranger', which this version does not know"):
        unpack({"@Stranger": {"count": 1}}, [])
    with pytest.raises(ValueError, match="another version"):
        unpack({"@Sample": {"size": 1}}, [])
    with pytest.raises(ValueError, match="two classes 'Sample'"):
        saved(replace_name(Stranger, "Sample"))
    assert replace(unpack({"@Sample": {"count": 1}}, []), count=2) == Sample(2)


def replace_name(cls, name):
    cls.__name__ = name
    return cls
