"""Marks, merged weights and choices of sparse attention are part of a run's state: going on gives the same bits."""

import pytest
import torch

from flowcache_core.attention import SPARSE, SparseAttention
from flowcache_core.kv import MERGERS, Compression, KVBudget
from flowcache_core.plan import diffusion_forcing
from flowcache_core.run_state import read_state, write_state
from tests.reference import make_scorer, tiny_run, tiny_wan

PLAN = diffusion_forcing(16, 2, 6, 3)
SPARSE_RUN = SparseAttention((SPARSE.make("annsa", {"block": 4, "query_block": 4, "sub": 2, "dense_below": 0,
                                                    "least_share": 0.1, "least_blocks": 1, "keep": 0.5}),
                              SPARSE.make("annca", {"least": 2, "share": 0.5})), 0.1, 0, refresh=0.5)
CASES = {
    "merged": {"compression": Compression(make_scorer("attention"), merger=MERGERS.make("tempcache"))},
    "remembered scores": {"compression": Compression(make_scorer("past_use"))},
    "salience": {"compression": Compression(make_scorer("pafu_kv"))},
    "sparse": {"sparse": SPARSE_RUN},
    "all at once": {"compression": Compression(make_scorer("past_use"), merger=MERGERS.make("close_links")),
                    "sparse": SPARSE_RUN, "kv_dtype": torch.int8},
}
MODEL = tiny_wan()


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_bit_for_bit(case, tmp_path):
    def new():
        return tiny_run(PLAN, MODEL, guidance=2.0, budget=KVBudget(4), seed=1, **CASES[case])

    chunks, paths = {}, []

    def keep(state):
        paths.append(tmp_path / f"{len(paths)}.safetensors")
        write_state(paths[-1], state, {})

    whole = new()
    latents = whole.run(None, lambda chunk, latent: chunks.update({chunk: latent.clone()}), keep)
    for path in paths:
        state, _ = read_state(path)
        rest = new()
        rest.restore(state, {chunk: chunks[chunk] for chunk in state.finished})
        assert torch.equal(rest.run(), latents)
        assert rest.trace.notes == whole.trace.notes
