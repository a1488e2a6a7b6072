"""At which steps what a chunk sees has changed: chunks that entered its view, or finished in it."""

from .chunk_plan import ChunkPlan


def context_changes(plan: ChunkPlan) -> frozenset[tuple[int, int]]:
    """The (chunk, step) at which the chunks that are read, or those of them that have finished, are others than at the
    chunk's step before. The first step of a chunk is not one."""
    finished, seen, changed = set(range(plan.prefix_chunks)), {}, set()
    for row in plan.rows:
        for p in row:
            if p.kind == "denoise":
                for chunk, step in p.moves:
                    view = (p.reads, finished.intersection(p.reads))
                    if seen.setdefault(chunk, view) != view:
                        changed.add((chunk, step))
                    seen[chunk] = view
        finished |= {c for p in row if p.kind == "denoise" for c, s in p.moves if s == plan.steps_of(c) - 1}
    return frozenset(changed)
