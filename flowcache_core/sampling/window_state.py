"""A window's run state as one of the whole video, and back."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..run_state import RunState
from ..trace import PassRecord


def widened(state: RunState, window: int, first: int, begun: range, prefix: Tensor | None, made: int,
            passes: Sequence[PassRecord]) -> RunState:
    """first: the window's first chunk in the video; begun: chunks of the video that are finished and not of this run;
    prefix: latents that the window was given; made: chunks behind these that were, too; passes: of all windows."""
    return replace(state, finished=(*begun, *(c + first for c in state.finished)), passes=tuple(passes),
                   video={**state.video, "window": window, "prefix": prefix, "made": made})


def narrowed(state: RunState, first: int, given: int) -> RunState:
    """given: chunks of the window that its run does not make."""
    own = tuple(c - first for c in state.finished if c - first >= given)
    return replace(state, finished=own, passes=())
