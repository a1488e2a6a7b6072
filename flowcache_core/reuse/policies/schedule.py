"""A schedule that was learned for a network and a grid of steps (after DPCache, arXiv 2602.22654)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ...registry import knob
from ..contract import POLICIES, Decision, Kind, ReusePolicy, RunFacts, StepInfo
from ..schedules import FIRST, FULL, SAME, SKIP, Schedule, load_schedule, spread


@POLICIES.register("schedule")
@dataclass(frozen=True)
class Scheduled(ReusePolicy):
    """Does at every step what a file says, the same in every chunk: compute all streams, compute the first and derive
    the others from it, or skip. The file is learned once for a network and a grid of steps, and refused for others,
    unless `other_grid` spreads it over them. Looks at nothing, so its decisions are known before sampling."""

    DISABLED: ClassVar[dict[str, Any]] = {"force": True}

    file: str = knob("", None, None, "path of a schedule file, made with the command learn, or the name of one that "
                     "comes with a profile")
    other_grid: bool = knob(False, None, None, "take a schedule of another step count or shift, spread over the steps "
                            "of the run")
    force: bool = knob(False, None, None, "compute every step, whatever the schedule says")
    schedule: Schedule | None = field(default=None, repr=False, compare=False,
                                      metadata={"doc": "read from the file"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule is None and not (self.force and not self.file):
            object.__setattr__(self, "schedule", load_schedule(self.file))

    @property
    def derives(self) -> bool:
        return self.schedule is not None and not self.force and self.schedule.derives

    def settings(self) -> dict[str, Any]:
        return {"file": self.file, "other_grid": self.other_grid, "force": self.force}

    def check_run(self, facts: RunFacts) -> None:
        if self.force:
            return
        known, steps = self.schedule, len(facts.sigmas) - 1
        name = f"schedule {self.file!r}" if self.file else "schedule"
        if len(known.actions) != steps and not self.other_grid:
            raise ValueError(f"{name} is of {len(known.actions)} steps and this run takes {steps}: learn one for "
                             f"{steps} steps, or set other_grid to spread it over them")
        if not self.other_grid and any(abs(a - b) > SAME for a, b in zip(known.sigmas, facts.sigmas, strict=True)):
            raise ValueError(f"{name} is of another grid of {steps} noise levels (the shift differs): learn one for "
                             "this grid, or set other_grid to take it all the same")
        if not facts.same_network(known.fingerprint):
            raise ValueError(f"{name} is of another network: learn one with this network")
        if known.predictor != facts.predictor:
            raise ValueError(f"{name} is of the predictor {known.predictor} and this run uses {facts.predictor}: use "
                             "the same, or learn one again")
        if not set(facts.streams) <= set(known.streams):
            raise ValueError(f"{name} is of the streams {', '.join(known.streams)} and this run has "
                             f"{', '.join(facts.streams)}: learn one with this guidance")

    def decide(self, state: Any, info: StepInfo, signal: Tensor | None) -> Decision:
        if self.force:
            return Decision(Kind.COMPUTE, "off")
        actions = spread(self.schedule.actions, info.steps) if self.other_grid else self.schedule.actions
        action = actions[info.step] if info.step < len(actions) else FULL
        if action == FULL or action == FIRST and info.source is None:
            return Decision(Kind.COMPUTE, "scheduled")
        if info.source is not None and self.schedule.derives:
            return Decision(Kind.DERIVE, "scheduled", source_stream=info.source)
        return Decision(Kind.REUSE, "scheduled") if action == SKIP else Decision(Kind.COMPUTE, "scheduled")
