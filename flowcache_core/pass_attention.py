"""Attention inside one pass: own keys into the store, the past out of it, compression and marks on the way."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attention import AttentionRun, Place
from .backbones.hooks import Attend
from .kv import SALIENCE, KVStore, chunk_tokens, settle
from .plan.chunk_plan import ChunkPlan, Pass
from .row_work import Group
from .run_settings import RunSettings
from .stand_ins import RowKey


@dataclass
class PassAttention:
    """Of pass `p` for the call rows `rows`; made for one call and dropped after it. Fields as in `PassHooks`.

    compress_seconds: spent on compression. keys_seen: the most keys that any query attended to.
    """

    plan: ChunkPlan
    p: Pass
    rows: Sequence[RowKey]
    store: KVStore | None
    layers: int
    settings: RunSettings
    queries: dict[tuple[int, str], Tensor] | None = None
    attending: AttentionRun = field(default_factory=AttentionRun)
    shift_keys: Callable[[Tensor, int], Tensor] | None = None

    def __post_init__(self) -> None:
        self.compress_seconds, self.keys_seen = 0.0, 0
        self._marks: list[tuple[str, list[int], Tensor]] = []
        self._moved = self.plan.moved(self.p)
        compression = self.settings.compression
        self.tap = compression.scorer.tap if compression and self.store and self.p.writes else None

    def open(self, frames: Sequence[int], tokens_per_frame: int) -> None:
        """Before the first block: latent frames of each chunk, tokens of a frame."""
        self._tokens_per_frame, begin, self._slices = tokens_per_frame, 0, {}
        for chunk, count in zip(self.p.chunks, frames, strict=True):
            self._slices[chunk] = slice(begin, begin + count * tokens_per_frame)
            begin += count * tokens_per_frame

    def add_costs(self, part: "PassAttention") -> None:
        """Counts what a part of the call cost as this call's."""
        self.compress_seconds += part.compress_seconds
        self.keys_seen = max(self.keys_seen, part.keys_seen)

    def _streams(self, numbers: Sequence[int]) -> dict[str, list[int]]:
        """The rows of every stream, in order."""
        streams = dict.fromkeys(self.rows[n][0] for n in numbers)
        return {stream: [n for n in numbers if self.rows[n][0] == stream] for stream in streams}

    def after_block(self, layer: int, hidden: Tensor, whole: Sequence[int]) -> None:
        """Lets the scorer rate the tokens whose keys are written; whole: rows that are computed in all tokens.

        What it says is kept after the last block: before, deeper layers may still hold other tokens there.
        """
        if layer == self.tap:
            self._marks = [(stream, numbers, self.settings.compression.scorer.mark(hidden[numbers]))
                           for stream, numbers in self._streams(whole).items()
                           if self.settings.guide.cache_of(stream) == stream]
        if layer == self.layers - 1:
            self._keep_marks(hidden.device)

    def _keep_marks(self, device: torch.device) -> None:
        for stream, numbers, marks in self._marks:
            items = torch.tensor([self.rows[n][1] for n in numbers], device=device)
            for chunk in self.p.writes:
                for layer in range(self.layers):
                    self.store.mark(layer, stream, chunk, SALIENCE, marks[:, self._slices[chunk], layer], items)

    def steers(self, kind: str) -> bool:
        """Whether anything else than a plain attention is to be done."""
        return self.attending.sparse is not None or kind == "self" and self.store is not None

    def attend(self, kind: str, layer: int, running: Group, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        """The rows of `running`, stream by stream."""
        parts, begin = [], 0
        for stream, numbers in self._streams(running.rows).items():
            part = slice(begin, begin + len(numbers))
            q_, k_, v_ = q[part], k[part], v[part]
            if kind == "self" and self.store is not None:
                parts.append(self._attend_stream(layer, stream, numbers, running, q_, k_, v_, attend))
            else:
                place = self._place(layer, stream, numbers, running) if kind == "cross" else None
                parts.append(self.attending.attend(kind, place, q_, k_, v_, None, attend))
            begin += len(numbers)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _place(self, layer: int, stream: str, numbers: Sequence[int], running: Group, seen: Sequence[int] = (),
               own: int = 0) -> Place | None:
        """Where attention may be sparse: denoising passes; their own keys last, behind those of the chunks `seen`."""
        if self.attending.sparse is None or self.p.kind != "denoise" or max(seen, default=-1) >= min(self.p.chunks):
            return None
        step, steps = min((step, self.plan.steps_of(chunk)) for chunk, step in self.p.moves)
        return Place(layer, self.layers, stream, self.p.chunks, step, steps, self._tokens_per_frame, own,
                     self.store.version if self.store else 0, tuple(self.rows[n][1] for n in numbers),
                     running.tokens is not None)

    def _attend_stream(self, layer: int, stream: str, numbers: list[int], running: Group, q: Tensor, k: Tensor,
                       v: Tensor, attend: Attend) -> Tensor:
        cache = self.settings.guide.cache_of(stream)
        if cache is None:
            return attend(q, k, v)
        if cache == stream and self.store.is_pending(layer, stream):
            self._compress(layer, stream, q)
        if self.queries is not None:
            self.queries[layer, stream] = q
        whole = len(numbers) == sum(row[0] == stream for row in self.rows)
        chosen = None if whole else torch.tensor([self.rows[n][1] for n in numbers], device=k.device)
        own = self._write(layer, stream, running.tokens, k, v, chosen) if cache == stream else ()
        stored_all = len(own) == len(self.p.chunks)
        seen = [*self.p.reads, *own] if stored_all else self.p.reads
        keys, values = self._read(layer, cache, seen)
        log_m = self.store.log_m(layer, cache, seen)
        steps = self.store.key_steps(layer, cache, seen)
        marks = [log_m, None if steps is None else steps.squeeze(-1).to(k.device)]
        if chosen is not None:
            keys, values = keys[chosen], values[chosen]
            marks = [None if mark is None else mark[chosen] for mark in marks]
        keys, values = keys.to(k.dtype), values.to(v.dtype)
        if not stored_all:
            keys, values = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
            marks = [None if mark is None else torch.nn.functional.pad(mark, (0, k.shape[2])) for mark in marks]
        self.keys_seen = max(self.keys_seen, keys.shape[2])
        own_keys = keys.shape[2] if not self.p.reads else max(part.stop for part in self._slices.values())
        place = self._place(layer, stream, numbers, running, self.p.reads, own_keys)
        return self.attending.attend("self", place, q, keys, values, marks[0], attend, marks[1])

    def _read(self, layer: int, stream: str, chunks: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cached keys and values; those of chunks that are told another place turned to it, and first."""
        if not self._moved:
            return self.store.read(layer, stream, chunks)
        keys, values = self.store.read(layer, stream, [c for c in chunks if c in self._moved])
        rest, rest_values = self.store.read(layer, stream, [c for c in chunks if c not in self._moved])
        frames, = set(self._moved.values())
        return torch.cat([self.shift_keys(keys, frames), rest], 2), torch.cat([values, rest_values], 2)

    def _write(self, layer: int, stream: str, tokens: Tensor | None, k: Tensor, v: Tensor,
               chosen: Tensor | None) -> tuple[int, ...]:
        """Stores the keys of the chunks that the pass writes; returns those chunks. tokens: the only ones computed."""
        if tokens is not None:   # of one chunk, whose other tokens' keys stay
            self.store.write(layer, stream, self.p.chunks[0], k, v, chosen, tokens)
            return self.p.chunks
        written = tuple(chunk for chunk in self.p.chunks if chunk in self.p.writes)
        for chunk in written:
            self.store.write(layer, stream, chunk, k[:, :, self._slices[chunk]], v[:, :, self._slices[chunk]], chosen)
        return written

    def _compress(self, layer: int, stream: str, q: Tensor) -> None:
        begin = time.perf_counter()
        settle(self.store, self.settings.compression, layer, stream, q, self._tokens_per_frame,
               chunk_tokens(self.plan, self._tokens_per_frame))
        self.compress_seconds += time.perf_counter() - begin
