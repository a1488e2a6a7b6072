"""The latents of one run as they are denoised, chunk by chunk, with the solver state of each chunk."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .backbones.backbone import Backbone
from .plan.chunk_plan import ChunkPlan, Pass
from .run_settings import RunSettings
from .solvers.noise import GIVEN
from .solvers.sigmas import SigmaTable


@dataclass(frozen=True)
class Given:
    """Latents `(1 or items, C, n, h, w)` that no step touches. prefix: of the plan's prefix chunks; end: of its end
    frame; held: single frames of chunks that are denoised, by their number in the plan."""

    prefix: Tensor | None = None
    end: Tensor | None = None
    held: Mapping[int, Tensor] = field(default_factory=dict)


class LatentVideo:
    """latents: `(items, C, F, h, w)`, fp32, noise at first, end frame included. Chunks are views of it."""

    def __init__(self, plan: ChunkPlan, settings: RunSettings, backbone: Backbone, given: Given) -> None:
        self.plan, self.settings = plan, settings
        self.solver_states: dict[int, Any] = {}
        own = plan.chunks[:len(plan.chunks) - plan.end_chunks]
        shape = (settings.items, backbone.sizes.channels, plan.frames, settings.height, settings.width)
        numbered = [replace(c, index=c.index + settings.first_chunk) for c in own]
        noise = settings.noise_rule.initial(settings.seed, shape, numbered)
        self.latents = torch.cat([noise, noise[:, :, :plan.chunks[-1].stop - plan.frames]], 2).to(backbone.device)
        self._held: dict[int, list[int]] = {}   # by chunk, frames within it
        self._place("prefix", given.prefix, 0, plan.chunks[plan.prefix_chunks - 1].stop if plan.prefix_chunks else 0)
        self._place("end frame", given.end, plan.frames, plan.chunks[-1].stop)
        for frame, latent in given.held.items():
            self._hold(frame, latent)

    @property
    def result(self) -> Tensor:
        """The latents of the video, without an end frame."""
        return self.latents[:, :, :self.plan.frames] if self.plan.end_chunks else self.latents

    def _place(self, name: str, given: Tensor | None, start: int, stop: int) -> None:
        frames = 0 if given is None else given.shape[2]
        if frames != stop - start:
            raise ValueError(f"{name} of {frames} latent frames: the plan has {stop - start}")
        if given is None:
            return
        target = self.latents[:, :, start:stop]
        if given.shape[0] not in (1, target.shape[0]) or given.shape[1:] != target.shape[1:]:
            raise ValueError(f"{name} {tuple(given.shape)}: expected {tuple(target.shape)}")
        target.copy_(given)

    def _hold(self, frame: int, latent: Tensor) -> None:
        chunk = next((c for c in self.plan.chunks if c.start <= frame < c.stop and self.plan.steps_of(c.index)), None)
        if chunk is None:
            raise ValueError(f"held frame {frame}: no chunk of the plan denoises a frame of that number")
        self._place(f"held frame {frame}", latent, frame, frame + 1)
        self._held.setdefault(chunk.index, []).append(frame - chunk.start)

    def export_state(self, row: int) -> dict[str, Any]:
        """Latents (views) and solver states of the chunks that are in flight before `row`. Chunks that wait are noise,
        which the seed gives again; finished ones are the caller's to keep."""
        begun = {c for passes in self.plan.rows[:row] for p in passes if p.kind == "denoise" for c, _ in p.moves}
        ahead = {c for passes in self.plan.rows[row:] for p in passes if p.kind == "denoise" for c, _ in p.moves}
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

    def inputs(self, p: Pass, row: int = 0) -> tuple[Tensor, list[float]]:
        """What a pass of a row forwards: latents `(items, C, f, h, w)` of its chunks, a timestep for every frame."""
        shown = [self._shown(c, t, row) for c, t in zip(p.chunks, self.timesteps(p), strict=True)]
        latent = torch.cat([x for x, _ in shown], dim=2) if p.joint else shown[0][0]
        return latent, [t for _, times in shown for t in times]

    def _shown(self, chunk: int, timestep: float, row: int) -> tuple[Tensor, list[float]]:
        """A chunk as the network sees it: given frames with their own noise and timestep."""
        x, level = self.chunk(chunk), self.settings.given_noise
        frames = list(range(x.shape[2])) if chunk < self.plan.prefix_chunks else self._held.get(chunk, [])
        times = [timestep] * x.shape[2]
        for frame in self._held.get(chunk, []):
            times[frame] = level or 0.0
        if not frames or not level:
            return x, times
        x, share, shape = x.clone(), level / 1000, (*x.shape[:2], len(frames), *x.shape[3:])
        place = (chunk + self.settings.first_chunk, GIVEN - row)
        noise = self.settings.noise_rule.fresh(self.settings.seed, shape, *place).to(x.device)
        x[:, :, frames] = x[:, :, frames] * (1 - share) + noise * share
        return x, times

    def timesteps(self, p: Pass) -> list[float]:
        """What the network is told of the noise of every chunk of the pass."""
        return [self._timestep(p, chunk, p.steps[n] if p.steps else None) for n, chunk in enumerate(p.chunks)]

    def _timestep(self, p: Pass, chunk: int, step: int | None) -> float:
        if chunk >= len(self.plan.chunks) - self.plan.end_chunks:
            return 0.0
        if chunk < self.plan.prefix_chunks and self.settings.given_noise is not None:
            return self.settings.given_noise
        if step is None or chunk < self.plan.prefix_chunks:
            return self.settings.context_timestep
        if chunk in p.still:
            return self.table(chunk).timesteps[0] if step < 0 else 0.0
        return self.table(chunk).timesteps[step]

    def step(self, p: Pass, velocities: dict[str, Tensor], clean: Tensor | None = None) -> dict[int, Tensor]:
        """Guides, and moves every chunk of the pass one step on; returns the guided velocities, fp32, by chunk. clean:
        the guided estimate of the clean chunks, where a host has guided."""
        begin, guided = 0, {}
        for chunk, step, timestep in zip(p.chunks, p.steps, self.timesteps(p), strict=True):
            stop = begin + self.plan.chunks[chunk].frames
            if chunk not in p.still:
                own = {stream: velocity[:, :, begin:stop] for stream, velocity in velocities.items()}
                estimate = None if clean is None else clean[:, :, begin:stop].float()
                guided[chunk] = (self.settings.guide.combine(own, timestep).float() if estimate is None else
                                 (self.chunk(chunk) - estimate) / self.table(chunk).sigmas[step])
                self._step_chunk(chunk, step, guided[chunk], estimate)
            begin = stop
        return guided

    def move(self, chunk: int, by: Tensor) -> None:
        """Moves a chunk's latent by `by (items, C, f, h, w)`, but for given frames, and what its solver knows of it."""
        held = self._held.get(chunk)
        if held is not None:
            by = by.clone()
            by[:, :, held] = 0
        self.chunk(chunk).add_(by)
        if chunk in self.solver_states:
            self.solver_states[chunk] = self.settings.solver.moved(self.solver_states[chunk], by)

    def _step_chunk(self, chunk: int, step: int, velocity: Tensor, clean: Tensor | None) -> None:
        s, x, noise = self.settings, self.chunk(chunk), None
        if s.solver.needs_noise:
            noise = s.noise_rule.fresh(s.seed, tuple(x.shape), chunk + s.first_chunk, step).to(x.device)
        state = self.solver_states[chunk] if chunk in self.solver_states else s.solver.new_state()
        # A clone: the state keeps the sample, and the view is overwritten below.
        solve, value = (s.solver.step, velocity) if clean is None else (s.solver.step_clean, clean)
        moved, state = solve(state, x.clone(), value, step, self.table(chunk), noise)
        self.solver_states[chunk] = state
        held = self._held.get(chunk)
        if held is None:
            x.copy_(moved)
        else:
            free = [frame for frame in range(x.shape[2]) if frame not in held]
            x[:, :, free] = moved[:, :, free]
