"""Learns which steps to compute: an uncached run's velocities, the error that every gap between computed steps would
make, and the cheapest path through them (after DPCache, *Denoising as Path Planning*, arXiv 2602.22654).

Errors are measured where they count, in the latent: a gap errs by the sum over its steps of step length times wrong
velocity, added up with its sign, after guidance. Everything is linear in the recorded velocities, so their inner
products are all that is kept of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .reuse.contract import Decision, Kind, Outcome, ReusePolicy, StepInfo
from .reuse.taylor import FirstOrder

SAMPLE = 8192      # numbers of a chunk's velocity that are recorded
PREDICTORS = ("velocity", "taylor", "taylor_corrected")   # the last is planned as taylor and improved by real runs


@dataclass(frozen=True)
class Recorder(ReusePolicy):
    """Computes every step and leaves a sample of every velocity in `seen`, by (video, chunk, item), stream and step."""

    name: ClassVar[str] = "recorder"
    learns: ClassVar[bool] = True

    seen: dict[tuple[int, int, int], dict[str, dict[int, Tensor]]] = field(default_factory=dict)
    video: int = 0

    def decide(self, state: Any, info: StepInfo, signal: Tensor | None) -> Decision:
        return Decision(Kind.COMPUTE, "recorded")

    def learn(self, state: Any, info: StepInfo, decision: Decision, outcome: Outcome) -> Any:
        flat = outcome.velocity.flatten()
        steps = self.seen.setdefault((self.video, info.chunk, info.item), {}).setdefault(info.stream, {})
        steps[info.step] = flat[::max(1, flat.numel() // SAMPLE)].float().cpu().clone()
        return state


@dataclass(frozen=True)
class OneSkip(ReusePolicy):
    """Skips one step of every chunk: to see what an error made there has become at the end."""

    name: ClassVar[str] = "one_skip"
    at: int = 1

    def decide(self, state: Any, info: StepInfo, signal: Tensor | None) -> Decision:
        return Decision(Kind.REUSE if info.step == self.at else Kind.COMPUTE, "one skip")


@dataclass(frozen=True)
class Errors:
    """What gaps cost. gram: inner products `(2 S, 2 S)`, mean over numbers, items and chunks, of the first stream's
    velocities at every step and of the differences that guidance adds, `(scale - 1) * (first - other)`; steps:
    lengths `sigma_next - sigma`; sigmas: noise levels; reach: of a first-order predictor, 0 for a repetition; gains:
    what a unit of error made at a step has become at the end; streams: how many."""

    gram: np.ndarray
    sigmas: tuple[float, ...]
    reach: float
    gains: np.ndarray
    streams: int

    @property
    def count(self) -> int:
        return len(self.sigmas) - 1

    def _length(self, step: int) -> float:
        return self.sigmas[step + 1] - self.sigmas[step]

    def guess(self, before: int, last: int, step: int) -> np.ndarray:
        """Weights of the recorded steps `(S,)` in what the predictor says at `step`, less the truth there."""
        ahead = 0.0
        if before != last and self.sigmas[last] != self.sigmas[before]:
            ahead = (self.sigmas[step] - self.sigmas[last]) / (self.sigmas[last] - self.sigmas[before])
            ahead = min(max(ahead, 0.0), self.reach)
        weights = np.zeros(self.count)
        weights[last] += 1 + ahead
        weights[before] -= ahead
        weights[step] -= 1
        return weights

    def gap(self, before: int, last: int, whole: int, stop: int, derives: bool) -> float:
        """Error of skipping the steps between the computed `last` and `stop`. before: the computed step before `last`;
        whole: the last one with all streams; derives: whether the others are derived from the first, or predicted."""
        weights = np.zeros(2 * self.count)
        for step in range(last + 1, stop):
            guess, other = self.guess(before, last, step), np.zeros(self.count)
            if derives:
                other[whole] += 1
                other[step] -= 1
            else:
                other = guess
            weights += self._length(step) * np.concatenate([guess, other])
        return self._size(weights) * self.gains[stop - 1] if stop > last + 1 else 0.0

    def derived(self, whole: int, step: int) -> float:
        """Error of deriving the other streams at `step` by the difference of the step `whole`."""
        weights = np.zeros(2 * self.count)
        weights[self.count + whole] += self._length(step)
        weights[self.count + step] -= self._length(step)
        return self._size(weights) * self.gains[step]

    def _size(self, weights: np.ndarray) -> float:
        used = weights.nonzero()[0]
        part = weights[used]
        return float(max(part @ self.gram[np.ix_(used, used)] @ part, 0.0) ** 0.5)


def gram_of(seen: Mapping[tuple[int, int, int], Mapping[str, Mapping[int, Tensor]]], streams: Sequence[str],
            scale: float) -> np.ndarray:
    """Inner products of what a `Recorder` saw; see `Errors`."""
    total, lanes = None, 0
    for by_stream in seen.values():
        first, *others = (torch.stack([by_stream[s][step] for step in sorted(by_stream[s])]).double() for s in streams)
        extra = sum(((scale - 1) * (first - other) for other in others), torch.zeros_like(first))
        basis = torch.cat([first, extra])
        product = (basis @ basis.T / basis.shape[1]).numpy()
        total, lanes = product if total is None else total + product, lanes + 1
    return total / lanes


def gains_of(probes: Mapping[int, float], errors: Errors) -> np.ndarray:
    """Gains of every step, from the final error (root mean square of the latent) after one skip at some steps;
    interpolated in the logarithm."""
    places = sorted(probes)
    logs = [np.log(max(probes[at], 1e-12) / max(errors.gap(at - 1, at - 1, at - 1, at + 1, False), 1e-12))
            for at in places]
    return np.exp(np.interp(np.arange(errors.count), places, logs))


def probed_steps(count: int, probes: int) -> list[int]:
    """Evenly spread steps that can be skipped alone."""
    return sorted({int(round(at)) for at in np.linspace(1, count - 2, probes)}) if count > 2 else []


def reach_of(predictor: Any) -> float:
    """Raises ValueError for a predictor whose values cannot be foreseen from velocities."""
    if predictor.name not in PREDICTORS:
        raise ValueError(f"predictor {predictor.name}: schedules are learned from velocities; use one of "
                         f"{', '.join(PREDICTORS)}")
    return predictor.reach if isinstance(predictor, FirstOrder) else 0.0


Run = Callable[[ReusePolicy, int], Tensor]
"""`run(policy, video)`: final latents of a run that computes all but what the policy skips, with the predictor
`velocity`; always the same otherwise."""


def learn_errors(run: Run, videos: int, sigmas: Sequence[float], streams: Sequence[str], scale: float, predictor: Any,
                 probes: int = 0) -> Errors:
    """probes: how many steps are skipped alone to see what becomes of an error; 0 takes all errors for equal."""
    reach, seen, count = reach_of(predictor), {}, len(sigmas) - 1
    truth = [run(Recorder(seen, video), video) for video in range(videos)]
    gram = gram_of(seen, streams, scale)
    errors = Errors(gram, tuple(sigmas), reach, np.ones(count), len(streams))
    if not probes:
        return errors
    plain = Errors(gram, tuple(sigmas), 0.0, np.ones(count), len(streams))
    found = {at: float(np.mean([float((run(OneSkip(at), video) - truth[video]).square().mean())
                                for video in range(videos)]) ** 0.5) for at in probed_steps(count, probes)}
    gains = gains_of(found, plain) if found else np.ones(count)
    return Errors(gram, tuple(sigmas), reach, gains, len(streams))


@dataclass(frozen=True)
class Trial:
    """Real runs of schedules on the videos that were learned from: the root mean square error of the final latents.

    run: as in `learn_errors`, with the predictor of the schedules."""

    run: Run
    truth: Sequence[Tensor]
    make: Callable[[str], ReusePolicy]

    def __call__(self, actions: str) -> float:
        errors = [float((self.run(self.make(actions), video) - truth).square().mean())
                  for video, truth in enumerate(self.truth)]
        return float(np.mean(errors)) ** 0.5
