"""Where in a buffer the tokens of each chunk lie: the store's bookkeeping, in ints, one for all layers and streams.

A chunk's slot is a list of spans, so that freed room is never too scattered to be used. Folded chunks share one slot,
whose tokens every head chose for itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..saved import saved

Span = tuple[int, int]   # start and stop, in tokens of a buffer


@saved
@dataclass(frozen=True)
class Slot:
    """Spans of a buffer, in the order of their tokens; `position` is the first token's place in the video."""

    spans: tuple[Span, ...]
    position: int

    @property
    def tokens(self) -> int:
        return sum(stop - start for start, stop in self.spans)


def joined(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, neighbours made one."""
    out: list[Span] = []
    for start, stop in spans:
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], stop)
        elif stop > start:
            out.append((start, stop))
    return out


def first_tokens(spans: Iterable[Span], tokens: int) -> tuple[Span, ...]:
    """The first `tokens` tokens of the spans."""
    out: list[Span] = []
    for start, stop in spans:
        if tokens > 0:
            out.append((start, min(stop, start + tokens)))
            tokens -= out[-1][1] - out[-1][0]
    return tuple(out)


@saved
@dataclass(frozen=True)
class Fold:
    """One compression event: of the tokens in `old` (folded ones first, then whole chunks) `keep` stay, in `new`.

    chunks: those that lose their slots, with position and tokens of each; folded: tokens that were folded before.
    """

    old: tuple[Span, ...]
    new: tuple[Span, ...]
    keep: int
    folded: int
    chunks: tuple[tuple[int, int, int], ...]

    @property
    def tokens(self) -> int:
        return self.folded + sum(tokens for _, _, tokens in self.chunks)


class Layout:
    """Slots by chunk, and one slot of folded tokens. `folded_chunks`: the chunks from which those come."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.slots: dict[int, Slot] = {}
        self.folded: Slot | None = None
        self.folded_chunks: frozenset[int] = frozenset()

    @property
    def tokens(self) -> int:
        return sum(slot.tokens for slot in self._all())

    def tokens_of(self, chunks: Iterable[int]) -> int:
        """Resident tokens of `chunks`; all folded ones, if one of the chunks is folded."""
        chunks = set(chunks)
        folded = self.folded.tokens if self.folded and self.folded_chunks & chunks else 0
        return folded + sum(self.slots[chunk].tokens for chunk in chunks if chunk in self.slots)

    def _all(self) -> list[Slot]:
        return [*self.slots.values(), *([self.folded] if self.folded else [])]

    def _free(self) -> list[Span]:
        taken = sorted(span for slot in self._all() for span in slot.spans)
        edges = [0, *(edge for span in taken for edge in span), self.capacity]
        return joined(zip(edges[::2], edges[1::2], strict=True))

    def slot(self, chunk: int) -> Slot:
        if chunk not in self.slots:
            raise ValueError(f"chunk {chunk}: it has no slot in the KV store, which holds {tuple(sorted(self.slots))}")
        return self.slots[chunk]

    def reserve(self, chunk: int, tokens: int, position: int) -> None:
        """Gives `chunk` the first free tokens. Raises ValueError for a second slot, or where there are too few."""
        if chunk in self.slots:
            raise ValueError(f"chunk {chunk}: it has a slot in the KV store already")
        if self.tokens + tokens > self.capacity:
            raise ValueError(f"chunk {chunk}: no room for {tokens} tokens in a KV store of {self.capacity}, "
                             f"{self.tokens} of them taken")
        self.slots[chunk] = Slot(first_tokens(self._free(), tokens), position)

    def release(self, chunk: int) -> None:
        self.slot(chunk)
        del self.slots[chunk]

    def fold(self, chunks: Sequence[int], keep: int) -> Fold:
        """Folds `chunks` into what was folded before and keeps `keep` tokens of it all."""
        folding = [self.slot(chunk) for chunk in sorted(chunks)]
        sources = [*([self.folded] if self.folded else []), *folding]
        old = tuple(span for slot in sources for span in slot.spans)
        if not 0 < keep <= sum(slot.tokens for slot in sources):
            raise ValueError(f"{keep} tokens to keep of {sum(slot.tokens for slot in sources)}: expected 1 to all")
        new = first_tokens(joined(sorted(old)), keep)
        event = Fold(old, new, keep, self.folded.tokens if self.folded else 0,
                     tuple((chunk, self.slots[chunk].position, self.slots[chunk].tokens) for chunk in sorted(chunks)))
        self.folded = Slot(new, sources[0].position)
        self.folded_chunks |= set(chunks)
        for chunk in chunks:
            del self.slots[chunk]
        return event

    def export_state(self) -> dict[str, Any]:
        return {"slots": dict(self.slots), "folded": self.folded, "folded_chunks": self.folded_chunks}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over slots as they lay in a buffer of any size that holds them."""
        self.slots, self.folded, self.folded_chunks = dict(state["slots"]), state["folded"], state["folded_chunks"]
        self.check()

    def check(self) -> None:
        """Raises RuntimeError where slots overlap, leave the buffer, or contradict the order of the video."""
        end = 0
        for start, stop in sorted(span for slot in self._all() for span in slot.spans):
            if start < end or stop > self.capacity:
                raise RuntimeError(f"KV slots overlap or leave the buffer: {self._all()}")
            end = stop
        ordered = [self.slots[chunk] for chunk in sorted(self.slots)]
        if any(a.position + a.tokens > b.position for a, b in zip(ordered[:-1], ordered[1:], strict=True)):
            raise RuntimeError("KV positions are not ascending")
