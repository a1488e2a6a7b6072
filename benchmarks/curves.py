"""Reading the comparison: curves of methods over their settings, and what they give at equal quality."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
WANTED = (34.0, 30.0, 44.0, 50.0, 54.0)   # dB; sorted by the first
PLAIN = "flowcache"
PARTS = "warm-up 1", "warm-up 1 taylor", "one threshold", "ours learned", "ours learned derived"   # of the ablation


def by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each method that were measured against another run."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["psnr_db"] is not None:
            found.setdefault(row["method"], []).append(row)
    return found


def saving(row: Row) -> float:
    """1 / share of the counted FLOPs."""
    return 1 / (row["flops_share"] or row["computed_share"])


def at_quality(points: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """The gain of `(gain, psnr)` points at a PSNR, interpolated in the logarithm of the gain between two points that
    bracket it; the largest, where a curve crosses more than once; None where it is not bracketed."""
    found = []
    ordered = sorted(points)
    for (gain, psnr), (next_gain, next_psnr) in zip(ordered, ordered[1:], strict=False):
        low, high = sorted((psnr, next_psnr))
        if low <= wanted <= high:
            part = 0.0 if high == low else (psnr - wanted) / (psnr - next_psnr)
            found.append(math.exp(math.log(gain) + part * math.log(next_gain / gain)))
    return max(found, default=None)


def equal_quality(rows: Sequence[Row], wanted: Sequence[float] = WANTED) -> list[dict[str, Any]]:
    """Saving of FLOPs and measured speed-up of every method at equal PSNR, and the saving against plain FlowCache's."""
    table = []
    for method, its in by_method(rows).items():
        entry: dict[str, Any] = {"method": method}
        for db in wanted:
            for word, gain in (("1 / FLOP share", saving), ("speed-up", lambda row: row["speedup"])):
                found = at_quality([(gain(row), row["psnr_db"]) for row in its], db)
                entry[f"{word} at {db:g} dB"] = None if found is None else round(found, 2)
        table.append(entry)
    plain = next((entry for entry in table if entry["method"] == PLAIN), {})
    for entry in table:
        for db in wanted:
            key = f"1 / FLOP share at {db:g} dB"
            known = entry.get(key) and plain.get(key)
            entry[f"of FlowCache's at {db:g} dB"] = round(entry[key] / plain[key], 2) if known else None
    best = f"1 / FLOP share at {wanted[0]:g} dB"
    return sorted(table, key=lambda entry: -(entry[best] or 0.0))
