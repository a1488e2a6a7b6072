"""Measures, over an uncached run, how the size of what a step adds changes from step to step (for MagCache)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .lanes import Lane
from .reuse.contract import Decision
from .reuse.magnitudes import PREDICTORS, Magnitudes


class MagnitudeRecorder:
    """Called after every pass of a run in which all is computed.

    kept: the run's predictor values by lane, tensors `(N, D)` or `(C, f, h, w)`; steps: of an ordinary chunk.
    """

    def __init__(self, kept: Mapping[Lane, Tensor], steps: int, predictor: str) -> None:
        if predictor not in PREDICTORS:
            raise ValueError(f"predictor {predictor!r}: sizes are calibrated for {' or '.join(PREDICTORS)}")
        self._kept, self._steps, self._predictor = kept, steps, predictor
        self._last: dict[Lane, Tensor] = {}
        self._ratios: dict[tuple[str, int], list[float]] = {}

    def __call__(self, decisions: Mapping[Lane, Decision], moves: Mapping[int, int]) -> None:
        """decisions: of the pass; moves: the step that each of its chunks took."""
        for lane in decisions:
            sizes, before = token_sizes(self._kept[lane]), self._last.get(lane)
            if before is not None:
                moved = before > 0
                ratio = float((sizes[moved] / before[moved]).mean()) if bool(moved.any()) else 1.0
                self._ratios.setdefault((lane.stream, moves[lane.chunk]), []).append(ratio)
            self._last[lane] = sizes

    def magnitudes(self, sigmas: tuple[float, ...], fingerprint: tuple[float, ...]) -> Magnitudes:
        """sigmas: noise levels of the steps. Raises ValueError where a step was never seen or a size is no number."""
        streams = dict.fromkeys(stream for stream, _ in self._ratios)
        found = {}
        for stream in streams:
            steps = [self._ratios.get((stream, step), []) for step in range(1, self._steps)]
            if not all(steps):
                raise ValueError(f"stream {stream}: a step was never computed; calibrate a run of whole chunks")
            found[stream] = (1.0, *(sum(ratios) / len(ratios) for ratios in steps))
            if not all(0 < ratio < float("inf") for ratio in found[stream]):
                raise ValueError(f"stream {stream}: a size is zero or not finite; calibrate another model")
        if not found:
            raise ValueError(f"{self._steps} step: a calibration compares steps, so it needs at least 2")
        return Magnitudes(sigmas, found, self._predictor, fingerprint)


def token_sizes(value: Tensor) -> Tensor:
    """Euclidean norms, one a token of `(N, D)` or a pixel of `(C, f, h, w)`, fp32."""
    return torch.linalg.vector_norm(value.float(), dim=1 if value.ndim == 2 else 0).flatten()
