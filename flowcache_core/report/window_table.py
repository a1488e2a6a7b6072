"""The outer windows of a video: what each of them takes, and all together."""

from collections.abc import Sequence

from ..plan import ChunkPlan, Window
from .tables import comparison_table


def window_table(windows: Sequence[Window], plans: Sequence[ChunkPlan], calls: Sequence[int]) -> str:
    """calls: of the network, by window."""
    rows = [{"window": n + 1, "latent frames": f"{w.start}-{w.stop - 1}", "repeated": w.prefix, "rows": len(p.rows),
             "passes": sum(1 for _ in p.passes()), "model calls": count}
            for n, (w, p, count) in enumerate(zip(windows, plans, calls, strict=True))]
    every = {name: sum(row[name] for row in rows) for name in ("repeated", "rows", "passes", "model calls")}
    return comparison_table([*rows, {"window": "all", "latent frames": f"0-{windows[-1].stop - 1}", **every}])


def window_sentence(windows: Sequence[Window], chunks: int) -> str:
    """chunks: of the whole video."""
    return (f"{chunks} chunks in {len(windows)} windows of at most {max(w.frames for w in windows)} latent frames, one "
            "after the other")
