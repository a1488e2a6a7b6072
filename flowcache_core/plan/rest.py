"""What is left of a plan when its first chunks are finished and only their latents are at hand."""

from dataclasses import replace

from .chunk_plan import ChunkPlan, Pass, Row


def rest_of(plan: ChunkPlan, finished: int) -> ChunkPlan:
    """The plan with its first `finished` chunks given: their keys are made again, one pass a chunk, as far as a later
    pass reads them; then what the plan does with the others, from their first step on.

    Raises ValueError where there is nothing left to do, or a chunk is not known by then.
    """
    last = len(plan.chunks) - plan.end_chunks
    if not plan.prefix_chunks <= finished < last:
        raise ValueError(f"{finished} finished chunks of {last}: expected {plan.prefix_chunks} to {last - 1}")
    rows: list[Row] = [tuple(kept for p in row if (kept := _without(p, finished))) for row in plan.rows]
    rows = [row for row in rows if row]
    return replace(plan, rows=(*_given(plan, rows, finished), *rows), prefix_chunks=finished)


def _without(p: Pass, finished: int) -> Pass | None:
    """The pass for the chunks that are not finished; None where it would move none."""
    if p.chunks[0] >= finished:
        return p
    if p.kind != "denoise" or p.chunks[-1] < finished:
        return None
    gone = tuple(c for c in p.chunks if c < finished)
    kept = replace(p, chunks=p.chunks[len(gone):], steps=p.steps[len(gone):],
                   still=tuple(c for c in p.still if c not in gone),
                   reads=tuple(sorted({*p.reads, *gone})), writes=tuple(c for c in p.writes if c not in gone))
    return kept if kept.moves else None


def _given(plan: ChunkPlan, rows: list[Row], finished: int) -> list[Row]:
    """A pass for every finished chunk whose keys are needed, one a row so that a budget can make room between them."""
    before = {p.chunks[-1]: p.reads for p in plan.passes() if p.kind != "near_clean" and p.writes}
    needed = {c for row in rows for p in row for c in p.reads if c < finished}
    for c in reversed(range(finished)):
        if c in needed:
            needed.update(r for r in before.get(c, ()) if r < c)
    return [(Pass((c,), "prefix", reads=tuple(r for r in before.get(c, ()) if r in needed and r < c), writes=(c,),
                  must_compute=True),) for c in sorted(needed)]
