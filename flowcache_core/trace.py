"""The record of one run: what was decided for every chunk step, by which number, why, and what it cost.

The JSON form is documented in docs/trace.md; `SCHEMA` changes with it. Counts of model calls and measured seconds are
kept apart.
"""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .reuse.contract import NOT_FINITE
from .saved import saved

SCHEMA = "flowcache-trace/2"


@saved
@dataclass(frozen=True)
class LaneRecord:
    """One decision. distance: how far the signal moved; value: what was compared with limit (null: not compared);
    share: the part of the network's work that was done, 1 for a computed step and 0 for a skipped one."""

    chunk: int
    step: int
    stream: str
    item: int
    decision: str
    reason: str
    distance: float | None = None
    value: float | None = None
    limit: float | None = None
    share: float = 0.0


@saved
@dataclass(frozen=True)
class PassRecord:
    """One pass. seconds: wall time with its solver steps; hook_seconds: the part spent in our own code; calls: forwards
    of the network (a row of a batch counts as one); kv_tokens: resident per layer and stream; kv_bytes: of all;
    keys: that the pass's tokens looked at, their own included (0: nothing was forwarded, or nothing is cached);
    kv_seconds, compress_seconds: the parts of hook_seconds that wrote and read keys, and that chose which tokens stay;
    the rest is the policy's bookkeeping. flops: counted, of what ran; whole_flops: had every row been computed (0: the
    backbone's sizes do not say)."""

    row: int
    kind: str
    chunks: tuple[int, ...]
    steps: tuple[int, ...]
    seconds: float
    hook_seconds: float
    calls: int
    kv_tokens: int
    kv_bytes: int
    lanes: tuple[LaneRecord, ...] = ()
    keys: int = 0
    kv_seconds: float = 0.0
    compress_seconds: float = 0.0
    flops: int = 0
    whole_flops: int = 0


@dataclass
class Trace:
    """settings: what the run was asked for; plan: name, frames and steps; passes in the order in which they ran;
    kv_error: relative error of storing keys and values (None: stored as they are); notes: sentences for the user."""

    settings: dict[str, Any]
    plan: dict[str, Any]
    kv_peak_bytes: int = 0
    passes: list[PassRecord] = field(default_factory=list)
    kv_error: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)

    def counts(self) -> Counter:
        """Decisions of all chunk steps by kind."""
        return Counter(lane.decision for p in self.passes for lane in p.lanes)

    @property
    def computed_share(self) -> float:
        """Computed chunk steps / all chunk steps; a partial one counts by the part that was computed."""
        shares = [lane.share for p in self.passes for lane in p.lanes]
        return math.fsum(shares) / max(1, len(shares))

    @property
    def flops_share(self) -> float | None:
        """Counted FLOPs / those of a run that computes everything; None where they are not known."""
        whole = sum(p.whole_flops for p in self.passes)
        return sum(p.flops for p in self.passes) / whole if whole else None

    def stale_steps(self) -> dict[str, float] | None:
        """How many steps ago the keys of a chunk were computed whole that others see: mean and most over its steps, and
        the most of a finished one that no commit pass renewed. None where no keys are cached."""
        ages, all_ages = {}, []
        for p in self.passes:
            for lane in p.lanes:
                place = (lane.chunk, lane.stream, lane.item)
                ages[place] = 0 if lane.decision == "compute" else ages.get(place, 0) + 1
                all_ages.append(ages[place])
            if p.kind in ("commit", "recache"):
                ages = {place: age for place, age in ages.items() if place[0] not in p.chunks}
        if not all_ages or not any(p.kv_tokens for p in self.passes):
            return None
        return {"mean": round(math.fsum(all_ages) / len(all_ages), 3), "most": max(all_ages),
                "finished": max(ages.values(), default=0)}

    def not_finite(self) -> list[LaneRecord]:
        """Steps that were computed because the policy's signal was not finite."""
        return [lane for p in self.passes for lane in p.lanes if lane.reason == NOT_FINITE]

    @property
    def seconds(self) -> float:
        """Measured wall time of all passes."""
        return sum(p.seconds for p in self.passes)

    def summary(self) -> dict[str, Any]:
        counts = self.counts()
        return {"chunk_steps": sum(counts.values()), "computed": counts["compute"], "reused": counts["reuse"],
                "predicted": counts["predict"], "partial": counts["partial"], "derived": counts["derive"],
                "computed_share": round(self.computed_share, 4), "model_calls": sum(p.calls for p in self.passes),
                "seconds": round(self.seconds, 3), "hook_seconds": round(sum(p.hook_seconds for p in self.passes), 4),
                "kv_seconds": round(sum(p.kv_seconds for p in self.passes), 4),
                "compress_seconds": round(sum(p.compress_seconds for p in self.passes), 4),
                "flops": sum(p.flops for p in self.passes), "whole_flops": sum(p.whole_flops for p in self.passes),
                "flops_share": None if self.flops_share is None else round(self.flops_share, 4),
                "not_finite": len(self.not_finite()), "stale_steps": self.stale_steps(),
                "kv_peak_bytes": self.kv_peak_bytes,
                "kv_error": self.kv_error and [float(f"{error:.3g}") for error in self.kv_error],
                "notes": list(self.notes),
                "kv_peak_tokens": max((p.kv_tokens for p in self.passes), default=0)}

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "settings": self.settings, "plan": self.plan, "summary": self.summary(),
                "passes": [asdict(p) for p in self.passes]}

    def save(self, path: Path) -> None:
        """Writes the JSON form, whole or not at all."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(_finite(self.to_json()), allow_nan=False, separators=(",", ":")) + "\n")
        partial.replace(path)


def _finite(value: Any) -> Any:
    """NaN and infinities as None, since JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def load_trace(path: Path) -> Trace:
    """Reads a trace file. Raises ValueError for another schema."""
    data = json.loads(path.read_text())
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {data.get('schema')!r}, expected {SCHEMA!r}")
    passes = [PassRecord(**{**p, "chunks": tuple(p["chunks"]), "steps": tuple(p["steps"]),
                            "lanes": tuple(LaneRecord(**lane) for lane in p["lanes"])}) for p in data["passes"]]
    return Trace(data["settings"], data["plan"], data["summary"]["kv_peak_bytes"], passes,
                 data["summary"].get("kv_error"), data["summary"].get("notes", []))
