"""The signal that a run's policy looks at, for the chunks of one pass."""

from collections.abc import Callable

import torch
from torch import Tensor

from .backbones.backbone import Backbone
from .lanes import Lane, Lanes
from .latent_video import LatentVideo
from .plan.chunk_plan import Pass
from .reuse.contract import SignalKind


class SignalSource:
    """Asks the backbone, once a table where the signal depends on time alone, else once a chunk and pass."""

    def __init__(self, kind: SignalKind, backbone: Backbone, video: LatentVideo, lanes: Lanes) -> None:
        self.kind, self._backbone, self._video, self._lanes = kind, backbone, video, lanes
        self._by_time: dict[float, Tensor] = {}

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
        return self._by_time[timesteps[step]]

    def close(self) -> None:
        self._by_time.clear()
