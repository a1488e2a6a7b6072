"""In what precision keys and values lie in a buffer. A format is a small pair of functions; a buffer holds its parts.

Every vector (one token of one head) is stored on its own, so that any choice of tokens can be moved as it lies, without
being rounded a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import Span
from .select import gather_tokens

Parts = tuple[Tensor, ...]   # each `(items, heads, tokens, width)`
LIMITS = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}   # largest code
PLAIN = (torch.float32, torch.float16, torch.bfloat16)
SAMPLE = 64   # tokens of a write on which the error is measured


@dataclass(frozen=True)
class Format:
    """Vectors as they are, in `dtype`."""

    dtype: torch.dtype

    def widths(self, head_dim: int) -> tuple[tuple[int, torch.dtype], ...]:
        """Numbers a vector, and their dtype, of every part."""
        return ((head_dim, self.dtype),)

    def encode(self, x: Tensor) -> Parts:
        return (x.to(self.dtype),)

    def decode(self, parts: Parts) -> Tensor:
        return parts[0]

    def steps(self, parts: Parts) -> Tensor | None:
        """`(items, heads, tokens, 1)`: the distance of neighbouring codes, where it is one for a whole vector."""
        return None


@dataclass(frozen=True)
class Scaled(Format):
    """One byte a number, times the vector's own scale in the dtype of the network: int8 in even steps, or fp8 (e4m3),
    whose steps grow with the number."""

    compute: torch.dtype

    def widths(self, head_dim: int) -> tuple[tuple[int, torch.dtype], ...]:
        return ((head_dim, self.dtype), (1, self.compute))

    def encode(self, x: Tensor) -> Parts:
        limit = LIMITS[self.dtype]
        scale = (x.float().abs().amax(-1, keepdim=True) / limit).to(self.compute)
        scale = scale.clamp_min(torch.finfo(self.compute).tiny)
        codes = (x.float() / scale.float()).clamp(-limit, limit)
        return (codes.round() if self.dtype == torch.int8 else codes).to(self.dtype), scale

    def decode(self, parts: Parts) -> Tensor:
        codes, scale = parts
        return codes.to(self.compute) * scale

    def steps(self, parts: Parts) -> Tensor | None:
        return parts[1] if self.dtype == torch.int8 else None


def format_of(dtype: torch.dtype, compute: torch.dtype) -> Format:
    """The format for a store of `dtype` beside a network of dtype `compute`. Raises ValueError."""
    if dtype in LIMITS:
        return Scaled(dtype, compute)
    if dtype in PLAIN:
        return Format(dtype)
    raise ValueError(f"KV dtype {dtype}: choose float32, float16, bfloat16, float8_e4m3fn or int8")


class Buffer:
    """Room for vectors `(items, heads, capacity, head_dim)`, the keys or the values of one layer and stream.

    error: summed squares of what storing changed, and of what was stored, on a sample of the writes.
    """

    def __init__(self, form: Format, size: Sequence[int], device: torch.device | str) -> None:
        self.form, self.device = form, torch.device(device)
        self.parts: Parts = tuple(torch.empty((*size[:3], width), dtype=dtype, device=device)
                                  for width, dtype in form.widths(size[3]))
        self.error: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def put(self, spans: Sequence[Span], new: Tensor, items: Tensor | None = None) -> None:
        """Stores `new (items, heads, tokens, head_dim)` in `spans`; `items` chooses batch items."""
        self.put_parts(spans, self.form.encode(new), items)

    def put_parts(self, spans: Sequence[Span], new: Parts, items: Tensor | None = None) -> None:
        for part, given in zip(self.parts, new, strict=True):
            begin = 0
            for start, stop in spans:
                target, piece = part[:, :, start:stop], given[:, :, begin:begin + stop - start]
                if items is None:
                    target.copy_(piece)
                else:
                    _indexable(target)[items.to(part.device)] = _indexable(piece.to(part.device))
                begin += stop - start

    def put_tokens(self, places: Tensor, new: Tensor, items: Tensor | None = None) -> None:
        """Stores `new (items, heads, n, head_dim)` at the `n` places of the buffer."""
        rows = range(new.shape[0]) if items is None else items.tolist()
        for part, given in zip(self.parts, self.form.encode(new), strict=True):
            for row, item in enumerate(rows):
                target = _indexable(part[item])
                target.index_copy_(1, places.to(part.device), _indexable(given[row].to(part.device)))

    def get_parts(self, spans: Sequence[Span]) -> Parts:
        """The stored parts of `spans`, one after the other; views where there is one span."""
        return tuple(_gathered(part, spans) for part in self.parts)

    def at_rest(self, span: Span) -> Parts:
        """Views of the parts of a span, where they lie."""
        return self.get_parts([span])

    def get(self, spans: Sequence[Span]) -> Tensor:
        return self.form.decode(self.get_parts(spans))

    def steps(self, spans: Sequence[Span]) -> Tensor | None:
        """Of the vectors in `spans`, see `Format.steps`, on `device`; the codes are not read."""
        whole = self.form.steps(self.parts)
        if whole is None:
            return None
        pieces = [whole[:, :, start:stop].to(self.device) for start, stop in spans]
        return torch.cat(pieces, dim=2) if pieces else whole[:, :, :0].to(self.device)

    def choice(self, spans: Sequence[Span], index: Tensor) -> Parts:
        """Parts of the tokens `index (items, heads, n)`, counted along `spans`."""
        return tuple(gather_tokens(_indexable(part), index.to(part.device)).view(part.dtype)
                     for part in self.get_parts(spans))

    def measure(self, new: Tensor) -> None:
        """Adds to `error` what storing `new` changes, on a few of its tokens."""
        some = new[:, :, ::max(1, new.shape[2] // SAMPLE)]
        change = self.form.decode(self.form.encode(some)).float() - some.float()
        sums = torch.stack([change.square().sum(), some.float().square().sum()])
        self.error = sums if self.error is None else self.error + sums


def _indexable(part: Tensor) -> Tensor:
    """The same bytes in a dtype that can be gathered; few operations know fp8."""
    return part.view(torch.uint8) if part.dtype == torch.float8_e4m3fn else part


def _gathered(part: Tensor, spans: Sequence[Span]) -> Tensor:
    pieces = [part[:, :, start:stop] for start, stop in spans]
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat(pieces, dim=2) if pieces else part[:, :, :0]
