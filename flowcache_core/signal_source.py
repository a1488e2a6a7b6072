"""The signal that a run's policy looks at, for the chunks of one pass."""

from collections.abc import Callable

import torch
from torch import Tensor

from .backbones.backbone import Backbone
from .lanes import Lane, Lanes
from .latent_video import LatentVideo
from .plan.chunk_plan import Pass
from .reuse.contract import SignalKind
from .reuse.signals import relative_l1


class SignalSource:
    """Asks the backbone, once a table where the signal depends on time alone, else once a chunk and pass."""

    def __init__(self, kind: SignalKind, backbone: Backbone, video: LatentVideo, lanes: Lanes) -> None:
        self.kind, self._backbone, self._video, self._lanes = kind, backbone, video, lanes
        self._by_time: dict[float, Tensor] = {}
        self._known: dict[int, Tensor] = {}   # the same, by identity
        self._distances: dict[tuple[int, int, float], float] = {}

    def of(self, p: Pass) -> Callable[[Lane], Tensor | None]:
        """The signal of each lane of a denoising pass."""
        if self.kind == "time_modulation":
            steps = dict(p.moves)
            return lambda lane: self._time_modulation(self._video.table(lane.chunk).timesteps, steps[lane.chunk])
        if self.kind in ("patch_embedding", "history"):
            back = 1 if self.kind == "history" else 0
            tokens = {c: self._backbone.patch_tokens(self._video.chunk(c - back)) for c, _ in p.moves
                      if not back or c - back in self._video.solver_states}
            return lambda lane: tokens[lane.chunk][lane.item] if lane.chunk in tokens else None
        if self.kind == "latent":
            return lambda lane: self._video.chunk(lane.chunk)[lane.item].clone()
        return self._lanes.last.get

    def _time_modulation(self, timesteps: tuple[float, ...], step: int) -> Tensor:
        """All steps of a table are asked for at once, as `foresee` does, so that what it foresees is what happens."""
        if timesteps[step] not in self._by_time:
            at = torch.tensor([timesteps], device=self._backbone.device)
            self._by_time.update(zip(timesteps, self._backbone.time_modulation(at)[0].split(1), strict=True))
            self._known = {id(signal): signal for signal in self._by_time.values()}
        return self._by_time[timesteps[step]]

    def measure(self, now: Tensor, before: Tensor, eps: float = 0.0) -> float:
        """`relative_l1`; between the signals of two timesteps it is taken once a run, since every chunk asks for it."""
        if self._known.get(id(now)) is not now or self._known.get(id(before)) is not before:
            return relative_l1(now, before, eps)
        place = id(now), id(before), eps
        if place not in self._distances:
            self._distances[place] = relative_l1(now, before, eps)
        return self._distances[place]

    def close(self) -> None:
        for table in (self._by_time, self._known, self._distances):
            table.clear()
