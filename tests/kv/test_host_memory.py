"""Keys in the host's memory: the same bits as on the device, copied in the planned order, two layers at a time."""

import pytest
import torch

from flowcache_core.kv import Compression, KVBudget, KVShape, KVStore, resident_layers
from flowcache_core.kv.host_memory import Ahead, HostBuffer
from flowcache_core.kv.storage import Buffer
from flowcache_core.plan import diffusion_forcing, sequential
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.reuse.predictors import Residual
from flowcache_core.run_state import read_state, write_state
from tests.reference import TINY, decisions, normal, tiny_run, tiny_wan

SHAPE = KVShape(layers=4, streams=1, items=1, heads=2, head_dim=4, bytes_per_number=4)
STREAM = "cond#0"
CASES = {"pyramid": (diffusion_forcing(8, 2, 4, 2, commit=True), {"guidance": 2.0, "policy": EveryNth()}),
         "folded": (sequential(12, 2, 3), {"budget": KVBudget(3), "compression": Compression(), "guidance": 2.0}),
         "two items": (sequential(6, 2, 4), {"items": 2, "policy": EveryNth(), "predictor": Residual()}),
         "int8": (sequential(8, 2, 3), {"kv_dtype": torch.int8, "budget": KVBudget(2.5)})}
by_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def model():
    return tiny_wan()


def make(case, model, **more):
    plan, wanted = CASES[case]
    return tiny_run(plan, model, seed=1, **{**wanted, **more})


@by_case
def test_where_keys_lie_changes_no_bit(case, model):
    near, far = make(case, model), make(case, model, kv_device="cpu")
    assert far.cache.store.resident_layers == 0 and near.cache.store.resident_layers == TINY.layers
    assert torch.equal(near.run(), far.run())
    assert decisions(near) == decisions(far)
    assert near.trace.kv_peak_bytes == far.trace.kv_peak_bytes


class Logged(Ahead):
    """Copies at once, and keeps count."""

    def __init__(self):
        super().__init__("cpu")
        self.log, self.most = [], 0

    def copy(self, place, buffers, spans):
        self.log.append(place[0])
        self.most = max(self.most, len(self._copied) + 1)
        return super().copy(place, buffers, spans)


def test_the_next_layer_is_copied_ahead_and_two_are_the_most():
    store = KVStore(SHAPE, [STREAM], 9, torch.float32, "cpu", resident_layers=1)
    store.ahead = Logged()
    for chunk in range(2):
        store.reserve(chunk, 3, 3 * chunk)
        for layer in range(4):
            store.write(layer, STREAM, chunk, *(normal(1, 2, 3, 4, seed=10 * chunk + n) for n in (layer, layer + 4)))
    store.reserve(2, 3, 6)
    for _ in range(2):   # two passes
        store.ahead.log.clear()
        for layer in range(4):
            own = [normal(1, 2, 3, 4, seed=40 + layer + n) for n in (0, 4)]
            store.write(layer, STREAM, 2, *own)
            keys, values = store.read(layer, STREAM, (0, 1, 2))
            for found, part in ((keys, 0), (values, 4)):
                wanted = [normal(1, 2, 3, 4, seed=10 * c + layer + part) for c in (0, 1)]
                assert torch.equal(found, torch.cat([*wanted, own[part // 4]], dim=2))
        assert store.ahead.log == [1, 2, 3], "every layer once, the own chunk's keys not at all"
    assert store.ahead.most <= 2 and not store.ahead.places


def test_what_was_copied_ahead_is_dropped_when_it_is_written():
    store = KVStore(SHAPE, [STREAM], 9, torch.float32, "cpu", resident_layers=0)
    for chunk in range(2):
        store.reserve(chunk, 3, 3 * chunk)
        for layer in range(4):
            store.write(layer, STREAM, chunk, normal(1, 2, 3, 4), normal(1, 2, 3, 4))
    store.read(0, STREAM, (0, 1))
    assert store.ahead.places == ((1, STREAM),)
    new = normal(1, 2, 3, 4, seed=9)
    store.write(1, STREAM, 0, new, new)
    assert torch.equal(store.read(1, STREAM, (0, 1))[0][:, :, :3], new)
    some = normal(1, 2, 1, 4, seed=10)
    store.write(2, STREAM, 1, some, some, tokens=torch.tensor([2]))
    assert torch.equal(store.read(2, STREAM, (0, 1))[0][:, :, 5:], some)


@by_case
def test_a_state_may_change_its_place(case, model, tmp_path):
    states, chunks = [], {}

    def keep(state):
        states.append(tmp_path / f"{len(states)}")
        write_state(states[-1], state, {})

    latents = make(case, model, kv_device="cpu").run(None, lambda c, x: chunks.update({c: x.clone()}), keep)
    rest = make(case, model)
    rest.restore(read_state(states[1])[0], chunks)
    assert torch.equal(rest.run(), latents)


class Fails:
    """A network that runs out of memory in the middle of given calls, those counted that compute something."""

    def __init__(self, inner, at):
        self.inner, self.at, self.calls = inner, at, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, latent, timestep, text, places, hooks):
        inner_attention = hooks.attention

        def attention(index, kind, *arguments):
            out = inner_attention(index, kind, *arguments)
            if index == 1 and kind == "self":
                self.calls += 1
                if self.calls in self.at:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return out

        hooks.attention = attention
        return self.inner(latent, timestep, text, places, hooks)


@by_case
def test_out_of_memory_halves_what_is_resident_once_and_goes_on(case, model, caplog):
    whole, run = make(case, model), make(case, Fails(model, {8}))
    assert torch.equal(run.run(), whole.run())
    assert decisions(run) == decisions(whole)
    (note,) = run.trace.notes
    assert "memory ran out: keys and values of layers 1 to 1 now lie in the host's memory" in note
    assert note in caplog.text and note in run.trace.summary()["notes"]


def test_a_second_time_it_is_an_error(model):
    run = make("pyramid", Fails(model, {5, 9}))
    with pytest.raises(torch.OutOfMemoryError):
        run.run()
    assert run.cache.store.allocated_bytes == 0


def test_out_of_memory_where_nothing_is_resident_is_an_error(model):
    run = make("pyramid", Fails(model, {5}), kv_device="cpu")
    with pytest.raises(torch.OutOfMemoryError):
        run.run()
    assert not run.trace.notes


def test_spilling_moves_half_and_frees_it():
    store = KVStore(SHAPE, [STREAM], 6, torch.float32, "cpu")
    store.reserve(0, 3, 0)
    for layer in range(4):
        store.write(layer, STREAM, 0, normal(1, 2, 3, 4, seed=layer), normal(1, 2, 3, 4))
    assert store.spill() == 2
    kinds = [type(store._keys[layer, STREAM]) for layer in range(4)]
    assert kinds == [Buffer, Buffer, HostBuffer, HostBuffer]
    assert all(torch.equal(store.read(n, STREAM, (0,))[0], normal(1, 2, 3, 4, seed=n)) for n in range(4))


@pytest.mark.parametrize(("wanted", "expected"), [("auto", 30), ("cpu", 0)])
def test_on_the_cpu_everything_is_resident(wanted, expected):
    assert resident_layers(wanted, 30, 10**9, "cpu") == expected


def test_auto_takes_what_fits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * 10**9)
    assert [resident_layers("auto", 30, size, "cuda") for size in (10**8, 10**9)] == [30, 8]
    assert [resident_layers(wanted, 30, 10**9, "cuda") for wanted in ("gpu", "cpu")] == [30, 0]


@pytest.mark.parametrize(("wanted", "message"), [("gpu", "runs on the CPU, where there is no GPU"),
                                                 ("moon", "'moon': choose auto, gpu or cpu")])
def test_places_that_are_not_there(wanted, message, model):
    with pytest.raises(ValueError, match=message):
        make("int8", model, kv_device=wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@by_case
def test_on_a_gpu_where_keys_lie_changes_no_bit(case):
    model = tiny_wan().cuda()
    near, far = make(case, model, kv_device="gpu"), make(case, model, kv_device="cpu")
    assert torch.equal(near.run(), far.run())
