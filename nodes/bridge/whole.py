"""A policy under a sampler that steps the whole video: the video is one chunk, and nothing is cached but the policy's.

The sampler decides when the network is called. A step is known by its noise level, so samplers that call the network
several times a step are served too.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...flowcache_core.deciding import Deciding
from ...flowcache_core.fingerprint import fingerprint, same_network
from ...flowcache_core.lanes import Lane, Lanes
from ...flowcache_core.outcomes import tell
from ...flowcache_core.pass_hooks import PassHooks
from ...flowcache_core.plan import ChunkPlan, dense
from ...flowcache_core.plan.chunk_plan import Pass
from ...flowcache_core.reuse.contract import Decision, RunFacts
from ...flowcache_core.reuse.predictors import Span
from ...flowcache_core.run_settings import RunSettings
from ...flowcache_core.signal_source import SignalSource
from ...flowcache_core.solvers import flow_table
from ...flowcache_core.trace import LaneRecord, PassRecord, Trace
from .backbone import ComfyBackbone
from .guidance import HostGuidance, needs_negative, roles
from .model_hooks import KEY
from .summary import sentence
from .template import Template

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Levels:
    """Noise level by step, of the steps that are known; timestep of every step."""

    sigmas: dict[int, float]
    timesteps: tuple[float, ...]


@dataclass
class _Evaluation:
    """The video as the core's parts look at it, at one call of the guider."""

    plan: ChunkPlan
    settings: RunSettings
    latents: Tensor
    levels: _Levels
    solver_states: dict[int, Any] = field(default_factory=dict)

    def chunk(self, chunk: int) -> Tensor:
        return self.latents

    def table(self, chunk: int) -> _Levels:
        return self.levels

    def timesteps(self, p: Pass) -> list[float]:
        return [self.levels.timesteps[step] for step in p.steps]


class WholeVideo:
    """One run. levels: the sampler's noise levels; shape: of the latent."""

    def __init__(self, guider: Any, options: dict[str, Any], template: Template, levels: Tensor,
                 shape: torch.Size) -> None:
        self._template = template
        self._levels = [float(level) for level in levels]
        names = tuple(name for name in roles(guider.conds).values()
                      if not name.startswith("uncond#") or needs_negative(guider, options))
        steps = max(1, len(self._levels) - 1)
        # The table only counts the steps: the sampler has its own.
        self._settings = RunSettings(flow_table(steps, 1.0), *shape[-2:], items=shape[0], policy=template.policy,
                                     guidance=HostGuidance(names, getattr(guider, "cfg", 1.0)),
                                     predictor=template.predictor, reuse_from=template.reuse_from,
                                     reuse_until=template.reuse_until)
        self._plan = dense(shape[2], shape[2], steps)
        self._backbone = ComfyBackbone(guider, options, 0, [], alone=True)
        template.policy.check(1)
        self._lanes = Lanes(template.policy, template.predictor)
        self._ended: Callable[[Tensor], None] | None = None
        add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, self._predict_noise, options["transformer_options"])
        self.trace = Trace(self._settings.describe(), {"name": "whole video", "num_steps": steps, "rows": steps,
                                                       "chunks": [[0, shape[2]]]})
        if template.predictor.corrects:
            self.trace.notes.append(f"predictor {template.predictor.name}: this sampler moves the video itself, so "
                                    "what skipped steps have missed is not made up for; the Chunked AR Sampler does")

    def _check(self) -> None:
        """Once the model is loaded, for policies that ask which it is."""
        policy, predictor = self._template.policy, self._template.predictor
        policy.check_run(RunFacts(1, tuple(self._levels), self._backbone.sizes.layers, self._settings.streams,
                                  predictor.name, predictor.stage,
                                  lambda known: same_network(known, fingerprint(self._backbone))))

    def report(self) -> None:
        """A line in the log."""
        if self.trace.passes:
            logger.info("FlowCache: whole video as one chunk, %s", sentence(self.trace))
        else:
            logger.warning("FlowCache: policy %s had no effect: this sampler never asked the guider for a step",
                           self._template.policy.name)

    def close(self) -> None:
        self._ended = None
        self._lanes.close()
        self._backbone.close()

    def _step(self, sigma: float) -> int:
        """The step of the schedule in which this noise level falls."""
        reached = [n for n, level in enumerate(self._levels[:-1]) if level >= sigma * (1 - 1e-6)]
        return reached[-1] if reached else 0

    def _predict_noise(self, executor: Callable, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        begin, sigma = time.perf_counter(), float(timestep.flatten()[0])
        if not self.trace.passes:
            self._check()
        if self._ended is not None:
            self._ended(x)
        step = self._step(sigma)
        following = self._levels[step + 1] if step + 1 < len(self._levels) else 0.0
        p, span = Pass((0,), steps=(step,)), Span(sigma, following)
        video, deciding = self._deciding(x, step, span, timestep)
        deciding.begin_row(step)
        decisions = deciding.decide(step, p)
        hooks = PassHooks(self._plan, p, [(s, i) for s in self._settings.streams for i in range(x.shape[0])], decisions,
                          self._lanes, None, self._backbone.sizes.layers, self._settings, {0: span})
        with self._backbone.forwarding(hooks, x.shape[0]) as forwarded:
            clean = executor(x, timestep, *args, **kwargs)
        self._learn(p, deciding, decisions, video, forwarded.velocities, (x - clean) / sigma if sigma else x)
        self._record(p, decisions, hooks, deciding, time.perf_counter() - begin)
        return clean

    def _deciding(self, x: Tensor, step: int, span: Span, timestep: Tensor) -> tuple[_Evaluation, Deciding]:
        asked = timestep.new_tensor(self._levels[:-1] or [span.sigma])
        asked[step] = timestep.flatten()[0]   # a sampler may ask between two of its levels
        told = self._backbone.model.model_sampling.timestep(asked)
        levels = _Levels({step: span.sigma, step + 1: span.sigma_next}, tuple(told.tolist()))
        video = _Evaluation(self._plan, self._settings, x, levels)
        signals = SignalSource(self._template.policy.signal, self._backbone, video, self._lanes)
        return video, Deciding(self._lanes, video, signals, self._backbone.sizes.tokens_per_frame(*x.shape[-2:]), 1)

    def _learn(self, p: Pass, deciding: Deciding, decisions: dict[Lane, Decision], video: _Evaluation,
               velocities: dict[tuple[str, int], Tensor], guided: Tensor) -> None:
        """Tells the policy what came of the step, once the sampler has taken it: at its next call."""
        policy = self._template.policy
        self._lanes.note_differences(self._settings.streams[0])
        if policy.signal == "guided_velocity":
            self._lanes.last.update({lane: guided[lane.item].clone() for lane in decisions})
        if policy.learns:
            infos, items = deciding.infos(p.steps[0], p), range(guided.shape[0])
            made = {s: torch.stack([velocities[s, i] if (s, i) in velocities else guided[i] for i in items])
                    for s in self._settings.streams}

            def ended(x: Tensor) -> None:
                video.latents = x
                tell(self._lanes, video, p, infos, decisions, made, {0: guided})
                self._lanes.end_pass()

            self._ended = ended
        else:
            self._lanes.end_pass()

    def _record(self, p: Pass, decisions: dict[Lane, Decision], hooks: PassHooks, deciding: Deciding,
                seconds: float) -> None:
        layers, step = self._backbone.sizes.layers, p.steps[0]
        lanes = tuple(LaneRecord(lane.chunk, step, lane.stream, lane.item, d.kind.value, d.reason, d.distance, d.value,
                                 d.limit, d.share(deciding.tokens(lane.chunk), layers))
                      for lane, d in decisions.items())
        self.trace.passes.append(PassRecord(step, p.kind, p.chunks, p.steps, seconds, hooks.watch.hooks,
                                            hooks.computed_rows, 0, 0, lanes))
