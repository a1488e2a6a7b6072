"""Repeats the decisions of a recorded trace: to separate what a policy decides from what its decisions do."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...registry import knob
from ..contract import POLICIES, Decision, Kind, ReusePolicy, StepInfo

Place = tuple[int, int, str, int]   # chunk, step, stream, item


@POLICIES.register("replay")
@dataclass(frozen=True)
class Replay(ReusePolicy):
    """Does at every chunk step what the trace file says was done there."""

    trace: str = knob("", None, None, "path of a trace.json written by an earlier run")
    decisions: dict[Place, Kind] = field(default_factory=dict, repr=False, compare=False,
                                         metadata={"doc": "read from the trace"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decisions:
            object.__setattr__(self, "decisions", read_decisions(self.trace))

    def decide(self, state: Any, info: StepInfo, signal: Tensor | None) -> Decision:
        place = (info.chunk, info.step, info.stream, info.item)
        if place not in self.decisions:
            raise ValueError(f"trace {self.trace!r} has no decision for chunk {info.chunk}, step {info.step}, stream "
                             f"{info.stream}, item {info.item}: replay the plan, streams and batch it was made with")
        return Decision(self.decisions[place], "replayed")

    def settings(self) -> dict[str, Any]:
        return {"trace": self.trace}


def read_decisions(path: str) -> dict[Place, Kind]:
    """The decisions of every denoising chunk step in a trace file. Raises ValueError for what is no trace."""
    try:
        data = json.loads(Path(path).read_text())
        decisions = {(lane["chunk"], lane["step"], lane["stream"], lane["item"]): Kind(lane["decision"])
                     for p in data["passes"] for lane in p["lanes"]}
    except OSError as error:
        raise ValueError(f"replay: cannot read the trace {path!r} ({error.strerror or error}); give the path of a "
                         "trace.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"replay: {path!r} is no trace of ours ({error})") from error
    if {Kind.PARTIAL, Kind.DERIVE} & set(decisions.values()):
        raise ValueError(f"replay: {path!r} holds steps that were computed in part or derived, without saying of what; "
                         "replay a trace of whole steps")
    return {place: Kind.REUSE if kind is Kind.PREDICT else kind for place, kind in decisions.items()}
