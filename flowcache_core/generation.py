"""One run: plan x backbone x reuse x KV -> latents and trace.

A `Generation` is made when sampling starts and dropped when it ends, however it ends; nothing of it outlives it, and
nothing hangs on the model. What it decides and measures is in its `trace`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .backbones.backbone import Backbone
from .kv import KVShape, KVStore, Residency, capacity, chunk_tokens
from .lanes import Lane, Lanes
from .latent_video import LatentVideo
from .pass_hooks import PassHooks, RowKey
from .plan.chunk_plan import ChunkPlan, Pass
from .reuse.contract import Decision, StepInfo
from .run_settings import COND, UNCOND, RunSettings, Texts, check_plan, checked_texts
from .signal_source import SignalSource
from .trace import LaneRecord, PassRecord, Trace

__all__ = ["COND", "UNCOND", "Generation", "Progress", "RunSettings"]


@dataclass(frozen=True)
class Progress:
    """After a pass: passes done and in all, the pass, and its decisions."""

    done: int
    total: int
    last: Pass
    decisions: dict[Lane, Decision]


@dataclass(frozen=True)
class Cost:
    """What a pass cost: see `PassRecord`."""

    seconds: float = 0.0
    hook_seconds: float = 0.0
    kv_seconds: float = 0.0
    compress_seconds: float = 0.0
    calls: int = 0
    keys: int = 0

    def plus(self, hooks: PassHooks) -> "Cost":
        return Cost(self.seconds, self.hook_seconds + hooks.watch.hooks,
                    self.kv_seconds + hooks.kv_watch.hooks - hooks.compress_seconds,
                    self.compress_seconds + hooks.compress_seconds, self.calls + hooks.computed_rows,
                    max(self.keys, hooks.keys_seen))


class Generation:
    """Runs a plan once.

    texts: for every stream the embedded prompt of every chunk, `(1 or items, L, D)` each. `cond#0` is required;
    `uncond#0` too where guidance is not 1. prefix: latents `(items, C, F, h, w)` of the plan's prefix chunks.
    Raises ValueError where plan, settings, prompts and prefix do not fit, before anything is sampled.
    """

    def __init__(self, backbone: Backbone, plan: ChunkPlan, settings: RunSettings, texts: Texts,
                 prefix: Tensor | None = None) -> None:
        self.backbone, self.plan, self.settings, self.streams = backbone, plan, settings, settings.streams
        self._texts = checked_texts(texts, plan, settings)
        check_plan(plan, settings)
        settings.policy.check(len(plan.chunks))
        self._tokens = backbone.sizes.tokens_per_frame(settings.height, settings.width)
        self._open_store()
        self._lanes = Lanes(settings.policy, settings.predictor)
        self.video = LatentVideo(plan, settings, backbone, prefix)
        self._signals = SignalSource(settings.policy.signal, backbone, self.video)
        self._closed, self._done = False, set(range(plan.prefix_chunks))
        self.trace = Trace(settings.describe(), {"name": plan.name, "num_steps": plan.num_steps,
                                                 "chunks": [[c.start, c.stop] for c in plan.chunks],
                                                 "rows": len(plan.rows)},
                           self._store.allocated_bytes if self._store else 0)

    def _open_store(self) -> None:
        sizes, s = self.backbone.sizes, self.settings
        dtype = s.kv_dtype or self.backbone.dtype
        shape = KVShape(sizes.layers, len(self.streams), s.items, sizes.heads, sizes.head_dim, dtype.itemsize)
        chunk = chunk_tokens(self.plan, self._tokens)
        group = s.compression.group(self._tokens, chunk) if s.compression else None
        room = capacity(self.plan, s.budget, self._tokens, shape, group)
        self._residency = Residency(self.plan, s.budget, self._tokens, s.budget.tokens(chunk, shape), group)
        self._store = KVStore(shape, self.streams, room, dtype, self.backbone.device) if room else None

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
                        self._done.update(self._finished_in([p]))
                        done += 1
                        if on_progress is not None:
                            on_progress(Progress(done, total, p, decisions))
                    for chunk in self._finished_in(row):
                        self._finish(chunk, on_chunk)
            return self.video.latents
        finally:
            self.close()

    def close(self) -> None:
        """Frees every cache of the run."""
        if self._store is not None:
            self._store.close()
        self._lanes.close()
        self._signals.close()
        self.video.solver_states.clear()
        self._closed = True

    def _finished_in(self, row: Sequence[Pass]) -> list[int]:
        return [c for p in row if p.kind == "denoise" for c, s in zip(p.chunks, p.steps, strict=True)
                if s == self.plan.steps_of(c) - 1]

    def _finish(self, chunk: int, on_chunk: Callable[[int, Tensor], None] | None) -> None:
        self._lanes.forget(chunk)
        self.video.solver_states.pop(chunk, None)
        if on_chunk is not None:
            on_chunk(chunk, self.video.chunk(chunk))

    def _release(self, chunks: Sequence[int]) -> None:
        for chunk in chunks:
            self._store.release(chunk)

    def _run_pass(self, number: int, p: Pass) -> dict[Lane, Decision]:
        begin = time.perf_counter()
        self._make_room(number, p)
        watch = time.perf_counter()
        decisions = self._decide(number, p) if p.kind == "denoise" else {}
        self._fold_finished(number, p, decisions)
        cost = Cost(hook_seconds=time.perf_counter() - watch)
        velocities: dict[str, list[Tensor]] = {stream: [] for stream in self.streams}
        for rows in self._row_groups():
            hooks = PassHooks(self.plan, p, rows, decisions, self._lanes, self._store, self.backbone.sizes.layers,
                              self.settings.compression)
            velocity = self._call(p, rows, hooks)
            cost = cost.plus(hooks)
            for (stream, _), value in zip(rows, velocity, strict=True):
                velocities[stream].append(value)
        if p.kind == "denoise":
            self.video.step(p, {stream: torch.stack(values) for stream, values in velocities.items()})
        self._record(number, p, decisions, replace(cost, seconds=time.perf_counter() - begin))
        return decisions

    def _make_room(self, number: int, p: Pass) -> None:
        before = set(self._residency.resident)
        room = self._residency.admit(p, number)
        self._release(room.evicted)
        if room.keep:
            self._store.fold(room.folded, room.keep)
        for chunk in p.writes:
            if chunk not in before:
                span = self.plan.chunks[chunk]
                self._store.reserve(chunk, span.frames * self._tokens, span.start * self._tokens)

    def _fold_finished(self, number: int, p: Pass, decisions: dict[Lane, Decision]) -> None:
        """The trigger of the release: at the first computed pass after too much is finished."""
        limit = self.settings.compression and self.settings.compression.finished_tokens
        if not limit or not all(decision.computes for decision in decisions.values()):
            return
        done = [c for c in self._store.chunks if c in self._done and c not in p.writes]
        folded = self._store.layout.folded
        if (folded.tokens if folded else 0) + sum(self._store.layout.slot(c).tokens for c in done) > limit:
            self._store.fold(done, limit)

    def _row_groups(self) -> list[list[RowKey]]:
        groups = [[(stream, item) for item in range(self.settings.items)] for stream in self.streams]
        return [sum(groups, [])] if self.settings.batch_streams else groups

    def _call(self, p: Pass, rows: Sequence[RowKey], hooks: PassHooks) -> Tensor:
        latent, timesteps = self.video.inputs(p)
        timestep = torch.tensor(timesteps, device=latent.device).expand(len(rows), -1)
        text = torch.stack([self._texts[stream][p.chunks[0]][item] for stream, item in rows])
        return self.backbone(latent[[item for _, item in rows]], timestep, text, self.plan.frame_index(p), hooks)

    def _decide(self, number: int, p: Pass) -> dict[Lane, Decision]:
        infos, edge = [], number in (0, len(self.plan.rows) - 1)
        for chunk, step in zip(p.chunks, p.steps, strict=True):
            sigmas = self.video.table(chunk).sigmas
            infos += [StepInfo(chunk, len(self.plan.chunks), step, self.plan.steps_of(chunk), stream, item,
                               sigmas[step], sigmas[step + 1], p.must_compute, edge)
                      for stream in self.streams for item in range(self.settings.items)]
        return self._lanes.decide(infos, self._signals.of(p))

    def _record(self, number: int, p: Pass, decisions: dict[Lane, Decision], cost: Cost) -> None:
        steps = dict(zip(p.chunks, p.steps, strict=False))
        lanes = tuple(LaneRecord(lane.chunk, steps[lane.chunk], lane.stream, lane.item, d.kind.value, d.reason,
                                 d.distance, d.value, d.limit) for lane, d in decisions.items())
        held = (self._store.tokens, self._store.resident_bytes) if self._store else (0, 0)
        self.trace.passes.append(PassRecord(number, p.kind, p.chunks, p.steps, cost.seconds, cost.hook_seconds,
                                            cost.calls, *held, lanes, cost.keys, cost.kv_seconds,
                                            cost.compress_seconds))
