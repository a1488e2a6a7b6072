"""The hooks of one pass: reuse decisions and the KV store, carried out inside the network's forward.

Rows of the call are (stream, item) pairs. Rows with different decisions run apart: only computed rows are handed to
the blocks, and only they write keys, so a skipped chunk leaves its keys as they were.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attention import WeightedAttention
from .backbones.hooks import Attend, BlockInput, Call, Run
from .kv import KVStore, chunk_tokens, settle
from .lanes import Lane, Lanes
from .plan.chunk_plan import ChunkPlan, Pass
from .reuse.contract import Decision
from .reuse.predictors import Span
from .run_settings import RunSettings

RowKey = tuple[str, int]   # stream, batch item


class Stopwatch:
    """Seconds spent in hooks, those in the network's own code inside them not counted."""

    def __init__(self) -> None:
        self.hooks = 0.0

    def inner(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def timed(*args: Tensor) -> Tensor:
            begin = time.perf_counter()
            try:
                return function(*args)
            finally:
                self.hooks -= time.perf_counter() - begin
        return timed

    def __enter__(self) -> None:
        self.hooks -= time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.hooks += time.perf_counter()


@dataclass
class PassHooks:
    """Hooks of pass `p` for the call rows `rows`; made for one call and dropped after it.

    spans: noise before and after the step of every chunk. queries: where given, each layer's and stream's queries are
    left here. weighted: how merged keys get their weight. shift_keys: turns cached keys to later frames, for passes
    that tell their sink another place.
    """

    plan: ChunkPlan
    p: Pass
    rows: Sequence[RowKey]
    decisions: dict[Lane, Decision]
    lanes: Lanes
    store: KVStore | None
    layers: int
    settings: RunSettings
    spans: dict[int, Span]
    queries: dict[tuple[int, str], Tensor] | None = None
    weighted: WeightedAttention = field(default_factory=WeightedAttention)
    shift_keys: Callable[[Tensor, int], Tensor] | None = None

    def __post_init__(self) -> None:
        self.watch, self.kv_watch = Stopwatch(), Stopwatch()
        self.compress_seconds, self.keys_seen = 0.0, 0
        self._skipped = [n for n, row in enumerate(self.rows) if not self._computes(row)]
        self._computed = [n for n in range(len(self.rows)) if n not in self._skipped]
        self._hidden_in: Tensor | None = None
        self._moved = self.plan.moved(self.p)
        self._velocity_stage = self.lanes.predictor.stage == "velocity"

    @property
    def computed_rows(self) -> int:
        """Rows of the call for which the network ran."""
        return len(self._computed)

    def _computes(self, row: RowKey) -> bool:
        chunk = self.p.moves[0][0] if self.p.still else self.p.chunks[0]
        decision = self.decisions.get(Lane(chunk, *row))
        return decision is None or decision.computes

    def begin(self, call: Call) -> Tensor | None:
        with self.watch:
            self._frames = [self.plan.chunks[c].frames for c in self.p.chunks]
            self._tokens_per_frame, self._latent = call.tokens_per_frame, call.latent
            if self._computed or not self._velocity_stage:
                return None
            return torch.stack([self._predicted(n, None) for n in range(len(self.rows))])

    def block(self, index: int, x: BlockInput, run: Run) -> Tensor:
        with self.watch:
            hidden = self._run_rows(x, self.watch.inner(run))
            if self._velocity_stage:
                return hidden
            if index == 0:
                self._hidden_in = x.hidden
                if self._skipped:
                    hidden = hidden.clone() if hidden is x.hidden else hidden
                    for n in self._skipped:
                        hidden[n] = self._predicted(n, x.hidden[n])
            if index == self.layers - 1:
                self._keep(self._hidden_in, hidden, tokens_dim=0)
            return hidden

    def _run_rows(self, x: BlockInput, run: Run) -> Tensor:
        if not self._skipped:
            return run(x)
        if not self._computed:
            return x.hidden
        rows = torch.tensor(self._computed, device=x.hidden.device)
        return x.hidden.index_copy(0, rows, run(x.take(rows)))

    def attention(self, index: int, kind: str, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        if kind == "cross" or self.store is None:
            return attend(q, k, v)
        with self.watch, self.kv_watch:
            attend = self.watch.inner(self.kv_watch.inner(attend))
            parts, begin = [], 0
            for stream in dict.fromkeys(self.rows[n][0] for n in self._computed):
                items = [self.rows[n][1] for n in self._computed if self.rows[n][0] == stream]
                part = slice(begin, begin + len(items))
                parts.append(self._attend_stream(index, stream, items, q[part], k[part], v[part], attend))
                begin += len(items)
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_stream(self, layer: int, stream: str, items: list[int], q: Tensor, k: Tensor, v: Tensor,
                       attend: Attend) -> Tensor:
        cache = self.settings.guide.cache_of(stream)
        if cache is None:
            return attend(q, k, v)
        if cache == stream and self.store.is_pending(layer, stream):
            self._compress(layer, stream, q)
        if self.queries is not None:
            self.queries[layer, stream] = q
        whole = len(items) == sum(row[0] == stream for row in self.rows)
        chosen = None if whole else torch.tensor(items, device=k.device)
        own = self._write(layer, stream, k, v, chosen) if cache == stream else ()
        stored_all = len(own) == len(self.p.chunks)
        seen = [*self.p.reads, *own] if stored_all else self.p.reads
        keys, values = self._read(layer, cache, seen)
        log_m = self.store.log_m(layer, cache, seen)
        if chosen is not None:
            keys, values, log_m = keys[chosen], values[chosen], None if log_m is None else log_m[chosen]
        keys, values = keys.to(k.dtype), values.to(v.dtype)
        if not stored_all:
            keys, values = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
            log_m = None if log_m is None else torch.nn.functional.pad(log_m, (0, k.shape[2]))
        self.keys_seen = max(self.keys_seen, keys.shape[2])
        return self.weighted(attend, q, keys, values, log_m)

    def _read(self, layer: int, stream: str, chunks: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cached keys and values; those of chunks that are told another place turned to it, and first."""
        if not self._moved:
            return self.store.read(layer, stream, chunks)
        keys, values = self.store.read(layer, stream, [c for c in chunks if c in self._moved])
        rest, rest_values = self.store.read(layer, stream, [c for c in chunks if c not in self._moved])
        frames, = set(self._moved.values())
        return torch.cat([self.shift_keys(keys, frames), rest], 2), torch.cat([values, rest_values], 2)

    def _write(self, layer: int, stream: str, k: Tensor, v: Tensor, chosen: Tensor | None) -> tuple[int, ...]:
        """Stores the keys of the chunks that the pass writes; returns those chunks."""
        begin = 0
        for chunk, frames in zip(self.p.chunks, self._frames, strict=True):
            tokens = slice(begin, begin + frames * self._tokens_per_frame)
            if chunk in self.p.writes:
                self.store.write(layer, stream, chunk, k[:, :, tokens], v[:, :, tokens], chosen)
            begin = tokens.stop
        return tuple(chunk for chunk in self.p.chunks if chunk in self.p.writes)

    def _compress(self, layer: int, stream: str, q: Tensor) -> None:
        begin = time.perf_counter()
        settle(self.store, self.settings.compression, layer, stream, q, self._tokens_per_frame,
               chunk_tokens(self.plan, self._tokens_per_frame))
        self.compress_seconds += time.perf_counter() - begin

    def output(self, velocity: Tensor) -> Tensor:
        with self.watch:
            if not self._velocity_stage:
                return velocity
            if self._computed and self._skipped:
                velocity = velocity.clone()
                for n in self._skipped:
                    velocity[n] = self._predicted(n, None)
            if self._computed:
                self._keep(None, velocity, tokens_dim=1)
            return velocity

    def _splits(self) -> list[int]:
        """Sizes of the chunks along the frame or token dimension."""
        scale = 1 if self._velocity_stage else self._tokens_per_frame
        return [frames * scale for frames in self._frames]

    def _keep(self, before: Tensor | None, after: Tensor, tokens_dim: int) -> None:
        if self.p.kind != "denoise":
            return
        for n in self._computed:
            inputs = [None] * len(self.p.chunks) if before is None else before[n].split(self._splits(), tokens_dim)
            for chunk, old, new in zip(self.p.chunks, inputs, after[n].split(self._splits(), tokens_dim), strict=True):
                if chunk in self.p.still:
                    continue
                # Cloned: a view would keep the whole batch of this step alive.
                kept = self.lanes.predictor.keep(old, new, self.spans[chunk]).clone()
                self.lanes.kept[Lane(chunk, *self.rows[n])] = kept

    def _predicted(self, n: int, hidden: Tensor | None) -> Tensor:
        dim = 1 if hidden is None else 0
        inputs = [None] * len(self.p.chunks) if hidden is None else hidden.split(self._splits(), dim)
        parts = [self._still(chunk, i) if chunk in self.p.still else
                 self.lanes.predictor.predict(self.lanes.kept[Lane(chunk, *self.rows[n])], i, self.spans[chunk])
                 for chunk, i in zip(self.p.chunks, inputs, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)

    def _still(self, chunk: int, hidden: Tensor | None) -> Tensor:
        """What stands in for a chunk that takes no step, where nothing is computed: nothing reads it."""
        return self._latent[0, :, :self.plan.chunks[chunk].frames] if hidden is None else hidden
