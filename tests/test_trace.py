"""What a trace tells of the age of the keys that chunks show to one another."""

import pytest
import torch

from flowcache_core.plan import dense, diffusion_forcing
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.trace import Trace
from tests.reference import tiny_run


def test_a_skipped_steps_keys_are_those_of_the_last_computed_one_and_their_age_is_told():
    """Steps 0, 1, 4 and 7 of 8 are computed: ages 0 0 1 2 0 1 2 0."""
    run = tiny_run(diffusion_forcing(4, 2, 8, 3), policy=EveryNth(3))
    shown = {}

    def look(done):
        if done.last.kind == "denoise":
            (chunk, step), = done.last.moves
            shown[chunk, step] = run.cache.store.read(0, "cond#0", [chunk])[0].clone()

    run.run(look)
    for chunk in (0, 1):
        same = [torch.equal(shown[chunk, step], shown[chunk, step - 1]) for step in range(1, 8)]
        assert same == [False, True, True, False, True, True, False]
    assert run.trace.stale_steps() == {"mean": 0.75, "most": 2, "finished": 0}
    assert run.trace.summary()["stale_steps"] == run.trace.stale_steps()


@pytest.mark.parametrize(("commit", "finished"), [(False, 6), (True, 0)])
def test_a_finished_chunk_keeps_its_age_unless_a_commit_pass_renews_it(commit, finished):
    run = tiny_run(diffusion_forcing(6, 2, 8, 8, commit=commit), policy=EveryNth(100, last_steps=0))
    run.run()
    assert run.trace.stale_steps()["most"] == 6
    run.trace.passes = [p for p in run.trace.passes if p.chunks != (2,)]   # nobody sees the last chunk
    assert run.trace.stale_steps()["finished"] == finished


def test_nothing_is_told_where_nothing_is_cached():
    run = tiny_run(dense(4, 2, 6), policy=EveryNth(2))
    run.run()
    assert run.trace.stale_steps() is None and Trace({}, {}).stale_steps() is None
