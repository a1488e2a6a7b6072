"""The asynchronous schedule against the vectors of the release and against the tables of the SkyReels-V2 page."""

import pytest

from flowcache_core.plan import diffusion_forcing, step_table

VECTORS = [   # chunks, steps, ar_step, prefix chunks, rows; * = updated
    (3, 4, 2, 0, "1* 0 0 / 2* 0 0 / 3* 1* 0 / 4* 2* 0 / 5 3* 1* / 5 4* 2* / 5 5 3* / 5 5 4*"),
    (3, 4, 2, 1, "5 1* 0 / 5 2* 0 / 5 3* 1* / 5 4* 2* / 5 5 3* / 5 5 4*"),
    (3, 3, 0, 1, "4 1* 1* / 4 2* 2* / 4 3* 3*"),
]


@pytest.mark.parametrize(("chunks", "steps", "ar_step", "prefix", "rows"), VECTORS)
def test_rows_by_hand(chunks, steps, ar_step, prefix, rows):
    table = step_table(chunks, steps, ar_step, prefix)
    shown = [" ".join(f"{value}{'*' * moved}" for value, moved in zip(*row, strict=True))
             for row in zip(table.state, table.updated, strict=True)]
    assert " / ".join(shown) == rows


@pytest.mark.parametrize(("steps", "prefix", "rows", "starts", "full_rows"), [
    (30, 0, 50, [0, 5, 10, 15, 20], 10), (30, 1, 45, [0, 5, 10, 15], 0),
    (50, 0, 70, [0, 5, 10, 15, 20], 30), (50, 1, 65, [0, 5, 10, 15], 0)])
def test_five_chunks_five_rows_apart(steps, prefix, rows, starts, full_rows):
    plan = diffusion_forcing(25, 5, steps, 5, prefix_chunks=prefix)
    assert len(plan.rows) == rows
    active = [[p.chunks[0] for p in row if p.kind == "denoise"] for row in plan.rows]
    spans = {c: [n for n, row in enumerate(active) if c in row] for c in range(prefix, 5)}
    assert [span[0] for span in spans.values()] == starts
    assert all(span == list(range(span[0], span[0] + steps)) for span in spans.values())
    assert sum(len(row) == 5 for row in active) == full_rows


@pytest.mark.parametrize("ar_step", [0, 1, 3, 50])
def test_chunk_starts_and_rows_follow_the_formula(ar_step):
    steps, chunks = 6, 4
    lag = min(ar_step, steps)
    plan = diffusion_forcing(chunks, 1, steps, ar_step)
    assert len(plan.rows) == steps + (chunks - 1) * lag
    for chunk in range(chunks):
        rows = [n for n, row in enumerate(plan.rows) for p in row if p.chunks == (chunk,)]
        assert rows == list(range(chunk * lag, chunk * lag + steps))
