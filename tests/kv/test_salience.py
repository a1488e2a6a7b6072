"""The salience head: what it computes, where its marks go, and which files and networks it refuses."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from flowcache_core.kv import SCORERS, Cached, Compression, KVBudget, KVShape
from flowcache_core.kv.salience import SalienceHead, fresh_weights, load_head
from flowcache_core.plan import sequential
from tests.reference import TINY, TOKENS, make_scorer, normal, tiny_run

PLAN = sequential(12, 2, 2)


def head(width=16, layers=6, groups=3):
    fresh = fresh_weights(width, groups).items()
    weights = {name: w + 0.1 * normal(*w.shape, seed=n) for n, (name, w) in enumerate(fresh)}
    return SalienceHead(weights, layers, 2, 8, tap=3)


def test_the_head_is_norm_linear_gelu_linear():
    own, x = head(), normal(2, 5, 16, seed=9)
    w = own.weights
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    inner = F.gelu((normed * w["norm.weight"] + w["norm.bias"]) @ w["inner.weight"].T + w["inner.bias"])
    torch.testing.assert_close(own(x), inner @ w["outer.weight"].T + w["outer.bias"], atol=1e-5, rtol=1e-5)


def test_layers_share_groups_in_order():
    assert [head().group_of(layer) for layer in range(6)] == [0, 0, 1, 1, 2, 2]
    scorer = SCORERS["pafu_kv"](head=head())
    hidden = normal(1, 5, 16)
    assert torch.equal(scorer.mark(hidden), head()(hidden)[..., [0, 0, 1, 1, 2, 2]])


def test_a_head_is_read_as_it_was_written(tmp_path):
    path, x = tmp_path / "head.safetensors", normal(3, 16)
    head().save(path, correlation="0.5")
    found = load_head(path)
    assert torch.equal(found(x), head()(x)) and (found.layers, found.tap, found.width) == (6, 3, 16)
    scorer = SCORERS.make("pafu_kv", {"weights": str(path)})
    assert torch.equal(scorer.mark(x[None]), head()(x[None])[..., [0, 0, 1, 1, 2, 2]])
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("kind", ["missing", "text", "other", "half"])
def test_files_that_are_no_head(kind, tmp_path):
    path = tmp_path / f"{kind}.safetensors"
    if kind == "text":
        path.write_text("not a head at all")
    elif kind == "other":
        save_file({"some.weight": torch.zeros(2)}, path)
    elif kind == "half":
        save_file(dict(head().weights), path, {"layers": "6"})
    with pytest.raises(ValueError, match=rf"{kind}\.safetensors: .*train-salience"):
        SCORERS.make("pafu_kv", {"weights": str(path)})


def test_a_head_for_another_network_is_refused_before_sampling():
    other = SCORERS["pafu_kv"](head=head())
    with pytest.raises(ValueError, match="6 layers of 2 heads of 8, on a network of 2 layers of 2 heads of 12"):
        tiny_run(PLAN, budget=KVBudget(3), compression=Compression(other))
    with pytest.raises(ValueError, match="hidden states of 16 numbers, on one of 24"):
        head()(normal(1, 24))


def test_every_cached_token_has_the_mark_that_its_hidden_state_was_given():
    """By position: what the head says of the hidden state at each chunk's last writing pass."""
    said, scorer = {}, make_scorer("pafu_kv")
    run = tiny_run(PLAN, guidance=2.0, budget=KVBudget(3), compression=Compression(scorer))
    own, store = type(scorer).mark, run.cache.store

    class Spy(type(scorer)):
        def mark(self, hidden):
            marks = own(self, hidden)
            said["last"] = marks
            return marks

    object.__setattr__(run.settings.compression, "scorer", Spy(head=scorer.head))
    known = {}

    def look(progress):
        if "last" not in said:
            return
        chunk = progress.last.chunks[0]
        known.update({chunk * 2 * TOKENS + n: said["last"][0, n, 1].item() for n in range(2 * TOKENS)})
        layout = store.layout
        if layout.folded is None or store._pending:
            return
        found = store.marks.read((1, "uncond#0"), "salience", layout.folded.spans)
        places = store.folded_positions(1, "uncond#0")
        assert found[0].tolist() == [[known[p] for p in row] for row in places[0].tolist()]
        said["compared"] = True

    run.run(look)
    assert said["compared"]


def test_age_takes_its_share():
    scorer = SCORERS["pafu_kv"](head=head(), decay=0.5)
    x = Cached(normal(1, 1, 6, 8), normal(1, 1, 6, 8), torch.arange(6).expand(1, 1, 6), 1, 2, salience=normal(1, 1, 6))
    expected = [s + a * torch.tensor(0.5).log().item() for s, a in zip(x.salience[0, 0].tolist(), (2, 2, 1, 1, 0, 0),
                                                                       strict=True)]
    assert scorer.score(None, x)[0, 0].tolist() == pytest.approx(expected)


def test_the_shape_decides():
    SCORERS["pafu_kv"](head=head()).check(KVShape(6, 1, 1, 2, 8, 4))
    assert make_scorer("pafu_kv").head.width == TINY.dim


def test_the_bundled_head_is_for_the_bundled_model():
    from flowcache_core.demo.train import CONFIG

    own = SCORERS.make("pafu_kv")
    own.check(KVShape(CONFIG.layers, 1, 1, CONFIG.heads, CONFIG.head_dim, 4))
    assert own.head.width == CONFIG.dim and 0 <= own.tap < CONFIG.layers
