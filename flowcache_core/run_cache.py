"""The KV cache of one run: the store, and when chunks land in it, leave it, or are folded."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .attention import AttentionRun
from .backbones.backbone import Backbone
from .kv import KVShape, KVStore, Residency, capacity, chunk_tokens, format_of, resident_layers, settle
from .plan.chunk_plan import ChunkPlan, Pass
from .run_settings import RunSettings


class RunCache:
    """`store` is None where the plan caches nothing. `queries`: those of the last computed pass, by layer and stream,
    where a compression wants them."""

    def __init__(self, plan: ChunkPlan, settings: RunSettings, backbone: Backbone, tokens_per_frame: int) -> None:
        self._plan, self._compression, self._tokens = plan, settings.compression, tokens_per_frame
        self._chunk = chunk_tokens(plan, tokens_per_frame)
        sizes, budget, streams = backbone.sizes, settings.budget, settings.guide.writers
        dtype = settings.kv_dtype or backbone.dtype
        scales = sum(kind.itemsize for width, kind in format_of(dtype, backbone.dtype).widths(sizes.head_dim)[1:])
        shape = KVShape(sizes.layers, len(streams), settings.items, sizes.heads, sizes.head_dim, dtype.itemsize,
                        sizes.time_theta, scales)
        if self._compression is not None:
            self._compression.check(shape)
        group = self._compression.group(tokens_per_frame, self._chunk) if self._compression else None
        room = capacity(plan, budget, tokens_per_frame, shape, group)
        self._residency = Residency(plan, budget, tokens_per_frame, budget.tokens(self._chunk, shape), group)
        marks = self._compression.marks if self._compression else ()
        layer_bytes = shape.bytes_per_token * room // sizes.layers
        resident = resident_layers(settings.kv_device, sizes.layers, layer_bytes, backbone.device)
        self.store = KVStore(shape, streams, room, dtype, backbone.device, marks, backbone.dtype,
                             resident) if room else None
        self._spilled = False
        self.attention = AttentionRun(settings.sparse)
        self._device, self._limited = backbone.device, budget.amount is not None
        self._layers, self.finished = sizes.layers, set(range(plan.prefix_chunks))
        keeps_queries = self._compression is not None and self._compression.cached_chunks is not None
        self.queries: dict[tuple[int, str], Tensor] | None = {} if keeps_queries else None

    def close(self) -> None:
        """Frees the store, and what attention remembers."""
        self.attention.close()
        if self.store is not None:
            self.store.close()
        if self.queries is not None:
            self.queries.clear()

    def notes(self) -> list[str]:
        """Sentences on what was asked for and had no effect, or another one."""
        idle = self.store is None and (self._limited or self._compression is not None)
        return self.attention.notes() + ["the plan caches no keys: KV budget and compression had no effect"] * idle

    def export_state(self) -> dict[str, Any]:
        """What `restore` needs; keys and values are views."""
        r = self._residency
        return {"resident": list(r.resident), "folded": r.folded, "finished": set(self.finished),
                "queries": self.queries, "store": self.store.export_state() if self.store else None,
                "attention": self.attention.export_state()}

    def spill(self) -> str:
        """Memory ran out: once a run, moves half of the resident layers' keys to the host's memory and says so; ""
        where that was done before, or there is nothing to move."""
        if self.store is None or self._spilled or not self.store.resident_layers:
            return ""
        last = self.store.resident_layers - 1
        self._spilled, first = True, self.store.spill()
        return (f"memory ran out: keys and values of layers {first} to {last} now lie in the host's memory; the run "
                "went on")

    def takes(self, state: dict[str, Any], needed: Sequence[int]) -> bool:
        """Whether the store can take over `state` of another plan, and has the keys of all `needed` chunks by that;
        under a budget those that it still has."""
        if state["store"] is None:
            return False
        layout = state["store"]["layout"]
        known = {*layout["slots"], *layout["folded_chunks"]}
        slots = [*layout["slots"].values(), *([layout["folded"]] if layout["folded"] else [])]
        ends = [stop for slot in slots for _, stop in slot.spans]
        complete = self._limited or known.issuperset(needed)
        return complete and not state["store"]["pending"] and max(ends, default=0) <= self.store.capacity

    def restore(self, state: dict[str, Any]) -> None:
        self._residency.resident, self._residency.folded = list(state["resident"]), state["folded"]
        self.finished = set(state["finished"])
        self.attention.restore(state["attention"])
        if self.queries is not None:
            self.queries.update({place: q.to(self._device) for place, q in state["queries"].items()})
        if self.store is not None:
            self.store.restore(state["store"])

    def held(self) -> tuple[int, int]:
        """Resident tokens per layer and stream, and bytes of all."""
        return (self.store.tokens, self.store.resident_bytes) if self.store else (0, 0)

    def readable(self, p: Pass) -> int:
        """Resident tokens of other chunks that a pass sees."""
        return self.store.layout.tokens_of([c for c in p.reads if c not in p.chunks]) if self.store else 0

    def expire(self, row: int) -> None:
        """Releases what no pass from `row` on reads."""
        for chunk in self._residency.expire(row):
            self.store.release(chunk)

    def make_room(self, row: int, p: Pass) -> None:
        """Gives every chunk that `p` writes for the first time a slot; others leave or are folded for it."""
        before = set(self._residency.resident)
        room = self._residency.admit(p, row)
        for chunk in room.evicted:
            self.store.release(chunk)
        if room.keep:
            self.store.fold(room.folded, room.keep)
        for chunk in p.writes:
            if chunk not in before:
                span = self._plan.chunks[chunk]
                self.store.reserve(chunk, span.frames * self._tokens, span.start * self._tokens)

    def _loose(self) -> tuple[list[int], int]:
        """Finished chunks with slots of their own, and the tokens of these and of what is folded."""
        chunks = [chunk for chunk in self.store.chunks if chunk in self.finished]
        folded = self.store.layout.folded
        return chunks, (folded.tokens if folded else 0) + sum(self.store.layout.slot(c).tokens for c in chunks)

    def before_computed(self) -> None:
        """The release on SkyReels-V2 folds at the first computed pass after too much is finished."""
        limit = self._compression and self._compression.finished_chunks
        if limit:
            limit *= self._chunk
            chunks, tokens = self._loose()
            if tokens > limit:
                self.store.fold(chunks, limit)

    def after_row(self, row: int) -> None:
        """The release on MAGI-1 folds one chunk away when a stage ends, the cache is full and chunks are to come."""
        total = self._compression and self._compression.cached_chunks
        if not total or self.store.tokens < total * self._chunk or row + 1 >= len(self._plan.rows):
            return
        ahead = {c for p in self._plan.rows[row + 1] for c in p.writes}
        chunks, tokens = self._loose()
        landing = ahead - {*self.store.chunks, *self.store.layout.folded_chunks}
        if not landing or tokens < 2 * self._chunk:
            return
        self.store.fold(chunks, max(tokens - self._chunk, self._chunk))
        for (layer, stream), queries in self.queries.items():
            settle(self.store, self._compression, layer, stream, queries, self._tokens, self._chunk)
