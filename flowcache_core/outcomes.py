"""What came of a pass, told to policies that learn from it: velocities, latents, and what stand-ins would have cost."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from .guidance import Guidance
from .lanes import Evidence, Lane, Lanes
from .latent_video import LatentVideo
from .plan.chunk_plan import Pass
from .reuse.contract import BlockRange, Decision, Outcome, StepInfo

Velocities = Mapping[str, Tensor]   # by stream, `(items, C, F, h, w)` of a pass


def tell(lanes: Lanes, video: LatentVideo, p: Pass, infos: Iterable[StepInfo], decisions: Mapping[Lane, Decision],
         velocities: Velocities, guided: Mapping[int, Tensor]) -> None:
    """Tells the policy what came of every lane of a denoising pass that has been stepped. guided: what the solver got,
    by chunk."""
    places = _places(p, video)
    levels = dict(zip(p.chunks, video.timesteps(p), strict=True))
    found: dict[tuple[int, int], dict[str | BlockRange, float]] = {}
    for info in infos:
        chunk, item = info.chunk, info.item
        lane, streams = Lane(chunk, info.stream, item), tuple(velocities)
        made = [decisions[Lane(chunk, s, item)] for s in streams]
        whole = all(decision.computes and decision.records for decision in made)
        if (chunk, item) not in found:
            found[chunk, item] = losses(lanes.evidence, [Lane(chunk, s, item) for s in streams], video.settings.guide,
                                        levels[chunk], guided[chunk][item]) if whole and lanes.policy.measures else {}
        start = video.plan.chunks[chunk].start
        before = video.latents[item, :, start - 1].clone() if start else None
        outcome = Outcome(velocities[info.stream][item][:, places[chunk]].clone(), guided[chunk][item].clone(),
                          video.chunk(chunk)[item].clone(), before, found[chunk, item], lanes.kept.get(lane), whole)
        lanes.learn(info, decisions[lane], outcome)


def _places(p: Pass, video: LatentVideo) -> dict[int, slice]:
    """Where in the frames of a pass its chunks lie."""
    places, begin = {}, 0
    for chunk in p.chunks:
        places[chunk] = slice(begin, begin + video.plan.chunks[chunk].frames)
        begin = places[chunk].stop
    return places


def losses(evidence: Mapping[tuple[str | BlockRange, Lane], Evidence], lanes: list[Lane], guide: Guidance,
           timestep: float, velocity: Tensor) -> dict[str | BlockRange, float]:
    """Relative L1 errors of a chunk's stand-ins after guidance, by "step", "derive" and block range.

    Guidance is linear with weights that sum to 1, so residuals and differences are combined in place of velocities:
    exact for velocities and differences, and for what lies between the blocks a measure before the head. lanes: one a
    stream, the source first; velocity: the guided one.
    """
    def guided(what: str | BlockRange, part: Callable[[Evidence], Tensor]) -> Tensor | None:
        values = {lane.stream: part(evidence[what, lane]).float() for lane in lanes if (what, lane) in evidence}
        if len(values) < len(lanes) - (what == "derive") or not values:
            return None
        zero = torch.zeros_like(next(iter(values.values())))   # the difference of the source from itself
        return guide.combine({lane.stream: values.get(lane.stream, zero) for lane in lanes}, timestep)

    found: dict[str | BlockRange, float] = {}
    for what in dict.fromkeys(what for what, _ in evidence if what != "blocks"):
        error = guided(what, lambda e: e.guess - e.truth)
        if error is not None:
            size = velocity if what == "derive" else guided("blocks" if isinstance(what, tuple) else what,
                                                            lambda e: e.truth)
            found[what] = float(error.abs().mean() / size.abs().mean())
    return found
