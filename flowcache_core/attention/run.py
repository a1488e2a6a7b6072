"""The attention of one run: what was chosen lately, and how much was looked at. Made with the run, dropped with it."""

from typing import Any

from torch import Tensor

from .block_attention import KeySet
from .quantised import with_step_channel
from .sparse import Place, SparseAttention
from .weighted import Attend, WeightedAttention


class AttentionRun:
    """`weighted`: how merged keys get their weight. `density`: looked-at share of query-key pairs by kind of attention,
    over the calls in which a sparse method was on."""

    def __init__(self, sparse: SparseAttention | None = None, weighted: WeightedAttention | None = None) -> None:
        self.sparse, self.weighted = sparse, weighted or WeightedAttention()
        self._memory: dict[tuple, tuple[tuple, dict[Any, Any]]] = {}
        self._seen: dict[str, tuple[int, float]] = {}   # calls, and their densities summed
        self.calls, self._uncorrected = 0, False
        self.pairs = 0   # that were computed without a call of `attend`

    def attend(self, kind: str, place: Place | None, q: Tensor, k: Tensor, v: Tensor, log_m: Tensor | None,
               attend: Attend, steps: Tensor | None = None) -> Tensor:
        """place: None where only dense attention is right. steps `(B, Hk, n)`: of keys that were rounded."""
        self.calls += 1
        if steps is None:
            return self._attend(kind, place, q, k, v, log_m, attend)
        if not self.weighted.fits(attend, q, k, v):
            self._uncorrected = True
            return self._attend(kind, place, q, k, v, log_m, attend)
        return self._attend(kind, place, *with_step_channel(q, k, v, steps), log_m, attend)[..., :v.shape[-1]]

    def _attend(self, kind: str, place: Place | None, q: Tensor, k: Tensor, v: Tensor, log_m: Tensor | None,
                attend: Attend) -> Tensor:
        method = self.sparse.method(kind, place) if self.sparse is not None and place is not None else None
        if method is None:
            return self.weighted(attend, q, k, v, log_m)
        found = method.attend(place, q, KeySet(k, v, log_m), attend, self.weighted, self._remembered(kind, place))
        calls, total = self._seen.get(kind, (0, 0.0))
        self._seen[kind] = (calls + 1, total + found.density)
        self.pairs += found.pairs
        return found.out

    def _remembered(self, kind: str, place: Place) -> dict[Any, Any]:
        """What the method kept for this place, empty where it has aged or other keys are cached."""
        if place.fresh:
            return {}
        key = (kind, place.layer, place.stream, place.chunks, place.items)
        state = (self.sparse.age(place), place.version if kind == "self" else 0)
        if key not in self._memory or self._memory[key][0] != state:
            self._memory[key] = (state, {})
        return self._memory[key][1]

    def check_used(self) -> None:
        """Raises ValueError where a network has run and never asked for attention."""
        if self.sparse is not None and self.calls == 0:
            raise ValueError(f"sparse attention {', '.join(m.name for m in self.sparse.methods)} on a network that "
                             "does not call the attention hook: it would change nothing; leave it out, or use a Wan "
                             "or MAGI network")

    def notes(self) -> list[str]:
        """Sentences on what was not plain attention."""
        told = ["keys in int8 without the correction of their rounding: this host's attention takes no wider heads"]
        told = told if self._uncorrected else []
        if self.sparse is None:
            return told
        found = [f"sparse {kind}-attention looked at {self.density[kind]:.0%} of the pairs in {calls} calls"
                 for kind, calls in self.sparse_calls.items()]
        idle = [f"sparse {kind}-attention was never on: too few steps or layers, or no past"
                for kind in self.sparse.by_kind if kind not in self._seen]
        return told + found + idle

    @property
    def density(self) -> dict[str, float]:
        return {kind: total / calls for kind, (calls, total) in self._seen.items()}

    @property
    def sparse_calls(self) -> dict[str, int]:
        return {kind: calls for kind, (calls, _) in self._seen.items()}

    def forget(self, chunk: int) -> None:
        """Drops what was chosen for a finished chunk."""
        self._memory = {key: kept for key, kept in self._memory.items() if chunk not in key[3]}

    def export_state(self) -> dict[str, Any]:
        """What `restore` needs: choices outlive the steps in which they were made."""
        return {"memory": self._memory, "seen": self._seen, "calls": self.calls}

    def restore(self, state: dict[str, Any]) -> None:
        self._memory, self._seen, self.calls = dict(state["memory"]), dict(state["seen"]), state["calls"]

    def close(self) -> None:
        self._memory.clear()
