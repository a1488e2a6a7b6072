"""Where keys and values of the past live: one preallocated buffer per layer and stream, divided into chunk slots.

Keys are stored after rotation, so a token never needs its position again; positions are kept all the same, so that
reads come in ascending order and a later compression knows what it drops. The store decides nothing: `Residency`
says which chunks leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .budget import KVShape


@dataclass(frozen=True)
class Slot:
    """Tokens `start .. start + length - 1` of every buffer hold `chunk`; `position` is its first token in the video."""

    start: int
    length: int
    position: int


class KVStore:
    """Keys and values `(items, heads, capacity, head_dim)` of every (layer, stream)."""

    def __init__(self, shape: KVShape, streams: Sequence[str], capacity: int, dtype: torch.dtype,
                 device: torch.device | str) -> None:
        size = (shape.items, shape.heads, capacity, shape.head_dim)
        self.capacity, self.streams = capacity, tuple(streams)
        self._keys = {(layer, s): torch.empty(size, dtype=dtype, device=device)
                      for layer in range(shape.layers) for s in self.streams}
        self._values = {place: torch.empty_like(keys) for place, keys in self._keys.items()}
        self._slots: dict[int, Slot] = {}
        self._written: set[tuple[int, str, int]] = set()

    @property
    def chunks(self) -> tuple[int, ...]:
        """Resident chunks, ascending."""
        return tuple(sorted(self._slots))

    @property
    def tokens(self) -> int:
        """Resident tokens per layer and stream."""
        return sum(slot.length for slot in self._slots.values())

    @property
    def allocated_bytes(self) -> int:
        """What the buffers take, whether filled or not."""
        return sum(2 * keys.nbytes for keys in self._keys.values())

    @property
    def resident_bytes(self) -> int:
        return self.allocated_bytes * self.tokens // self.capacity if self.capacity else 0

    def reserve(self, chunk: int, tokens: int, position: int) -> None:
        """Gives `chunk` the first gap that holds `tokens`. Raises ValueError for a second slot, or where none fits."""
        if chunk in self._slots:
            raise ValueError(f"chunk {chunk}: it has a slot in the KV store already")
        start = 0
        for slot in sorted(self._slots.values(), key=lambda s: s.start):
            if slot.start - start >= tokens:
                break
            start = slot.start + slot.length
        if start + tokens > self.capacity:
            raise ValueError(f"chunk {chunk}: no room for {tokens} tokens in a KV store of {self.capacity}, "
                             f"{self.tokens} of them taken")
        self._slots[chunk] = Slot(start, tokens, position)

    def _slot(self, chunk: int) -> Slot:
        if chunk not in self._slots:
            raise ValueError(f"chunk {chunk}: it has no slot in the KV store, which holds {self.chunks}")
        return self._slots[chunk]

    def release(self, chunk: int) -> None:
        """Frees the chunk's slot in every layer and stream."""
        self._slot(chunk)
        del self._slots[chunk]
        self._written = {place for place in self._written if place[2] != chunk}

    def write(self, layer: int, stream: str, chunk: int, keys: Tensor, values: Tensor,
              items: Tensor | None = None) -> None:
        """Stores `(items, heads, tokens, head_dim)` of a resident chunk; `items` chooses batch items."""
        slot = self._slot(chunk)
        if keys.shape[2] != slot.length:
            raise ValueError(f"chunk {chunk}: {keys.shape[2]} keys for a slot of {slot.length} tokens")
        where = slice(slot.start, slot.start + slot.length)
        for buffer, new in ((self._keys, keys), (self._values, values)):
            target = buffer[layer, stream][:, :, where]
            if items is None:
                target.copy_(new)
            else:
                target[items] = new.to(target.dtype)
        self._written.add((layer, stream, chunk))

    def read(self, layer: int, stream: str, chunks: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of the written ones of `chunks`, in ascending position; views where slots are adjacent."""
        slots = [self._slots[c] for c in sorted(chunks) if (layer, stream, c) in self._written]
        spans: list[list[int]] = []
        for slot in slots:
            if spans and spans[-1][1] == slot.start:
                spans[-1][1] += slot.length
            else:
                spans.append([slot.start, slot.start + slot.length])
        return tuple(self._gather(buffer[layer, stream], spans) for buffer in (self._keys, self._values))

    @staticmethod
    def _gather(buffer: Tensor, spans: list[list[int]]) -> Tensor:
        parts = [buffer[:, :, start:stop] for start, stop in spans]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts, dim=2) if parts else buffer[:, :, :0]

    def positions(self, chunks: Sequence[int]) -> list[int]:
        """Token positions in the video, in the order in which `read` returns them."""
        return [p for c in sorted(chunks) if c in self._slots
                for p in range(self._slots[c].position, self._slots[c].position + self._slots[c].length)]

    def close(self) -> None:
        """Drops every buffer."""
        self._keys.clear()
        self._values.clear()
        self._slots.clear()
        self._written.clear()

    def check_integrity(self) -> None:
        """Raises RuntimeError where the bookkeeping contradicts itself."""
        end, places = 0, sorted(self._slots.values(), key=lambda slot: slot.start)
        for slot in places:
            if slot.start < end or slot.start + slot.length > self.capacity:
                raise RuntimeError(f"KV slots overlap or leave the buffer: {places}")
            end = slot.start + slot.length
        ordered = self.positions(self.chunks)
        if any(a >= b for a, b in zip(ordered[:-1], ordered[1:], strict=True)):
            raise RuntimeError("KV positions are not ascending")
        if any(chunk not in self._slots for _, _, chunk in self._written):
            raise RuntimeError("keys are marked as written for a chunk that is not resident")
