"""Numbers beside every cached token: what a merger or a scorer wants to know of it later.

They lie in the store's own slots and follow a token through every compression. Known names: `log_m`, the logarithm of
how many tokens a merged one stands for; `score`, what a scorer said of it last; `salience`, what was said of it when
its keys were written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .layout import Span
from .select import gather_tokens

LOG_M, SCORE, SALIENCE = "log_m", "score", "salience"
Place = tuple[int, str]   # layer, stream


@dataclass(frozen=True)
class Kept:
    """What is left of a compression: `index (items, heads, keep)` of the tokens that stay, ascending.

    values `(items, heads, keep, d)`: in place of their own; marks: new ones, each `(items, heads, keep)`.
    """

    index: Tensor
    values: Tensor | None = None
    marks: Mapping[str, Tensor] = field(default_factory=dict)


class Marks:
    """`(items, heads, capacity)` fp32 numbers of every place, by name; 0 until they are set."""

    def __init__(self, names: Sequence[str], places: Sequence[Place], size: tuple[int, int, int],
                 device: torch.device | str) -> None:
        self.names = tuple(names)
        self._buffers = {(place, name): torch.zeros(size, device=device) for place in places for name in self.names}
        self._used: set[tuple[Place, str]] = set()

    def clear(self, place: Place, spans: Sequence[Span]) -> None:
        """Sets the marks of a slot to 0: what lands there is new."""
        for name in self.names:
            for start, stop in spans if self.used(place, name) else ():
                self._buffers[place, name][..., start:stop] = 0

    def write(self, place: Place, name: str, spans: Sequence[Span], values: Tensor,
              items: Tensor | None = None) -> None:
        """Stores `(items, heads, n)` in the n tokens of `spans`; items chooses batch items."""
        begin, buffer = 0, self._buffers[place, name]
        for start, stop in spans:
            part = values[..., begin:begin + stop - start]
            if items is None:
                buffer[..., start:stop] = part
            else:
                buffer[items, :, start:stop] = part.to(buffer.dtype)
            begin += stop - start
        self._used.add((place, name))

    def read(self, place: Place, name: str, spans: Sequence[Span]) -> Tensor:
        """`(items, heads, n)` of the tokens of `spans`."""
        buffer = self._buffers[place, name]
        return torch.cat([buffer[..., start:stop] for start, stop in spans], dim=-1) if spans else buffer[..., :0]

    def used(self, place: Place, name: str) -> bool:
        """Whether any token of this place ever had such a mark set."""
        return (place, name) in self._used

    def fold(self, place: Place, old: Sequence[Span], new: Sequence[Span], kept: Kept) -> None:
        """Moves the marks of the tokens that stay, and sets the new ones."""
        for name in self.names:
            if name in kept.marks:
                self.write(place, name, new, kept.marks[name])
            elif self.used(place, name):
                before = self.read(place, name, old).unsqueeze(-1)
                self.write(place, name, new, gather_tokens(before, kept.index).squeeze(-1))

    def export_state(self) -> dict[tuple[Place, str], Tensor]:
        """The buffers that hold something other than 0."""
        return {key: self._buffers[key] for key in self._used}

    def restore(self, state: Mapping[tuple[Place, str], Tensor]) -> None:
        """Takes over what marks of the same names and sizes exported."""
        for key, buffer in state.items():
            self._buffers[key].copy_(buffer)
        self._used = set(state)

    def close(self) -> None:
        self._buffers.clear()
        self._used.clear()

    def check(self, spans: Sequence[Span]) -> None:
        """Raises RuntimeError where a resident token stands for less than one, or for no number at all."""
        for (place, name), buffer in self._buffers.items():
            values = torch.cat([buffer[..., start:stop] for start, stop in spans], dim=-1) if spans else buffer[..., :0]
            if not values.isfinite().all() or name == LOG_M and (values < 0).any():
                raise RuntimeError(f"layer {place[0]}, {place[1]}: marks {name!r} that no token can have")
