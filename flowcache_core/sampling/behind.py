"""A video of windows that goes on behind finished chunks of which only the latents are at hand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..generation import Generation, Given
from ..plan import ChunkPlan
from ..plan.rest import rest_of
from ..run_state import RunState
from .request import RunRequest

REBUILT = ("keys of {} finished chunks made again from their latents: the rest of the video is not the one that an "
           "uninterrupted run makes, bit for bit")
NEXT_WINDOW = "went on with window {} of {}, which needs nothing of the one before but its last frames"


@dataclass(frozen=True)
class Behind:
    """made: latents of the chunks that the window at hand has behind what it is given. state, before: where a finished,
    shorter video ended in this window, and its plan of it."""

    made: Sequence[Tensor]
    state: RunState | None = None
    before: ChunkPlan | None = None

    def keys(self, run: Generation, number: int, windows: int) -> list[str]:
        """Takes over the keys of `state` where they fit; what there is to say of those of `made`."""
        if not self.made:
            return [NEXT_WINDOW.format(number + 1, windows)] if number else []
        if self.state is not None and run.adopt(self.state, self.before):
            return []
        return [REBUILT.format(len(self.made))]


def behind(run: RunRequest, made: Sequence[Tensor]) -> RunRequest:
    """What is left of a window's run when so many chunks behind what it is given are finished."""
    if not made:
        return run
    prefix = [] if run.given.prefix is None else [run.given.prefix]
    given = torch.cat([part.cpu() for part in (*prefix, *made)], dim=2)
    plan = rest_of(run.plan, run.plan.prefix_chunks + len(made))
    return replace(run, plan=plan, given=Given(given, run.given.end))
