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
from .host_memory import Ahead, HostBuffer
from .layout import Fold, Layout, Span, joined
from .marks import LOG_M, Kept, Marks, Place
from .storage import Buffer, Parts, format_of

MEASURED = 7   # every how many writes the error of storing is measured; of few layer counts a divisor
Choose = Callable[[Tensor, Tensor, Tensor], Tensor | Kept]
"""`choose(keys, values, positions)`: `(items, heads, keep)` indices of the tokens that stay, or `Kept`."""


class KVStore:
    """Keys and values `(items, heads, capacity, head_dim)` of every (layer, stream). marks: see `Marks`.

    dtype: in which they are stored (`storage.py`); compute: that of the network, in which one-byte formats are read
    (default: dtype); resident_layers: how many layers lie on the device, the others in the host's memory (default:
    all). Where they lie changes no bit.
    """

    def __init__(self, shape: KVShape, streams: Sequence[str], capacity: int, dtype: torch.dtype,
                 device: torch.device | str, marks: Sequence[str] = (), compute: torch.dtype | None = None,
                 resident_layers: int | None = None) -> None:
        self._size = size = (shape.items, shape.heads, capacity, shape.head_dim)
        self.shape, self._device = shape, device
        self.resident_layers = shape.layers if resident_layers is None else resident_layers
        self.capacity, self.streams, self.layout = capacity, tuple(streams), Layout(capacity)
        form, places = format_of(dtype, compute or dtype), [(n, s) for n in range(shape.layers) for s in self.streams]
        self._keys, self._values = (
            {place: (Buffer if place[0] < self.resident_layers else HostBuffer)(form, size, device) for place in places}
            for _ in range(2))
        self.ahead = Ahead(device)
        self._own: dict[tuple[Place, int], tuple[Parts, Parts]] = {}   # just written, still on the device
        self.version = 0   # changes with every change of the layout
        self._lossy, self._writes = compute is not None and dtype != compute, 0
        self.marks = Marks(marks, places, size[:3], device)
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
    def errors(self) -> tuple[float, float] | None:
        """Relative root mean square error of storing keys and values, on a sample; None where none is made."""
        sums = [[b.error for b in buffers.values() if b.error is not None] for buffers in (self._keys, self._values)]
        if not all(sums):
            return None
        totals = [torch.stack([part.cpu() for part in parts]).sum(0).tolist() for parts in sums]
        return tuple((change / whole)**0.5 if whole else 0.0 for change, whole in totals)

    @property
    def resident_bytes(self) -> int:
        return self.allocated_bytes * self.tokens // self.capacity if self.capacity else 0

    def reserve(self, chunk: int, tokens: int, position: int) -> None:
        """Gives `chunk` room. Raises ValueError for a second slot, or where there is too little."""
        self.layout.reserve(chunk, tokens, position)
        self.version += 1

    def release(self, chunk: int) -> None:
        """Frees the chunk's slot in every layer and stream."""
        self.layout.release(chunk)
        self.version += 1
        self._forget([chunk])

    def _forget(self, chunks: Sequence[int]) -> None:
        self._written = {place for place in self._written if place[2] not in chunks}

    def fold(self, chunks: Sequence[int], keep: int) -> None:
        """Announces a compression: every layer and stream must `settle` it before it is read or written again."""
        if self._pending:
            raise RuntimeError(f"a compression is not settled in {sorted(self._pending)}")
        event = self.layout.fold(chunks, keep)
        self.version += 1
        self._pending = dict.fromkeys(self._keys, event)
        self._forget(chunks)

    def is_pending(self, layer: int, stream: str) -> bool:
        return (layer, stream) in self._pending

    def settle(self, layer: int, stream: str, choose: Choose) -> None:
        """Carries out the announced compression in one layer and stream."""
        place = (layer, stream)
        event, buffers = self._pending[place], (self._keys[place], self._values[place])
        old = joined(event.old)
        self.ahead.changed(place)
        keys, values = (buffer.get(old) for buffer in buffers)
        positions = self._event_positions(place, event)
        kept = choose(keys, values, positions)
        kept = kept if isinstance(kept, Kept) else Kept(kept)
        index = kept.index
        if tuple(index.shape) != (*keys.shape[:2], event.keep):
            raise ValueError(f"a choice of {tuple(index.shape)} tokens: expected {(*keys.shape[:2], event.keep)}")
        keys_kept, values_kept = (buffer.choice(old, index) for buffer in buffers)   # before either is overwritten
        if kept.values is not None:
            values_kept = buffers[1].form.encode(kept.values)
        self.marks.fold(place, event.old, event.new, kept)
        for buffer, parts in zip(buffers, (keys_kept, values_kept), strict=True):
            buffer.put_parts(event.new, parts)
        self._positions[place] = positions.gather(-1, index)
        del self._pending[place]   # last: where memory ran out on the way, it can be settled again

    def pending_marks(self, layer: int, stream: str) -> dict[str, Tensor]:
        """The marks `(items, heads, n)` of the tokens that compete in the announced compression."""
        place = (layer, stream)
        return {name: self.marks.read(place, name, self._pending[place].old) for name in self.marks.names}

    def _event_positions(self, place: Place, event: Fold) -> Tensor:
        items, heads, device = *self._size[:2], self._keys[place].device
        parts = [self._positions[place]] if event.folded else []
        for _, position, tokens in event.chunks:
            run = torch.arange(position, position + tokens, dtype=torch.int32, device=device)
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
        self._keep_own((layer, stream), chunk, keys, values, items)
        for buffers, new in ((self._keys, keys), (self._values, values)):
            buffers[layer, stream].put(slot.spans, new, items)
            if self._lossy and self._writes % MEASURED == 0:
                buffers[layer, stream].measure(new)
        self._writes += 1
        if (layer, stream, chunk) not in self._written:
            self.marks.clear((layer, stream), slot.spans)
            self._written.add((layer, stream, chunk))

    def _keep_own(self, place: Place, chunk: int, keys: Tensor, values: Tensor, items: Tensor | None) -> None:
        """What goes to the host is read in the same layer: it need not come back for that."""
        self.ahead.changed(place, chunk)
        self._own = {key: parts for key, parts in self._own.items() if key[0] == place and key[1] != chunk}
        if items is None and place[0] >= self.resident_layers:
            form = self._keys[place].form
            self._own[place, chunk] = (form.encode(keys), form.encode(values))

    def _write_tokens(self, layer: int, stream: str, chunk: int, new: tuple[Tensor, Tensor], items: Tensor | None,
                      tokens: Tensor) -> None:
        if (layer, stream, chunk) not in self._written:
            raise ValueError(f"chunk {chunk}: keys of some tokens, before any of the whole chunk were stored")
        self.ahead.changed((layer, stream))
        self._own.pop(((layer, stream), chunk), None)
        spans = self.layout.slot(chunk).spans
        places = torch.cat([torch.arange(*span, device=tokens.device) for span in spans])[tokens]
        for buffers, part in zip((self._keys, self._values), new, strict=True):
            buffers[layer, stream].put_tokens(places, part, items)

    def mark(self, layer: int, stream: str, chunk: int, name: str, values: Tensor, items: Tensor | None = None) -> None:
        """Keeps `(items, tokens)` numbers beside the tokens of a resident chunk, the same for every head."""
        heads = values.unsqueeze(1).expand(-1, self.shape.heads, -1)
        self.marks.write((layer, stream), name, self.layout.slot(chunk).spans, heads, items)

    def read(self, layer: int, stream: str, chunks: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of the written ones of `chunks`, in ascending position; views where slots are adjacent.

        Folded chunks are read together: all their tokens that are left, if any of them is asked for.
        """
        self._check_settled(layer, stream)
        if layer >= self.resident_layers:
            return self._from_host(layer, stream, chunks)
        spans = self._spans(layer, stream, chunks)
        return self._keys[layer, stream].get(spans), self._values[layer, stream].get(spans)

    def _from_host(self, layer: int, stream: str, chunks: Sequence[int]) -> tuple[Tensor, Tensor]:
        """`read` of a layer in the host's memory; begins the copy of the next layer's keys of the past."""
        place, following = (layer, stream), (layer + 1, stream)
        own = sorted(c for c in chunks if (place, c) in self._own)
        if own and any(c > own[0] for c in chunks if c not in own):
            own = []   # not at the end: read as it lies
        past = [c for c in chunks if c not in own]
        buffers = (self._keys[place], self._values[place])
        parts = [self.ahead.take(place, buffers, self._spans(*place, past), self.version),
                 *(self._own[place, c] for c in own)]
        if following in self._keys and not self.is_pending(*following):
            self.ahead.begin(following, (self._keys[following], self._values[following]),
                             self._spans(*following, past), past, self.version)
        return tuple(buffer.form.decode(tuple(torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0]
                                              for pieces in zip(*(part[which] for part in parts), strict=True)))
                     for which, buffer in enumerate(buffers))

    def spill(self) -> int:
        """Moves half of the layers that lie on the device to the host's memory; returns the first of those. Nothing
        that is stored changes."""
        first = self.resident_layers // 2
        for place in [place for place in self._keys if first <= place[0] < self.resident_layers]:
            for buffers in (self._keys, self._values):
                old = buffers[place]
                buffers[place] = HostBuffer(old.form, self._size, self._device)
                buffers[place].error = old.error
                for span in self._filled(place):
                    buffers[place].put_parts([span], old.get_parts([span]))
        self.resident_layers = first
        self.ahead.clear()
        self._own.clear()
        return first

    def log_m(self, layer: int, stream: str, chunks: Sequence[int]) -> Tensor | None:
        """Of the tokens that `read` returns: the logarithm of how many each stands for, `(items, heads, n)`; None
        where each stands for itself."""
        place = (layer, stream)
        return self.marks.read(place, LOG_M, self._spans(*place, chunks)) if self.marks.used(place, LOG_M) else None

    def _spans(self, layer: int, stream: str, chunks: Sequence[int]) -> list[Span]:
        """Where the written ones of `chunks` lie, in ascending position."""
        slots = [self.layout.slots[c] for c in chunks if (layer, stream, c) in self._written]
        if not self.layout.folded_chunks.isdisjoint(chunks):
            slots.append(self.layout.folded)
        return joined(span for slot in sorted(slots, key=lambda slot: slot.position) for span in slot.spans)

    def key_steps(self, layer: int, stream: str, chunks: Sequence[int]) -> Tensor | None:
        """`(items, heads, n, 1)`: for every key that `read` returns the distance of neighbouring codes; None for a
        format without even steps."""
        return self._keys[layer, stream].steps(self._spans(layer, stream, chunks))

    def folded_positions(self, layer: int, stream: str) -> Tensor | None:
        """Places in the video of the folded tokens, `(items, heads, n)`; None before the first compression."""
        return self._positions.get((layer, stream))

    def positions(self, chunks: Sequence[int]) -> list[int]:
        """Places in the video of the tokens of unfolded `chunks`, in the order in which `read` returns them."""
        slots = [self.layout.slots[c] for c in sorted(chunks) if c in self.layout.slots]
        return [p for slot in slots for p in range(slot.position, slot.position + slot.tokens)]

    def export_state(self) -> dict[str, Any]:
        """What `restore` needs: the layout, and views of whatever was written, span by span."""
        return {"version": self.version,
                "layout": self.layout.export_state(), "pending": dict(self._pending), "written": set(self._written),
                "positions": dict(self._positions), "marks": self.marks.export_state(),
                "content": {place: tuple((span, self._keys[place].at_rest(span), self._values[place].at_rest(span))
                                         for span in self._filled(place))
                            for place in self._keys}}

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
        self.version = state["version"]
        self.layout.restore(state["layout"])
        self._pending, self._written = dict(state["pending"]), set(state["written"])
        self._positions = {place: t.to(self._keys[place].device) for place, t in state["positions"].items()}
        self.marks.restore(state["marks"])
        for place, spans in state["content"].items():
            for span, keys, values in spans:
                self._keys[place].put_parts([span], keys)
                self._values[place].put_parts([span], values)
        self.check_integrity()

    def close(self) -> None:
        """Drops every buffer."""
        for table in (self._keys, self._values, self._positions, self._pending, self._written):
            table.clear()
        self.marks.close()
        self.ahead.clear()
        self._own.clear()
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
