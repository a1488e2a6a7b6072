"""One run: plan x backbone x reuse x KV -> latents and trace.

A `Generation` is made when sampling starts and dropped when it ends, however it ends; nothing of it outlives it, and
nothing hangs on the model. What it decides and measures is in its `trace`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowcache_core.backbones.backbone import Backbone
from flowcache_core.kv import KVBudget, KVShape, KVStore, Residency, capacity
from flowcache_core.lanes import Lane, Lanes
from flowcache_core.pass_hooks import PassHooks, RowKey
from flowcache_core.plan.chunk_plan import ChunkPlan, Pass
from flowcache_core.reuse.contract import Decision, ReusePolicy, StepInfo
from flowcache_core.reuse.policies.off import Off
from flowcache_core.reuse.predictors import Predictor, Velocity
from flowcache_core.solvers.base import Solver
from flowcache_core.solvers.noise import NoiseRule, PerChunk
from flowcache_core.solvers.sigmas import SigmaTable
from flowcache_core.solvers.unipc import UniPC
from flowcache_core.trace import LaneRecord, PassRecord, Trace

COND, UNCOND = "cond#0", "uncond#0"


@dataclass(frozen=True)
class RunSettings:
    """What a run is asked for. height, width: of the latent; items: batch size; first_table: levels of chunk 0 where
    it takes other steps; context_timestep: what commit and prefix passes tell the network; kv_dtype: None is the
    model's; batch_streams: cond and uncond in one call or in one each."""

    table: SigmaTable
    height: int
    width: int
    items: int = 1
    seed: int = 0
    guidance: float = 1.0
    solver: Solver = field(default_factory=UniPC)
    policy: ReusePolicy = field(default_factory=Off)
    predictor: Predictor = field(default_factory=Velocity)
    budget: KVBudget = field(default_factory=KVBudget)
    noise_rule: NoiseRule = field(default_factory=PerChunk)
    first_table: SigmaTable | None = None
    context_timestep: float = 0.0
    kv_dtype: torch.dtype | None = None
    batch_streams: bool = True

    def __post_init__(self) -> None:
        if self.items < 1:
            raise ValueError(f"batch of {self.items}: expected at least 1 item")
        if not self.guidance >= 0:
            raise ValueError(f"guidance {self.guidance}: expected 0 or more (1 is off)")

    def describe(self) -> dict[str, Any]:
        """As the trace holds it."""
        return {"steps": self.table.steps, "seed": self.seed, "guidance": self.guidance, "items": self.items,
                "latent": [self.height, self.width], "solver": self.solver.name, "policy": self.policy.name,
                "policy_settings": self.policy.settings(), "predictor": self.predictor.name,
                "budget": None if self.budget.amount is None else f"{self.budget.amount:g} {self.budget.unit}",
                "sink_chunks": self.budget.sink_chunks, "recent_chunks": self.budget.recent_chunks,
                "noise_rule": self.noise_rule.name}


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or torch.equal(a, b)


@dataclass(frozen=True)
class Progress:
    """After a pass: passes done and in all, the pass, and its decisions."""

    done: int
    total: int
    last: Pass
    decisions: dict[Lane, Decision]


class Generation:
    """Runs a plan once.

    texts: for every stream the embedded prompt of every chunk, `(1 or items, L, D)` each. `cond#0` is required;
    `uncond#0` too where guidance is not 1. prefix: latents `(items, C, F, h, w)` of the plan's prefix chunks.
    """

    def __init__(self, backbone: Backbone, plan: ChunkPlan, settings: RunSettings,
                 texts: Mapping[str, Sequence[Tensor]], prefix: Tensor | None = None) -> None:
        self.backbone, self.plan, self.settings = backbone, plan, settings
        self.streams = (COND,) if settings.guidance == 1 else (COND, UNCOND)
        self._texts = {stream: self._checked_texts(stream, texts) for stream in self.streams}
        self._check_plan()
        settings.policy.check(len(plan.chunks))
        sizes = backbone.sizes
        self._tokens = sizes.tokens_per_frame(settings.height, settings.width)
        dtype = settings.kv_dtype or backbone.dtype
        shape = KVShape(sizes.layers, len(self.streams), settings.items, sizes.heads, sizes.head_dim, dtype.itemsize)
        room = capacity(plan, settings.budget, self._tokens, shape)
        chunk_tokens = max(c.frames for c in plan.chunks) * self._tokens
        self._residency = Residency(plan, settings.budget, self._tokens, settings.budget.tokens(chunk_tokens, shape))
        self._store = KVStore(shape, self.streams, room, dtype, backbone.device) if room else None
        self._lanes = Lanes(settings.policy, settings.predictor)
        self._solver_states: dict[int, Any] = {}
        self._time_signals: dict[float, Tensor] = {}
        self._closed = False
        self._latents = self._initial(prefix)
        self.trace = Trace(settings.describe(), {"name": plan.name, "num_steps": plan.num_steps,
                                                 "chunks": [[c.start, c.stop] for c in plan.chunks],
                                                 "rows": len(plan.rows)},
                           self._store.allocated_bytes if self._store else 0)

    def _checked_texts(self, stream: str, texts: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
        if stream not in texts:
            raise ValueError(f"no text for stream {stream}: guidance {self.settings.guidance} needs it (guidance 1 "
                             "needs no negative prompt)")
        given, items = list(texts[stream]), self.settings.items
        if len(given) != len(self.plan.chunks):
            raise ValueError(f"{len(given)} texts for {len(self.plan.chunks)} chunks in stream {stream}: expected one each")
        rows = next((text.shape[0] for text in given if text.shape[0] not in (1, items)), None)
        if rows is not None:
            raise ValueError(f"text of {rows} rows in stream {stream}: expected 1, or one for each of the {items} items")
        expanded = {id(text): text.expand(items, -1, -1) for text in given}
        return [expanded[id(text)] for text in given]

    def _check_plan(self) -> None:
        for count, table in ((self.plan.num_steps, self.settings.table),
                             (self.plan.first_steps, self.settings.first_table)):
            if count is not None and (table is None or table.steps != count):
                raise ValueError(f"plan of {count} steps with a table of {table and table.steps}: they must agree")
        for p in self.plan.passes():
            if p.kind in ("near_clean", "recache"):
                raise ValueError(f"plan with a {p.kind} pass: this run has no blend for it; build the plan without")
            if p.joint and not all(_same(self._texts[s][c], self._texts[s][p.chunks[0]])
                                   for s in self.streams for c in p.chunks):
                raise ValueError("prompts that differ by chunk in a plan that denoises chunks jointly: use one prompt, "
                                 "or a plan with one chunk a pass")
        for chunk, texts in enumerate(zip(*self._texts.values(), strict=True)):
            lengths = {text.shape[1] for text in texts}
            if self.settings.batch_streams and len(lengths) > 1:
                raise ValueError(f"texts of {' and '.join(map(str, sorted(lengths)))} tokens for chunk {chunk}: streams in "
                                 "one call need the same length; pad them, or switch batch_streams off")

    def _initial(self, prefix: Tensor | None) -> Tensor:
        s, channels = self.settings, self.backbone.sizes.channels
        shape = (s.items, channels, self.plan.frames, s.height, s.width)
        latents = s.noise_rule.initial(s.seed, shape, self.plan.chunks).to(self.backbone.device)
        given = self.plan.chunks[self.plan.prefix_chunks - 1].stop if self.plan.prefix_chunks else 0
        if given != (0 if prefix is None else prefix.shape[2]):
            raise ValueError(f"prefix of {0 if prefix is None else prefix.shape[2]} latent frames: the plan has {given}")
        if prefix is not None:
            if prefix.shape[0] not in (1, s.items) or prefix.shape[1:] != latents[:, :, :given].shape[1:]:
                raise ValueError(f"prefix {tuple(prefix.shape)}: expected {(s.items, channels, given, s.height, s.width)}")
            latents[:, :, :given] = prefix.to(latents)
        return latents

    def run(self, on_progress: Callable[[Progress], None] | None = None,
            on_chunk: Callable[[int, Tensor], None] | None = None) -> Tensor:
        """Latents `(items, C, F, h, w)` of the whole video, fp32.

        on_chunk(chunk, latent) is called once a chunk, when it has taken its last step. The run's caches are freed
        however it ends.
        """
        if self._closed:
            raise RuntimeError("this Generation has ended: a run runs once, make a new one")
        total, done = sum(1 for _ in self.plan.passes()), 0
        try:
            with torch.inference_mode():
                for number, row in enumerate(self.plan.rows):
                    self._release(self._residency.expire(number))
                    for p in row:
                        decisions = self._run_pass(number, p)
                        done += 1
                        if on_progress is not None:
                            on_progress(Progress(done, total, p, decisions))
                    for chunk in self._finished_in(row):
                        self._finish(chunk, on_chunk)
            return self._latents
        finally:
            self.close()

    def close(self) -> None:
        """Frees every cache of the run."""
        if self._store is not None:
            self._store.close()
        self._lanes.close()
        self._solver_states.clear()
        self._time_signals.clear()
        self._closed = True

    def _finished_in(self, row: Sequence[Pass]) -> list[int]:
        return [c for p in row if p.kind == "denoise" for c, s in zip(p.chunks, p.steps, strict=True)
                if s == self.plan.steps_of(c) - 1]

    def _finish(self, chunk: int, on_chunk: Callable[[int, Tensor], None] | None) -> None:
        self._lanes.forget(chunk)
        self._solver_states.pop(chunk, None)
        if on_chunk is not None:
            on_chunk(chunk, self._chunk(chunk))

    def _release(self, chunks: Sequence[int]) -> None:
        for chunk in chunks:
            self._store.release(chunk)

    def _chunk(self, chunk: int) -> Tensor:
        span = self.plan.chunks[chunk]
        return self._latents[:, :, span.start:span.stop]

    def _table(self, chunk: int) -> SigmaTable:
        first = self.plan.first_steps is not None and chunk == 0
        return self.settings.first_table if first else self.settings.table

    def _run_pass(self, number: int, p: Pass) -> dict[Lane, Decision]:
        begin = time.perf_counter()
        self._make_room(number, p)
        watch = time.perf_counter()
        decisions = self._decide(p) if p.kind == "denoise" else {}
        hook_seconds, calls = time.perf_counter() - watch, 0
        velocities: dict[str, list[Tensor]] = {stream: [] for stream in self.streams}
        for rows in self._row_groups():
            hooks = PassHooks(self.plan, p, rows, decisions, self._lanes, self._store, self.backbone.sizes.layers)
            velocity = self._call(p, rows, hooks)
            hook_seconds += hooks.watch.hooks
            calls += hooks.computed_rows
            for (stream, _), value in zip(rows, velocity, strict=True):
                velocities[stream].append(value)
        if p.kind == "denoise":
            self._step(p, {stream: torch.stack(values) for stream, values in velocities.items()})
        self._record(number, p, decisions, time.perf_counter() - begin, hook_seconds, calls)
        return decisions

    def _make_room(self, number: int, p: Pass) -> None:
        before = set(self._residency.resident)
        self._release(self._residency.admit(p, number))
        for chunk in p.writes:
            if chunk not in before:
                span = self.plan.chunks[chunk]
                self._store.reserve(chunk, span.frames * self._tokens, span.start * self._tokens)

    def _row_groups(self) -> list[list[RowKey]]:
        groups = [[(stream, item) for item in range(self.settings.items)] for stream in self.streams]
        return [sum(groups, [])] if self.settings.batch_streams else groups

    def _timesteps(self, p: Pass) -> list[float]:
        """One a latent frame of the pass."""
        if p.kind != "denoise":
            levels = [self.settings.context_timestep] * len(p.chunks)
        else:
            levels = [self._table(c).timesteps[s] for c, s in zip(p.chunks, p.steps, strict=True)]
        return [t for c, t in zip(p.chunks, levels, strict=True) for _ in range(self.plan.chunks[c].frames)]

    def _call(self, p: Pass, rows: Sequence[RowKey], hooks: PassHooks) -> Tensor:
        latent = torch.cat([self._chunk(c) for c in p.chunks], dim=2) if p.joint else self._chunk(p.chunks[0])
        latent = latent[[item for _, item in rows]]
        timestep = torch.tensor(self._timesteps(p), device=latent.device).expand(len(rows), -1)
        text = torch.stack([self._texts[stream][p.chunks[0]][item] for stream, item in rows])
        return self.backbone(latent, timestep, text, self.plan.frame_index(p), hooks)

    def _decide(self, p: Pass) -> dict[Lane, Decision]:
        steps = dict(zip(p.chunks, p.steps, strict=True))
        infos = []
        for chunk, step in steps.items():
            sigmas = self._table(chunk).sigmas
            infos += [StepInfo(chunk, len(self.plan.chunks), step, self.plan.steps_of(chunk), stream, item,
                               sigmas[step], sigmas[step + 1], p.must_compute)
                      for stream in self.streams for item in range(self.settings.items)]
        return self._lanes.decide(infos, self._signal(steps))

    def _signal(self, steps: Mapping[int, int]) -> Callable[[Lane], Tensor | None]:
        kind, seen = self.settings.policy.signal, {}

        def time_modulation(lane: Lane) -> Tensor:
            timestep = self._table(lane.chunk).timesteps[steps[lane.chunk]]
            if timestep not in self._time_signals:
                at = torch.tensor([[timestep]], device=self.backbone.device)
                self._time_signals[timestep] = self.backbone.time_modulation(at)[0]
            return self._time_signals[timestep]

        def patch_embedding(lane: Lane) -> Tensor:
            if lane.chunk not in seen:
                seen[lane.chunk] = self.backbone.patch_tokens(self._chunk(lane.chunk))
            return seen[lane.chunk][lane.item]

        return {"none": lambda lane: None, "time_modulation": time_modulation, "patch_embedding": patch_embedding}[kind]

    def _step(self, p: Pass, velocities: dict[str, Tensor]) -> None:
        """Guides, and moves every chunk of the pass one step on."""
        velocity = velocities[COND]
        if UNCOND in velocities:
            velocity = velocities[UNCOND] + self.settings.guidance * (velocity - velocities[UNCOND])
        s, begin = self.settings, 0
        for chunk, step in zip(p.chunks, p.steps, strict=True):
            x = self._chunk(chunk)
            part, begin = velocity[:, :, begin:begin + x.shape[2]], begin + x.shape[2]
            noise = None
            if s.solver.needs_noise:
                noise = s.noise_rule.fresh(s.seed, tuple(x.shape), chunk, step).to(x.device)
            state = self._solver_states[chunk] if chunk in self._solver_states else s.solver.new_state()
            moved, self._solver_states[chunk] = s.solver.step(state, x.clone(), part.float(), step, self._table(chunk), noise)
            x.copy_(moved)

    def _record(self, number: int, p: Pass, decisions: dict[Lane, Decision], seconds: float, hook_seconds: float,
                calls: int) -> None:
        steps = dict(zip(p.chunks, p.steps, strict=False))
        lanes = tuple(LaneRecord(lane.chunk, steps[lane.chunk], lane.stream, lane.item, d.kind.value, d.reason,
                                 d.distance, d.value, d.limit) for lane, d in decisions.items())
        tokens, size = (self._store.tokens, self._store.resident_bytes) if self._store else (0, 0)
        self.trace.passes.append(PassRecord(number, p.kind, p.chunks, p.steps, seconds, hook_seconds, calls, tokens, size, lanes))
