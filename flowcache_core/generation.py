"""One run: plan x backbone x reuse x KV -> latents and trace.

A `Generation` is made when sampling starts and dropped when it ends, however it ends; nothing of it outlives it, and
nothing hangs on the model. What it decides and measures is in its `trace`.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .backbones.backbone import Backbone
from .composition import check_composition
from .deciding import Deciding
from .fingerprint import fingerprint, same_network
from .flops import FlopCounter
from .guidance import COND, UNCOND
from .lanes import Lane, Lanes
from .latent_video import Given, LatentVideo
from .outcomes import tell
from .pass_hooks import PassHooks, RowKey
from .plan.chunk_plan import ChunkPlan, Pass
from .recording import Cost, PassRecorder
from .reuse.contract import Decision, RunFacts
from .reuse.predictors import Span
from .run_cache import RunCache
from .run_settings import RunSettings, check_plan
from .run_state import RunState
from .run_texts import Texts, checked_texts, text_of
from .signal_source import SignalSource
from .trace import Trace

__all__ = ["COND", "UNCOND", "Generation", "Given", "Progress", "RunSettings"]


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
    `uncond#0` too where guidance is not 1. prefix: latents `(items, C, F, h, w)` of the plan's prefix chunks, or
    everything that is given. Chunks count from `settings.first_chunk` in the trace and in callbacks.
    Raises ValueError where plan, settings, prompts and prefix do not fit, before anything is sampled.
    """

    def __init__(self, backbone: Backbone, plan: ChunkPlan, settings: RunSettings, texts: Texts,
                 prefix: Tensor | Given | None = None) -> None:
        self.backbone, self.plan, self.settings, self.streams = backbone, plan, settings, settings.streams
        self._texts = checked_texts(texts, plan, settings)
        check_plan(plan, settings, hasattr(backbone, "shift_keys"))
        self._video_chunks = settings.video_chunks or len(plan.chunks) - plan.end_chunks
        settings.policy.check(self._video_chunks)
        settings.policy.check_run(RunFacts(
            self._video_chunks, settings.table.sigmas, backbone.sizes.layers, self.streams, settings.predictor.name,
            settings.predictor.stage, lambda other: same_network(other, fingerprint(backbone))))
        check_composition(settings)
        self._tokens = backbone.sizes.tokens_per_frame(settings.height, settings.width)
        self.cache = RunCache(plan, settings, backbone, self._tokens)
        self._lanes = Lanes(settings.policy, settings.predictor, settings.first_chunk)
        given = prefix if isinstance(prefix, Given) else Given(prefix)
        self.video = LatentVideo(plan, settings, backbone, given)
        self._signals = SignalSource(settings.policy.signal, backbone, self.video, self._lanes)
        self._deciding = Deciding(self._lanes, self.video, self._signals, self._tokens, self._video_chunks)
        self._recorder = PassRecorder(self._deciding, self.cache, self._texts, backbone.sizes, self._tokens)
        self._held: dict[int, tuple[Pass, dict[Lane, Decision], dict[str, Tensor]]] = {}
        self._closed, self._row = False, 0
        self._clean: Tensor | None = None   # of the pass at hand, where a host guides
        self.trace = Trace(settings.describe(), {"name": plan.name, "num_steps": plan.num_steps,
                                                 "chunks": [[c.start, c.stop] for c in plan.chunks],
                                                 "rows": len(plan.rows)},
                           self.cache.store.allocated_bytes if self.cache.store else 0)

    def run(self, on_progress: Callable[[Progress], None] | None = None,
            on_chunk: Callable[[int, Tensor], None] | None = None,
            on_state: Callable[[RunState], None] | None = None) -> Tensor:
        """Latents `(items, C, F, h, w)` of the whole video, fp32.

        on_chunk(chunk, latent) is called once a chunk, when it has taken its last step; on_state(state) after the rows
        in which chunks finish, when `on_chunk` has had them, and after the last row. The run's caches are freed however
        it ends.
        """
        if self._closed:
            raise RuntimeError("this Generation has ended: a run runs once, make a new one")
        rows, total = self.plan.rows, sum(1 for _ in self.plan.passes())
        done = sum(len(row) for row in rows[:self._row])
        try:
            with torch.inference_mode():
                for number, row in enumerate(rows[self._row:], self._row):
                    self.cache.expire(number)
                    self._deciding.begin_row(number)
                    for p in row:
                        decisions = self._run_pass(number, p)
                        self.cache.finished.update(self._finished_in([p]))
                        done += 1
                        if on_progress is not None:
                            on_progress(Progress(done, total, p, decisions))
                    self.cache.after_row(number)
                    self._row, finished = number + 1, self._finished_in(row)
                    for chunk in finished:
                        self._finish(chunk, on_chunk)
                    if on_state is not None and (finished or self._row == len(rows)):
                        on_state(self.export_state())
            return self.video.result
        finally:
            self.close()

    def export_state(self) -> RunState:
        """What going on after the last whole row needs. Its tensors are views: write or copy them before the run moves.
        Latents of finished chunks are not in it."""
        return RunState(self._row, tuple(sorted(self._done_chunks())), self.video.export_state(self._row),
                        self._lanes.export_state(), self.cache.export_state(), tuple(self.trace.passes))

    def restore(self, state: RunState, finished: Mapping[int, Tensor]) -> None:
        """Goes on from `state`, made by a run of the same plan, settings, texts and model; before `run`.

        finished: the latents of `state.finished`. Raises ValueError where one is missing or something does not fit.
        """
        missing = [c for c in state.finished if c not in finished]
        if missing:
            raise ValueError(f"no latent of the finished chunk {missing[0]}: a run goes on from the latents of chunks "
                             f"{', '.join(map(str, state.finished))} and its state")
        with torch.inference_mode():
            self.video.restore(state.video, {c: finished[c] for c in state.finished})
            self.cache.restore(state.cache)
        self._lanes.restore(state.lanes)
        self._row, self.trace.passes = state.row, list(state.passes)

    def adopt(self, state: RunState, before: ChunkPlan) -> bool:
        """Takes over the keys with which a finished run of `before` ended, in place of the passes that would make them
        again; this plan goes on behind that one. False, and nothing is changed, where they do not fit."""
        given = [row[0].chunks[0] for row in self.plan.rows if row[0].kind == "prefix"]
        if self.cache.store is None or not self.cache.takes(state.cache, given):
            return False
        with torch.inference_mode():
            self.cache.restore(state.cache)
        last, again = before.chunks[-1].index, any(p.kind == "commit" for p in self.plan.passes())
        committed = any(p.kind == "commit" and p.chunks == (last,) for p in before.passes())
        self._row = len(given) - (again and not committed)
        return True

    def _done_chunks(self) -> list[int]:
        return [c for row in self.plan.rows[:self._row] for c in self._finished_in(row)]

    @property
    def kept(self) -> Mapping[Lane, Any]:
        """What the predictor holds of every lane, as it is at the moment; empty once the run has ended."""
        return self._lanes.kept

    def close(self) -> None:
        """Frees every cache of the run."""
        if self.cache.store is not None:
            self.trace.kv_error = self.cache.store.errors or self.trace.kv_error
        self.trace.notes += [note for note in self.cache.notes() if note not in self.trace.notes]
        self.cache.close()
        self._held.clear()
        self._lanes.close()
        self._signals.close()
        self.video.solver_states.clear()
        self._closed, self._clean = True, None

    def _finished_in(self, row: Sequence[Pass]) -> list[int]:
        return [c for p in row if p.kind == "denoise" for c, s in p.moves if s == self.plan.steps_of(c) - 1]

    def _finish(self, chunk: int, on_chunk: Callable[[int, Tensor], None] | None) -> None:
        self._lanes.forget(chunk)
        self.cache.attention.forget(chunk)
        self.video.solver_states.pop(chunk, None)
        if on_chunk is not None:
            on_chunk(chunk + self.settings.first_chunk, self.video.chunk(chunk))

    def _run_pass(self, number: int, p: Pass) -> dict[Lane, Decision]:
        begin = time.perf_counter()
        self.cache.make_room(number, p)
        watch = time.perf_counter()
        decisions = self._deciding.decide(number, p) if p.kind == "denoise" else {}
        if all(decision.computes for decision in decisions.values()):
            self.cache.before_computed()
        cost = Cost(hook_seconds=time.perf_counter() - watch)
        if p.kind != "near_clean" or p.chunks[0] in self._held:
            velocities, cost = self._forward(number, p, decisions, cost)
            self._lanes.note_differences(self.streams[0])
            self._step(number, p, decisions, velocities)
            self._lanes.end_pass()
        cost = replace(cost, seconds=time.perf_counter() - begin)
        self.trace.passes.append(self._recorder.record(number, p, decisions, cost))
        return decisions

    def _forward(self, number: int, p: Pass, decisions: dict[Lane, Decision],
                 cost: Cost) -> tuple[dict[str, Tensor], Cost]:
        """Velocities `(items, C, f, h, w)` of the pass by stream."""
        velocities: dict[str, list[Tensor]] = {}
        for rows in self._row_groups(p):
            velocity, hooks = self._within_memory(number, p, rows, decisions)
            if all(decision.computes for decision in decisions.values()):
                self.cache.attention.check_used()
            self._clean, cost = hooks.clean, cost.plus(hooks)
            for (stream, _), value in zip(rows, velocity, strict=True):
                velocities.setdefault(stream, []).append(value)
        return {stream: torch.stack(values) for stream, values in velocities.items()}, cost

    def _within_memory(self, number: int, p: Pass, rows: Sequence[RowKey],
                       decisions: dict[Lane, Decision]) -> tuple[Tensor, PassHooks]:
        """One call of the network; where memory runs out, again with fewer keys on the device, once a run."""
        tables = (self._lanes.kept, self._lanes.ranges, self._lanes.differences)
        before = [dict(table) for table in tables]
        try:
            while True:
                hooks = PassHooks(self.plan, p, rows, decisions, self._lanes, self.cache.store,
                                  self.backbone.sizes.layers, self.settings, self._spans(p),
                                  self.cache.queries, self.cache.attention,
                                  getattr(self.backbone, "shift_keys", None), FlopCounter(self.backbone.sizes))
                try:
                    return self._call(number, p, rows, hooks), hooks
                except torch.cuda.OutOfMemoryError:
                    said = self.cache.spill()
                    if not said:
                        raise
                for table, values in zip(tables, before, strict=True):   # as if it had not begun
                    table.clear()
                    table.update(values)
                self.trace.notes.append(f"row {number}: {said}")
                logging.getLogger(__name__).warning(self.trace.notes[-1])
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        finally:   # an error's traceback would keep them alive
            for values in before:
                values.clear()

    def _step(self, number: int, p: Pass, decisions: dict[Lane, Decision], velocities: dict[str, Tensor]) -> None:
        """Moves the chunks of a denoising pass; one that is to be blended waits for its near-clean pass."""
        if p.kind == "denoise":
            blended = any(q.kind == "near_clean" and q.chunks == p.chunks for q in self.plan.rows[number])
            if blended and all(decision.computes for decision in decisions.values()):
                self._held[p.chunks[0]] = (p, decisions, velocities)
            else:
                self._move(number, p, decisions, velocities)
        elif p.kind == "near_clean":
            own, decisions, whole = self._held.pop(p.chunks[0])
            weight = self.settings.near_clean
            blend = {stream: weight * whole[stream] + (1 - weight) * alone for stream, alone in velocities.items()}
            predictor, kept = self._lanes.predictor, self._lanes.kept
            for stream, velocity in blend.items() if predictor.stage == "velocity" else ():
                for item in range(self.settings.items):
                    place, latent = Lane(p.chunks[0], stream, item), self.video.chunk(p.chunks[0])[item]
                    kept[place] = predictor.owned(predictor.correct(kept[place], latent, velocity[item],
                                                                    self._spans(own)[p.chunks[0]]))
            self._move(number, own, decisions, blend)

    def _move(self, number: int, p: Pass, decisions: dict[Lane, Decision], velocities: dict[str, Tensor]) -> None:
        self._correct(p)
        guided, policy = self.video.step(p, velocities, self._clean), self._lanes.policy
        if policy.signal == "guided_velocity":
            self._lanes.last.update({lane: guided[lane.chunk][lane.item].clone() for lane in decisions})
        if policy.learns:
            tell(self._lanes, self.video, p, self._deciding.infos(number, p), decisions, velocities, guided)

    def _correct(self, p: Pass) -> None:
        """Moves chunks by what the skipped steps before this one have missed, where the predictor knows it."""
        missed, begin = self._lanes.missed, 0
        for chunk, at in zip(p.chunks, self.video.timesteps(p), strict=True) if missed else ():
            latent = self.video.chunk(chunk)
            if any(lane.chunk == chunk for lane in missed):
                own = {stream: torch.stack([missed.get(Lane(chunk, stream, n), torch.zeros_like(item))
                                            for n, item in enumerate(latent)])
                       for stream in self.settings.guide.needed(at)}
                by = self.settings.guide.combine(own, at).float()
                self.video.move(chunk, by)
                if self._clean is not None:   # the host's estimate moves along
                    self._clean = self._clean.clone()
                    self._clean[:, :, begin:begin + latent.shape[2]] += by
            begin += latent.shape[2]

    def _spans(self, p: Pass) -> dict[int, Span]:
        sigmas = {chunk: self.video.table(chunk).sigmas for chunk, _ in p.moves}
        return {chunk: Span(*sigmas[chunk][step:step + 2], sigmas[chunk][step - 1] if step else None)
                for chunk, step in p.moves}

    def _row_groups(self, p: Pass) -> list[list[RowKey]]:
        guide, items = self.settings.guide, range(self.settings.items)
        groups = [[(stream, item) for item in items] for stream in self._deciding.streams(p)]
        if not self.settings.batch_streams:
            return groups
        parts = [[row for group in groups for row in group if guide.from_start(row[0]) == alone]
                 for alone in (False, True)]
        return [rows for rows in parts if rows]

    def _call(self, number: int, p: Pass, rows: Sequence[RowKey], hooks: PassHooks) -> Tensor:
        latent, timesteps = self.video.inputs(p, number)
        timestep = torch.tensor(timesteps, device=latent.device).expand(len(rows), -1)
        text = torch.stack([text_of(self._texts, p, stream)[item] for stream, item in rows])
        places = self.plan.frame_index(p)
        if self.settings.guide.from_start(rows[0][0]):
            places = tuple(range(len(places)))
        return self.backbone(latent[[item for _, item in rows]], timestep, text, places, hooks)
