"""Where keys and values of the past live: one preallocated buffer per layer and stream, divided into chunk slots.

Keys are stored after rotation, so a token never needs its position again; positions are kept all the same, so that
reads come in ascending order and a compression knows which tokens are neighbours. The store decides nothing:
`Residency` says which chunks leave or are folded, a `Compression` which tokens of those stay.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .budget import KVShape
from .layout import Fold, Layout, Span, joined
from .marks import LOG_M, Kept, Marks, Place
from .select import gather_tokens

Choose = Callable[[Tensor, Tensor, Tensor], Tensor | Kept]
"""`choose(keys, values, positions)`: `(items, heads, keep)` indices of the tokens that stay, or `Kept`."""


class KVStore:
    """Keys and values `(items, heads, capacity, head_dim)` of every (layer, stream). marks: see `Marks`."""

    def __init__(self, shape: KVShape, streams: Sequence[str], capacity: int, dtype: torch.dtype,
                 device: torch.device | str, marks: Sequence[str] = ()) -> None:
        size = (shape.items, shape.heads, capacity, shape.head_dim)
        self.shape = shape
        self.capacity, self.streams, self.layout = capacity, tuple(streams), Layout(capacity)
        self._keys = {(layer, s): torch.empty(size, dtype=dtype, device=device)
                      for layer in range(shape.layers) for s in self.streams}
        self._values = {place: torch.empty_like(keys) for place, keys in self._keys.items()}
        self.marks = Marks(marks, list(self._keys), size[:3], device)
        self._positions: dict[Place, Tensor] = {}
        self._pending: dict[Place, Fold] = {}
        self._written: set[tuple[int, str, int]] = set()

    @property
    def chunks(self) -> tuple[int, ...]:
        """Chunks with a slot of their own, ascending."""
        return tuple(sorted(self.layout.slots))

    @property
    def tokens(self) -> int:
        """Resident tokens per layer and stream."""
        return self.layout.tokens

    @property
    def allocated_bytes(self) -> int:
        """What the buffers take, whether filled or not."""
        return sum(2 * keys.nbytes for keys in self._keys.values())

    @property
    def resident_bytes(self) -> int:
        return self.allocated_bytes * self.tokens // self.capacity if self.capacity else 0

    def reserve(self, chunk: int, tokens: int, position: int) -> None:
        """Gives `chunk` room. Raises ValueError for a second slot, or where there is too little."""
        self.layout.reserve(chunk, tokens, position)
        self.marks.clear(self.layout.slot(chunk).spans)

    def release(self, chunk: int) -> None:
        """Frees the chunk's slot in every layer and stream."""
        self.layout.release(chunk)
        self._forget([chunk])

    def _forget(self, chunks: Sequence[int]) -> None:
        self._written = {place for place in self._written if place[2] not in chunks}

    def fold(self, chunks: Sequence[int], keep: int) -> None:
        """Announces a compression: every layer and stream must `settle` it before it is read or written again."""
        if self._pending:
            raise RuntimeError(f"a compression is not settled in {sorted(self._pending)}")
        event = self.layout.fold(chunks, keep)
        self._pending = dict.fromkeys(self._keys, event)
        self._forget(chunks)

    def is_pending(self, layer: int, stream: str) -> bool:
        return (layer, stream) in self._pending

    def settle(self, layer: int, stream: str, choose: Choose) -> None:
        """Carries out the announced compression in one layer and stream."""
        place = (layer, stream)
        event = self._pending.pop(place)
        keys, values = (self._gather(buffer[place], joined(event.old)) for buffer in (self._keys, self._values))
        positions = self._event_positions(place, event)
        kept = choose(keys, values, positions)
        kept = kept if isinstance(kept, Kept) else Kept(kept)
        index = kept.index
        if tuple(index.shape) != (*keys.shape[:2], event.keep):
            raise ValueError(f"a choice of {tuple(index.shape)} tokens: expected {(*keys.shape[:2], event.keep)}")
        self.marks.fold(place, event.old, event.new, kept)
        for buffer, old, changed in ((self._keys, keys, None), (self._values, values, kept.values)):
            begin = 0
            for start, stop in event.new:
                part = slice(begin, begin + stop - start)
                chosen = gather_tokens(old, index[..., part]) if changed is None else changed[:, :, part]
                buffer[place][:, :, start:stop] = chosen
                begin = part.stop
        self._positions[place] = positions.gather(-1, index)

    def pending_marks(self, layer: int, stream: str) -> dict[str, Tensor]:
        """The marks `(items, heads, n)` of the tokens that compete in the announced compression."""
        place = (layer, stream)
        return {name: self.marks.read(place, name, self._pending[place].old) for name in self.marks.names}

    def _event_positions(self, place: Place, event: Fold) -> Tensor:
        items, heads = self._keys[place].shape[:2]
        parts = [self._positions[place]] if event.folded else []
        for _, position, tokens in event.chunks:
            run = torch.arange(position, position + tokens, dtype=torch.int32, device=self._keys[place].device)
            parts.append(run.expand(items, heads, -1))
        return torch.cat(parts, dim=-1).long()

    def _check_settled(self, layer: int, stream: str) -> None:
        if self.is_pending(layer, stream):
            raise RuntimeError(f"layer {layer}, {stream}: a compression is announced and not settled")

    def write(self, layer: int, stream: str, chunk: int, keys: Tensor, values: Tensor,
              items: Tensor | None = None, tokens: Tensor | None = None) -> None:
        """Stores `(items, heads, tokens, head_dim)` of a resident chunk; `items` chooses batch items, `tokens` places
        in the chunk, whose other tokens keep what they have."""
        slot = self.layout.slot(chunk)
        count = slot.tokens if tokens is None else len(tokens)
        if keys.shape[2] != count:
            raise ValueError(f"chunk {chunk}: {keys.shape[2]} keys for {count} of a slot of {slot.tokens} tokens")
        self._check_settled(layer, stream)
        if tokens is not None:
            return self._write_tokens(layer, stream, chunk, (keys, values), items, tokens)
        for buffer, new in ((self._keys, keys), (self._values, values)):
            begin = 0
            for start, stop in slot.spans:
                target, part = buffer[layer, stream][:, :, start:stop], new[:, :, begin:begin + stop - start]
                if items is None:
                    target.copy_(part)
                else:
                    target[items] = part.to(target.dtype)
                begin += stop - start
        self._written.add((layer, stream, chunk))

    def _write_tokens(self, layer: int, stream: str, chunk: int, new: tuple[Tensor, Tensor], items: Tensor | None,
                      tokens: Tensor) -> None:
        if (layer, stream, chunk) not in self._written:
            raise ValueError(f"chunk {chunk}: keys of some tokens, before any of the whole chunk were stored")
        spans = self.layout.slot(chunk).spans
        places = torch.cat([torch.arange(*span, device=tokens.device) for span in spans])[tokens]
        rows = range(new[0].shape[0]) if items is None else items.tolist()
        for buffer, part in zip((self._keys, self._values), new, strict=True):
            for row, item in enumerate(rows):
                target = buffer[layer, stream][item]
                target.index_copy_(1, places, part[row].to(target.dtype))

    def read(self, layer: int, stream: str, chunks: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of the written ones of `chunks`, in ascending position; views where slots are adjacent.

        Folded chunks are read together: all their tokens that are left, if any of them is asked for.
        """
        self._check_settled(layer, stream)
        spans = self._spans(layer, stream, chunks)
        return tuple(self._gather(buffer[layer, stream], spans) for buffer in (self._keys, self._values))

    def log_m(self, layer: int, stream: str, chunks: Sequence[int]) -> Tensor | None:
        """Of the tokens that `read` returns: the logarithm of how many each stands for, `(items, heads, n)`; None
        where each stands for itself."""
        place = (layer, stream)
        return self.marks.read(place, LOG_M, self._spans(*place, chunks)) if self.marks.used(place, LOG_M) else None

    def _spans(self, layer: int, stream: str, chunks: Sequence[int]) -> list[Span]:
        slots = [self.layout.slots[c] for c in chunks if (layer, stream, c) in self._written]
        if not self.layout.folded_chunks.isdisjoint(chunks):
            slots.append(self.layout.folded)
        return joined(span for slot in sorted(slots, key=lambda slot: slot.position) for span in slot.spans)

    @staticmethod
    def _gather(buffer: Tensor, spans: Sequence[Span]) -> Tensor:
        parts = [buffer[:, :, start:stop] for start, stop in spans]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts, dim=2) if parts else buffer[:, :, :0]

    def folded_positions(self, layer: int, stream: str) -> Tensor | None:
        """Places in the video of the folded tokens, `(items, heads, n)`; None before the first compression."""
        return self._positions.get((layer, stream))

    def positions(self, chunks: Sequence[int]) -> list[int]:
        """Places in the video of the tokens of unfolded `chunks`, in the order in which `read` returns them."""
        slots = [self.layout.slots[c] for c in sorted(chunks) if c in self.layout.slots]
        return [p for slot in slots for p in range(slot.position, slot.position + slot.tokens)]

    def export_state(self) -> dict[str, Any]:
        """What `restore` needs: the layout, and views of whatever was written, span by span."""
        return {"layout": self.layout.export_state(), "pending": dict(self._pending), "written": set(self._written),
                "positions": dict(self._positions), "marks": self.marks.export_state(),
                "content": {place: tuple((*span, *(buffer[place][:, :, slice(*span)]
                                                   for buffer in (self._keys, self._values)))
                                         for span in self._filled(place)) for place in self._keys}}

    def _filled(self, place: Place) -> list[Span]:
        """Spans of the buffers at `place` that hold something."""
        slots = [self.layout.slots[c] for layer, stream, c in self._written if (layer, stream) == place]
        spans = [span for slot in slots for span in slot.spans]
        if place in self._pending:
            spans += self._pending[place].old
        elif self.layout.folded is not None:
            spans += self.layout.folded.spans
        return joined(sorted(spans))

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what a store of the same shape exported. Raises ValueError where it does not fit."""
        self.layout.restore(state["layout"])
        self._pending, self._written = dict(state["pending"]), set(state["written"])
        self._positions = {place: t.to(self._keys[place].device) for place, t in state["positions"].items()}
        self.marks.restore(state["marks"])
        for place, spans in state["content"].items():
            for start, stop, keys, values in spans:
                for buffer, part in ((self._keys, keys), (self._values, values)):
                    buffer[place][:, :, start:stop].copy_(part)
        self.check_integrity()

    def close(self) -> None:
        """Drops every buffer."""
        for table in (self._keys, self._values, self._positions, self._pending, self._written):
            table.clear()
        self.marks.close()
        self.layout = Layout(0)

    def check_integrity(self) -> None:
        """Raises RuntimeError where the bookkeeping contradicts itself."""
        self.layout.check()
        if any(chunk not in self.layout.slots for _, _, chunk in self._written):
            raise RuntimeError("keys are marked as written for a chunk that is not resident")
        self.marks.check(joined(sorted(self.layout.folded.spans)) if self.layout.folded and not self._pending else [])
        for place, positions in self._positions.items():
            if place not in self._pending and positions.shape[-1] != self.layout.folded.tokens:
                raise RuntimeError(f"layer {place[0]}, {place[1]}: {positions.shape[-1]} folded positions for "
                                   f"{self.layout.folded.tokens} folded tokens")
