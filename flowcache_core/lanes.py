"""The reuse state of a run: a policy state and what stands in for the network, per lane (chunk, stream, batch item)."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from .reuse.contract import BlockRange, Decision, Kind, Outcome, ReusePolicy, StepInfo
from .reuse.predictors import Predictor
from .saved import saved


@saved
class Lane(NamedTuple):
    chunk: int
    stream: str
    item: int


def _lane(info: StepInfo) -> Lane:
    return Lane(info.chunk, info.stream, info.item)


ROW = -1   # stands for all chunks of a row

Signal = Callable[[Lane], Any]


class Evidence(NamedTuple):
    """What a stand-in would have given, and the truth."""

    guess: Tensor
    truth: Tensor


class Lanes:
    """Decides for lanes, remembers for them, and forgets a chunk when it is finished.

    kept: the predictor's values; ranges: residuals of block ranges; differences: of a stream's velocity from its
    source's; last: what the step before gave, where the policy looks at that. These and the policy's states are all
    that a run must save to go on. fresh (velocities, and whether they were computed whole), missed (by how much the
    latent is to be moved) and evidence last for a pass.

    first_chunk: the number by which the policy knows chunk 0.
    """

    def __init__(self, policy: ReusePolicy, predictor: Predictor, first_chunk: int = 0) -> None:
        self.policy, self.predictor, self._first_chunk = policy, predictor, first_chunk
        self._states: dict[Lane, Any] = {}
        self.kept: dict[Lane, Any] = {}
        self.ranges: dict[tuple[Lane, BlockRange], Tensor] = {}
        self.differences: dict[Lane, Tensor] = {}
        self.last: dict[Lane, Tensor] = {}
        self.fresh: dict[Lane, tuple[Tensor, bool]] = {}
        self.missed: dict[Lane, Tensor] = {}
        self.evidence: dict[tuple[str | BlockRange, Lane], Evidence] = {}

    def decide(self, infos: Iterable[StepInfo], signal: Signal, keeps_keys: Callable[[str], bool] = lambda stream: True
               ) -> dict[Lane, Decision]:
        """Decides one step of every lane and tells the policy what will be done.

        Overruled to COMPUTE: what the plan must compute, what has nothing to be reused, and (for a joint pass) all
        chunks where they do not all do the same, since they see one another. keeps_keys: whether the keys of a stream's
        own chunk are stored, without which its tokens cannot be computed in part.
        """
        wanted = [(lane, self._told(info), signal(lane)) for info in infos for lane in (_lane(info),)]
        decisions: dict[Lane, Decision] = {}
        for lane, info, seen in wanted:
            decisions[lane] = self._first(lane, info, seen, decisions)
        for lane, info, _ in wanted:
            if not decisions[lane].computes:
                decisions[lane] = self._possible(lane, info, decisions, keeps_keys)
        if any(lane.chunk != wanted[0][0].chunk for lane in decisions):
            self._agree(decisions)
        alike, shared = self.policy.alike, {}
        for lane, info, seen in wanted:
            place = (lane.chunk, id(decisions[lane]), id(self._states.get(lane)))
            if not alike or place not in shared:
                shared[place] = self.policy.observe(self.state(lane), info, seen, decisions[lane])
            self._states[lane] = shared[place]
        return decisions

    def _agree(self, decisions: dict[Lane, Decision]) -> None:
        """The chunks of a joint pass do all the same in a stream and item, or all compute."""
        for lane in decisions:
            joint = [d for other, d in decisions.items() if other[1:] == lane[1:]]
            if len({self._fashion(d) for d in joint}) > 1:
                decisions[lane] = self._computed(decisions[lane], "a chunk of the same pass computes")

    def decide_row(self, row: Iterable[StepInfo], infos: Iterable[StepInfo], signal: Signal) -> dict[Lane, Decision]:
        """One decision for all chunks of a row, in every stream and item; for policies that are `per_row`.

        row: the row as the policy sees it, one a stream and item; infos: the steps of its chunks. Overruled to COMPUTE
        where the plan must compute one of them, or one has nothing to be reused.
        """
        infos, shared, decisions = list(infos), {}, {}
        for told in row:
            own = [_lane(i) for i in infos if (i.stream, i.item) == (told.stream, told.item)]
            seen, place = {lane.chunk: signal(lane) for lane in own}, Lane(ROW, told.stream, told.item)
            made = shared.get(told.item) if not self.policy.per_stream else None
            made = made or self.policy.decide(self.state(place), told, seen)
            forced = next((i for i in infos if i.must_compute), None)
            if not made.computes and forced is not None:
                made = self._computed(made, forced.why_computed)
            elif not made.computes and any(lane not in self.kept for lane in own):
                made = self._computed(made, "a chunk has nothing to reuse yet")
            shared[told.item] = made
            self._states[place] = self.policy.observe(self.state(place), told, seen, made)
            decisions.update({lane: self._repeated(made, lane) for lane in own})
        return decisions

    def state(self, lane: Lane) -> Any:
        return self._states[lane] if lane in self._states else self.policy.new_state()

    def learn(self, info: StepInfo, decision: Decision, outcome: Outcome) -> None:
        lane, info = _lane(info), self._told(info)
        self._states[lane] = self.policy.learn(self.state(lane), info, decision, outcome)

    def _told(self, info: StepInfo) -> StepInfo:
        return info._replace(chunk=info.chunk + self._first_chunk) if self._first_chunk else info

    @staticmethod
    def _computed(decision: Decision, reason: str) -> Decision:
        if decision.computes:
            return decision
        return replace(decision, kind=Kind.COMPUTE, reason=reason, tokens=None, blocks=None, source_stream=None)

    @staticmethod
    def _fashion(decision: Decision) -> Kind:
        return Kind.REUSE if decision.kind is Kind.PREDICT else decision.kind

    def _first(self, lane: Lane, info: StepInfo, seen: Any, made: dict[Lane, Decision]) -> Decision:
        if info.must_compute:
            return Decision(Kind.COMPUTE, info.why_computed)
        decision = None
        if not self.policy.per_stream:
            decision = next((d for other, d in made.items() if other[::2] == lane[::2]), None)
        elif self.policy.alike:
            decision = next((d for other, d in made.items() if other.chunk == lane.chunk
                             and self._states.get(other) is self._states.get(lane)), None)
        decision = decision or self._repeated(self.policy.decide(self.state(lane), info, seen), lane)
        if not decision.computes and lane not in self.kept:
            return self._computed(decision, "nothing to reuse yet")
        return decision

    def export_state(self) -> dict[str, dict]:
        """What `restore` needs: policy states, and what stands in for the network, by lane."""
        return {"states": dict(self._states), "kept": dict(self.kept), "ranges": dict(self.ranges),
                "differences": dict(self.differences), "last": dict(self.last)}

    def restore(self, state: dict[str, dict]) -> None:
        self._states, self.kept = dict(state["states"]), dict(state["kept"])
        self.ranges, self.differences = dict(state["ranges"]), dict(state["differences"])
        self.last = dict(state["last"])

    def _possible(self, lane: Lane, info: StepInfo, made: dict[Lane, Decision], keeps_keys: Callable[[str], bool]
                  ) -> Decision:
        """The decision, as far as there is what it needs."""
        decision = made[lane]
        if decision.kind is Kind.DERIVE:
            source = Lane(lane.chunk, decision.source_stream, lane.item)
            if decision.source_stream != info.source or source not in made or lane not in self.differences:
                return self._computed(decision, "nothing to derive from yet")
        if decision.kind is Kind.PARTIAL and decision.blocks is not None:
            if (lane, decision.blocks) not in self.ranges:
                return self._computed(decision, "nothing to reuse yet")
            if any(other.chunk != lane.chunk for other in made):
                return self._computed(decision, "a joint pass runs whole")
        if decision.kind is Kind.PARTIAL and decision.tokens is not None:
            return self._some_tokens(decision, info, keeps_keys(lane.stream))
        return decision

    def _some_tokens(self, decision: Decision, info: StepInfo, keeps_keys: bool) -> Decision:
        tokens = decision.tokens
        if any(b <= a for a, b in zip(tokens, tokens[1:], strict=False)) or tokens and not (
                tokens[0] >= 0 and tokens[-1] < info.tokens):
            raise ValueError(f"policy {self.policy.name}: the tokens of a partial step must ascend in 0 to "
                             f"{info.tokens - 1}")
        if len(tokens) == info.tokens:
            return self._computed(decision, decision.reason)
        if not tokens:
            return replace(decision, kind=Kind.REUSE, tokens=None)
        return decision if keeps_keys else self._computed(decision, "the keys of its other tokens are not stored")

    def _repeated(self, decision: Decision, lane: Lane) -> Decision:
        """REUSE of a predictor that extrapolates is PREDICT."""
        if decision.kind is Kind.PREDICT and not self.predictor.extrapolates:
            raise ValueError(f"policy {self.policy.name} asks for a prediction and the predictor {self.predictor.name} "
                             "only repeats: use taylor")
        if decision.kind is Kind.REUSE and self.predictor.extrapolates:
            return replace(decision, kind=Kind.PREDICT)
        return decision

    def note_differences(self, source: str) -> None:
        """After the forwards of a pass: how far each stream's velocity is from its source's, where both were computed
        whole."""
        for lane, (velocity, whole) in self.fresh.items():
            origin = Lane(lane.chunk, source, lane.item)
            if lane == origin or not whole or not self.fresh.get(origin, (None, False))[1]:
                continue
            difference, old = velocity - self.fresh[origin][0], self.differences.get(lane)
            if self.policy.measures and old is not None:
                self.evidence["derive", lane] = Evidence(old, difference)
            self.differences[lane] = difference

    def end_pass(self) -> None:
        """Drops what lasts for a pass."""
        for table in (self.fresh, self.missed, self.evidence):
            table.clear()

    def close(self) -> None:
        """Drops everything, also where somebody still holds this object (an error's traceback does)."""
        for table in (self._states, self.kept, self.ranges, self.differences, self.last, self.fresh, self.missed,
                      self.evidence):
            table.clear()

    def forget(self, chunk: int) -> None:
        for table in (self._states, self.kept, self.differences, self.last):
            for lane in [lane for lane in table if lane.chunk == chunk]:
                del table[lane]
        for place in [place for place in self.ranges if place[0].chunk == chunk]:
            del self.ranges[place]
