"""Calibrations of MagCache: how the size of what a step adds changes from step to step, as a data file."""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

SCHEMA = "flowcache-magnitudes/1"
PREDICTORS = ("residual", "velocity")


@dataclass(frozen=True)
class Magnitudes:
    """sigmas: noise levels of the steps, falling; ratios: by stream, mean over tokens of the size at a step over that
    at the step before (1 at step 0); predictor: of what; fingerprint: of the network."""

    sigmas: tuple[float, ...]
    ratios: Mapping[str, tuple[float, ...]]
    predictor: str
    fingerprint: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.sigmas)

    @cached_property
    def _curves(self) -> dict[str, list[float]]:
        """Logarithms of the size at every step, relative to the first, by stream."""
        curves = {}
        for stream, ratios in self.ratios.items():
            total, curves[stream] = 0.0, []
            for ratio in ratios:
                total += math.log(ratio)
                curves[stream].append(total)
        return curves

    def size(self, stream: str, sigma: float) -> float:
        """Relative size at a noise level: the logarithm is interpolated over sigma, so any grid of steps will do."""
        curve, levels = self._curves[stream], self.sigmas
        after = bisect_left(levels, -sigma, key=lambda level: -level)
        if after in (0, self.steps):
            return math.exp(curve[min(after, self.steps - 1)])
        share = (levels[after - 1] - sigma) / (levels[after - 1] - levels[after])
        return math.exp(curve[after - 1] + share * (curve[after] - curve[after - 1]))

    def ratio(self, stream: str, before: float, now: float) -> float:
        """Size at the noise level `now` over that at `before`."""
        return self.size(stream, now) / self.size(stream, before)

    def save(self, path: Path, provenance: Mapping[str, Any]) -> None:
        data = {"schema": SCHEMA, "provenance": dict(provenance), "predictor": self.predictor,
                "fingerprint": list(self.fingerprint), "sigmas": list(self.sigmas),
                "ratios": {stream: list(ratios) for stream, ratios in self.ratios.items()}}
        path.write_text(json.dumps(data, indent=1) + "\n")


def load_magnitudes(path: str) -> Magnitudes:
    """Raises ValueError for what is no calibration."""
    hint = "make one with the command calibrate"
    try:
        data = json.loads(Path(path).read_text())
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}, expected {SCHEMA!r}")
        found = Magnitudes(_numbers(data["sigmas"]), {str(s): _numbers(r) for s, r in data["ratios"].items()},
                           str(data["predictor"]), _numbers(data["fingerprint"]))
    except OSError as error:
        raise ValueError(f"calibration {path!r} cannot be read ({error.strerror or error}); {hint}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"calibration {path!r} is none of ours ({error}); {hint}") from error
    falling = all(a > b for a, b in zip(found.sigmas, found.sigmas[1:], strict=False))
    if not found.sigmas or not falling or any(len(r) != found.steps or min(r) <= 0 for r in found.ratios.values()):
        raise ValueError(f"calibration {path!r} is damaged: expected falling sigmas and one ratio above 0 for each; "
                         f"{hint}")
    return found


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("a number is not finite")
    return numbers
