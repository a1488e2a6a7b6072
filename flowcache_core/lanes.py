"""The reuse state of a run: a policy state and a predictor value per lane (chunk, stream, batch item)."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from .reuse.contract import Decision, Kind, ReusePolicy, StepInfo
from .reuse.predictors import Predictor
from .saved import saved


@saved
class Lane(NamedTuple):
    chunk: int
    stream: str
    item: int


Signal = Callable[[Lane], Tensor | None]


class Lanes:
    """Decides for lanes, remembers for them, and forgets a chunk when it is finished.

    first_chunk: the number by which the policy knows chunk 0.
    """

    def __init__(self, policy: ReusePolicy, predictor: Predictor, first_chunk: int = 0) -> None:
        self.policy, self.predictor, self._first_chunk = policy, predictor, first_chunk
        self._states: dict[Lane, Any] = {}
        self.kept: dict[Lane, Tensor] = {}

    def decide(self, infos: Iterable[StepInfo], signal: Signal) -> dict[Lane, Decision]:
        """Decides one step of every lane and tells the policy what will be done.

        Overruled to COMPUTE: what the plan must compute, what has nothing to be reused, and (for a joint pass) all
        chunks where one computes, since they see one another.
        """
        wanted = {Lane(i.chunk, i.stream, i.item):
                  (replace(i, chunk=i.chunk + self._first_chunk), signal(Lane(i.chunk, i.stream, i.item)))
                  for i in infos}
        decisions: dict[Lane, Decision] = {}
        for lane, (info, seen) in wanted.items():
            decisions[lane] = self._first(lane, info, seen, decisions)
        for lane in decisions:
            joint = [d for other, d in decisions.items() if other.stream == lane.stream and other.item == lane.item]
            if not decisions[lane].computes and any(d.computes for d in joint):
                decisions[lane] = replace(decisions[lane], kind=Kind.COMPUTE,
                                          reason="a chunk of the same pass computes")
        for lane, (info, seen) in wanted.items():
            self._states[lane] = self.policy.observe(self._state(lane), info, seen, decisions[lane])
        return decisions

    def _state(self, lane: Lane) -> Any:
        return self._states[lane] if lane in self._states else self.policy.new_state()

    def _first(self, lane: Lane, info: StepInfo, seen: Tensor | None, made: dict[Lane, Decision]) -> Decision:
        if info.must_compute:
            return Decision(Kind.COMPUTE, "the plan must compute")
        decision = None
        if not self.policy.per_stream:
            decision = next((d for other, d in made.items() if other[::2] == lane[::2]), None)
        decision = decision or self.policy.decide(self._state(lane), info, seen)
        if not decision.computes and lane not in self.kept:
            return replace(decision, kind=Kind.COMPUTE, reason="nothing to reuse yet")
        return decision

    def export_state(self) -> dict[str, dict[Lane, Any]]:
        """What `restore` needs: policy states and predictor values by lane."""
        return {"states": dict(self._states), "kept": dict(self.kept)}

    def restore(self, state: dict[str, dict[Lane, Any]]) -> None:
        self._states, self.kept = dict(state["states"]), dict(state["kept"])

    def close(self) -> None:
        """Drops everything, also where somebody still holds this object (an error's traceback does)."""
        self._states.clear()
        self.kept.clear()

    def forget(self, chunk: int) -> None:
        for table in (self._states, self.kept):
            for lane in [lane for lane in table if lane.chunk == chunk]:
                del table[lane]
