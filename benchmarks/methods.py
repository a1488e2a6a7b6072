"""What is compared: methods with their settings, as data."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Bundle, generation, request, run_batch, scenes
from flowcache_core.calibrating import MagnitudeRecorder
from flowcache_core.fingerprint import fingerprint
from flowcache_core.kv import MERGERS, SCORERS, Compression, KVBudget
from flowcache_core.learning import Errors, Trial, learn_errors, reach_of
from flowcache_core.profiles import load_preset
from flowcache_core.reuse import POLICIES, PREDICTORS
from flowcache_core.reuse.schedules import Schedule
from flowcache_core.scheduling import Planner, even, refined

LEARN_CHUNKS, LEARN_VIDEOS, LEARN_SEED = 4, 4, 91
REAL_RUNS = 12
SHARES = (0.2, 0.12)   # of stream steps, for learned schedules
BELOW = (("0: 0.12, 1+: 0.25", 0.5), ("0: 0.12, 1+: 0.45", 0.5), ("0: 0.2, 1+: 0.5", 0.5), ("0: 0.5, 1+: 0.5", 0.25),
         ("0: 0.5, 1+: 0.8", 0.5), ("0: 0.8, 1+: 0.8", 0.5))
"""Thresholds and lengths of a line for fewer steps than the presets compute, and no last step for its own sake."""
FIRST_STEPS = 1   # of a learned schedule, computed whole


@dataclass(frozen=True)
class Method:
    """name: of the method; setting: in words; build(bundle, steps): changes to the request of an uncached run."""

    name: str
    setting: str
    build: Callable[[Bundle, int], dict[str, Any]] = field(repr=False)

    @property
    def key(self) -> str:
        """A file name."""
        return re.sub(r"[^A-Za-z0-9._]+", "-", f"{self.name} {self.setting}".strip()).strip("-")


BASELINE = Method("baseline", "", lambda bundle, steps: {})


def reuse(name: str, setting: str, policy: str, words: dict[str, Any], predictor: str = "velocity",
          **told: Any) -> Method:
    """words: settings of the policy; told: of the predictor."""
    return Method(name, setting, lambda bundle, steps: {"policy": POLICIES.make(policy, words),
                                                        "predictor": PREDICTORS.make(predictor, told)})


class Learned:
    """Errors learned once a predictor, from videos that are not compared, and schedules made from them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._plain, self._truth = folder, {}, {}

    def errors(self, bundle: Bundle, steps: int, predictor: Any) -> Errors:
        wanted = request(LEARN_CHUNKS, steps=steps)
        if steps not in self._plain:
            velocity, settings = PREDICTORS.make("velocity"), wanted.settings()

            def run(policy: Any, video: int) -> torch.Tensor:
                return self.run(bundle, steps, policy, velocity)

            self._plain[steps] = learn_errors(run, 1, settings.table.sigmas, settings.streams, settings.guide.strength,
                                              velocity)
        return replace(self._plain[steps], reach=reach_of(predictor))

    def run(self, bundle: Bundle, steps: int, policy: Any, predictor: Any) -> torch.Tensor:
        """Latents of the videos that are learned from."""
        batch = scenes(LEARN_VIDEOS, seed=LEARN_SEED, held_out=False)
        return run_batch(bundle, request(LEARN_CHUNKS, steps=steps).accelerated(policy, predictor), batch)[0]

    def truth(self, bundle: Bundle, steps: int) -> torch.Tensor:
        if steps not in self._truth:
            self._truth[steps] = self.run(bundle, steps, POLICIES.make("off"), PREDICTORS.make("velocity"))
        return self._truth[steps]

    def calibration(self, bundle: Bundle, steps: int) -> Path:
        """Of the policy magcache, as the command calibrate makes it."""
        path = self._folder / f"magnitudes-{steps}.json"
        if not path.is_file():
            wanted = request(LEARN_CHUNKS, steps=steps).accelerated(POLICIES.make("off"), PREDICTORS.make("residual"))
            run = generation(bundle, wanted, scenes(LEARN_VIDEOS, seed=LEARN_SEED, held_out=False))
            recorder = MagnitudeRecorder(run.kept, steps, "residual")
            run.run(lambda done: recorder(done.decisions, dict(done.last.moves)))
            sigmas = wanted.settings().table.sigmas[:-1]
            recorder.magnitudes(tuple(sigmas), fingerprint(bundle.backbone)).save(
                path, {"command": "python3 dev.py compare"})
        return path

    def magcache(self, threshold: float) -> Method:
        def build(bundle: Bundle, steps: int) -> dict[str, Any]:
            words = {"threshold": threshold, "calibration": str(self.calibration(bundle, steps))}
            return {"policy": POLICIES.make("magcache", words), "predictor": PREDICTORS.make("residual")}
        return Method("magcache", f"threshold {threshold:g}", build)

    def method(self, name: str, share: float, predictor: str, derives: bool, refine: bool = False) -> Method:
        def build(bundle: Bundle, steps: int) -> dict[str, Any]:
            chosen, settings = PREDICTORS.make(predictor), request(1, steps=steps).settings()
            path = self._folder / f"schedule-{predictor}-{share:g}-{derives:d}{refine:d}-{steps}.json"
            if not path.is_file():
                errors, prints = self.errors(bundle, steps, chosen), fingerprint(bundle.backbone)

                def schedule_of(actions: str, error: float = 0.0) -> Schedule:
                    return Schedule(actions, settings.table.sigmas, settings.streams, settings.guide.strength,
                                    predictor, prints, error)
                planned = Planner(errors, FIRST_STEPS, derives=derives).for_share(share)
                schedule, runs = schedule_of(planned.actions, planned.error), 0
                if refine:
                    starts = [planned.actions, even(steps, errors.streams, share, FIRST_STEPS, 1)]
                    trial = Trial(lambda policy, video: self.run(bundle, steps, policy, chosen),
                                  [self.truth(bundle, steps)],
                                  lambda actions: POLICIES["schedule"](schedule=schedule_of(actions)))
                    actions, error, runs = refined(starts, trial, REAL_RUNS, FIRST_STEPS, 1)
                    schedule = schedule_of(actions, error)
                schedule.save(path, {"command": "python3 dev.py compare", "planned": planned.actions,
                                     "real_runs": runs})
            return {"policy": POLICIES.make("schedule", {"file": str(path)}), "predictor": chosen}
        return Method(name, f"share {share:g}", build)


def fewer_steps(count: int) -> Method:
    return Method("fewer steps", f"{count} steps", lambda bundle, steps: {"steps": count})


def flowcache(name: str, thresholds: Sequence[float], predictor: str = "velocity", **words: Any) -> list[Method]:
    return [reuse(name, f"threshold {t:g}", "flowcache", {"threshold": t, **words}, predictor) for t in thresholds]


def ours_by_preset(name: str) -> Method:
    preset = load_preset("demo", name)
    return Method("ours", f"preset {name}", lambda bundle, steps: {"policy": preset.policy,
                                                                   "predictor": preset.predictor})


def step_methods(chunks: int, folder: Path) -> list[Method]:
    """Ways to skip steps, each at several strengths."""
    learned, methods = Learned(folder), [fewer_steps(count) for count in (18, 9, 6, 3, 2)]
    methods += [reuse("every_nth", f"interval {n}", "every_nth", {"interval": n}) for n in (3, 6, 16, 40)]
    methods += flowcache("flowcache", (0.07, 0.15, 0.3, 0.8))
    methods += [ours_by_preset(name) for name in ("quality", "balanced", "fast")]
    methods += [reuse("ours", f"{t}, reach {reach:g}", "flowcache",
                      {"threshold": t, "warmup_steps": 1, "last_steps": 0}, "taylor", reach=reach)
                for t, reach in BELOW]
    methods += flowcache("one threshold", (0.08, 0.12, 0.2, 0.3), "taylor_corrected", warmup_steps=1)
    methods += flowcache("warm-up 1", (0.08, 0.2), warmup_steps=1)
    methods += flowcache("warm-up 1 taylor", (0.08, 0.2), "taylor", warmup_steps=1)
    for name, thresholds in (("teacache", (0.07, 0.2, 0.4, 0.8, 5)), ("easycache", (0.03, 0.1, 0.3, 1)),
                             ("motioncache", (0.1, 0.3, 0.8))):
        methods += [reuse(name, f"threshold {t:g}", name, {"threshold": t}) for t in thresholds]
    methods += [learned.method("ours learned", share, "taylor_corrected", False, refine=True) for share in SHARES]
    methods += [learned.magcache(threshold) for threshold in (0.06, 0.24)]
    methods += flowcache("flowcache content", (0.12,), distance_signal="patch_embedding")
    methods += [reuse("mixcache", "threshold 0.4", "mixcache", {"threshold": 0.4})]
    methods += [learned.method("ours learned derived", share, "taylor_corrected", True) for share in SHARES]
    return methods


def kv(name: str, chunks: float, compression: Compression | None, sink: int = 0) -> Method:
    return Method(name, f"{chunks:g} chunks", lambda bundle, steps: {
        "budget": KVBudget(chunks, sink_chunks=sink), "compression": compression})


def kv_methods(chunks: int, folder: Path) -> list[Method]:
    """Ways to bound the cache, at a quarter and an eighth of it; what a chunk sees is bounded by the budget alone."""
    methods = []
    for size in (chunks / 4, chunks / 8):
        size = max(4.0, size)
        methods += [kv("recent only", size, None), kv("flowcache", size, Compression()),
                    kv("tempcache", size, Compression(SCORERS.make("recency"), merger=MERGERS.make("tempcache")))]
        methods.append(kv("pafu_kv", size, Compression(SCORERS.make("pafu_kv"))))
    return [*methods, kv("key_norm", max(4.0, chunks / 4), Compression(SCORERS.make("key_norm")))]
