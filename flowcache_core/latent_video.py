"""The latents of one run as they are denoised, chunk by chunk, with the solver state of each chunk."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .backbones.backbone import Backbone
from .plan.chunk_plan import ChunkPlan, Pass
from .run_settings import RunSettings
from .solvers.sigmas import SigmaTable


class LatentVideo:
    """latents: `(items, C, F, h, w)`, fp32, noise at first. Chunks are views of it."""

    def __init__(self, plan: ChunkPlan, settings: RunSettings, backbone: Backbone, prefix: Tensor | None) -> None:
        self.plan, self.settings = plan, settings
        self.solver_states: dict[int, Any] = {}
        shape = (settings.items, backbone.sizes.channels, plan.frames, settings.height, settings.width)
        self.latents = settings.noise_rule.initial(settings.seed, shape, plan.chunks).to(backbone.device)
        self._place(prefix)

    def _place(self, prefix: Tensor | None) -> None:
        expected = self.plan.chunks[self.plan.prefix_chunks - 1].stop if self.plan.prefix_chunks else 0
        given = 0 if prefix is None else prefix.shape[2]
        if given != expected:
            raise ValueError(f"prefix of {given} latent frames: the plan has {expected}")
        if prefix is None:
            return
        target = self.latents[:, :, :given]
        if prefix.shape[0] not in (1, target.shape[0]) or prefix.shape[1:] != target.shape[1:]:
            raise ValueError(f"prefix {tuple(prefix.shape)}: expected {tuple(target.shape)}")
        target.copy_(prefix)

    def export_state(self, row: int) -> dict[str, Any]:
        """Latents (views) and solver states of the chunks that are in flight before `row`. Chunks that wait are noise,
        which the seed gives again; finished ones are the caller's to keep."""
        begun = {c for passes in self.plan.rows[:row] for p in passes if p.kind == "denoise" for c in p.chunks}
        ahead = {c for passes in self.plan.rows[row:] for p in passes if p.kind == "denoise" for c in p.chunks}
        return {"latents": {c: self.chunk(c) for c in sorted(begun & ahead)}, "solver": dict(self.solver_states)}

    def restore(self, state: dict[str, Any], finished: Mapping[int, Tensor]) -> None:
        """Raises ValueError for a latent of another shape."""
        for chunk, latent in {**finished, **state["latents"]}.items():
            target = self.chunk(chunk)
            if latent.shape != target.shape:
                raise ValueError(f"latent {tuple(latent.shape)} of chunk {chunk}: expected {tuple(target.shape)}")
            target.copy_(latent)
        self.solver_states = dict(state["solver"])

    def chunk(self, chunk: int) -> Tensor:
        """The chunk's latents, a view `(items, C, f, h, w)`."""
        span = self.plan.chunks[chunk]
        return self.latents[:, :, span.start:span.stop]

    def table(self, chunk: int) -> SigmaTable:
        first = self.plan.first_steps is not None and chunk == 0
        return self.settings.first_table if first else self.settings.table

    def inputs(self, p: Pass) -> tuple[Tensor, list[float]]:
        """What a pass forwards: latents `(items, C, f, h, w)` of its chunks, and a timestep for every frame."""
        latent = torch.cat([self.chunk(c) for c in p.chunks], dim=2) if p.joint else self.chunk(p.chunks[0])
        levels = self.timesteps(p)
        return latent, [t for c, t in zip(p.chunks, levels, strict=True) for _ in range(self.plan.chunks[c].frames)]

    def timesteps(self, p: Pass) -> list[float]:
        """What the network is told of the noise of every chunk of the pass."""
        if not p.steps:
            return [self.settings.context_timestep] * len(p.chunks)
        return [self.table(c).timesteps[s] for c, s in zip(p.chunks, p.steps, strict=True)]

    def step(self, p: Pass, velocities: dict[str, Tensor]) -> None:
        """Guides, and moves every chunk of the pass one step on."""
        begin = 0
        for chunk, step, timestep in zip(p.chunks, p.steps, self.timesteps(p), strict=True):
            stop = begin + self.plan.chunks[chunk].frames
            own = {stream: velocity[:, :, begin:stop] for stream, velocity in velocities.items()}
            self._step_chunk(chunk, step, self.settings.guide.combine(own, timestep).float())
            begin = stop

    def _step_chunk(self, chunk: int, step: int, velocity: Tensor) -> None:
        s, x, noise = self.settings, self.chunk(chunk), None
        if s.solver.needs_noise:
            noise = s.noise_rule.fresh(s.seed, tuple(x.shape), chunk, step).to(x.device)
        state = self.solver_states[chunk] if chunk in self.solver_states else s.solver.new_state()
        # A clone: the state keeps the sample, and the view is overwritten below.
        moved, state = s.solver.step(state, x.clone(), velocity, step, self.table(chunk), noise)
        self.solver_states[chunk] = state
        x.copy_(moved)
