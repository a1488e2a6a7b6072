"""Keys and values in the host's memory: pinned, and the next layer's are copied while this one computes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .layout import Span
from .marks import Place
from .storage import Buffer, Format, Parts


class HostBuffer(Buffer):
    """A buffer in pinned host memory, tokens first so that a span is one piece; read on `device`."""

    def __init__(self, form: Format, size: Sequence[int], device: torch.device | str) -> None:
        self.form, self.device, self.error = form, torch.device(device), None
        pinned = self.device.type == "cuda"
        self._bases = tuple(torch.empty((size[2], *size[:2], width), dtype=dtype, pin_memory=pinned)
                            for width, dtype in form.widths(size[3]))
        self.parts = tuple(base.permute(1, 2, 0, 3) for base in self._bases)

    def put_parts(self, spans: Sequence[Span], new: Parts, items: Tensor | None = None) -> None:
        if items is not None or self.device.type != "cuda":
            self._wait()
            return super().put_parts(spans, new, items)
        for base, given in zip(self._bases, new, strict=True):
            begin = 0
            for start, stop in spans:
                piece = given[:, :, begin:begin + stop - start].permute(2, 0, 1, 3)
                base[start:stop].copy_(piece.contiguous(), non_blocking=True)
                begin += stop - start

    def put_tokens(self, places: Tensor, new: Tensor, items: Tensor | None = None) -> None:
        self._wait()
        super().put_tokens(places, new, items)

    def get_parts(self, spans: Sequence[Span]) -> Parts:
        """Copies on `device`."""
        found = []
        for base in self._bases:
            pieces = [base[start:stop].to(self.device, non_blocking=True, copy=True) for start, stop in spans]
            whole = torch.cat(pieces) if pieces else base[:0].to(self.device)
            found.append(whole.permute(1, 2, 0, 3).contiguous())
        return tuple(found)

    def at_rest(self, span: Span) -> Parts:
        self._wait()
        return tuple(part[:, :, slice(*span)] for part in self.parts)

    def _wait(self) -> None:
        """Until copies to the host are done: what follows is done by the processor."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Copied:
    """What was copied ahead for a place: spans of which chunks, by which version of the layout."""

    spans: list[Span]
    chunks: frozenset[int]
    version: int
    parts: tuple[Parts, Parts]
    event: Any = None


class Ahead:
    """Copies of host buffers on the device, made on a stream of their own before they are asked for."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._copied: dict[Place, Copied] = {}

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(self._copied)

    def begin(self, place: Place, buffers: tuple[Buffer, Buffer], spans: list[Span], chunks: Iterable[int],
              version: int) -> None:
        """Starts the copy of `spans` of keys and values."""
        if self._stream is None:
            self._copied[place] = Copied(spans, frozenset(chunks), version, self.copy(place, buffers, spans))
            return
        self._stream.wait_stream(torch.cuda.current_stream(self.device))   # what is still on its way to the host
        with torch.cuda.stream(self._stream):
            parts = self.copy(place, buffers, spans)
            self._copied[place] = Copied(spans, frozenset(chunks), version, parts, self._stream.record_event())

    def take(self, place: Place, buffers: tuple[Buffer, Buffer], spans: list[Span],
             version: int) -> tuple[Parts, Parts]:
        """Keys and values of `spans` on the device, copied ahead or now."""
        found = self._copied.pop(place, None)
        if found is None or found.spans != spans or found.version != version:
            return self.copy(place, buffers, spans)
        if found.event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(found.event)
            for part in (*found.parts[0], *found.parts[1]):
                part.record_stream(current)
        return found.parts

    def copy(self, place: Place, buffers: tuple[Buffer, Buffer], spans: list[Span]) -> tuple[Parts, Parts]:
        return tuple(buffer.get_parts(spans) for buffer in buffers)

    def changed(self, place: Place, chunk: int | None = None) -> None:
        """Drops what was copied for a place of which a chunk (None: anything) is written."""
        if place in self._copied and (chunk is None or chunk in self._copied[place].chunks):
            del self._copied[place]

    def clear(self) -> None:
        self._copied.clear()


def resident_layers(wanted: str, layers: int, layer_bytes: int, device: torch.device | str) -> int:
    """How many layers' buffers lie on `device`: all for "gpu", none for "cpu", for "auto" as many as fit in four fifths
    of its free memory. Raises ValueError for a GPU on a host without one."""
    device = torch.device(device)
    if wanted not in ("auto", "gpu", "cpu"):
        raise ValueError(f"KV device {wanted!r}: choose auto, gpu or cpu")
    if device.type == "cpu":
        if wanted == "gpu":
            raise ValueError("KV device gpu: the network runs on the CPU, where there is no GPU memory; choose auto")
        return layers if wanted == "auto" else 0
    if wanted != "auto" or device.type != "cuda":
        return 0 if wanted == "cpu" else layers
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(layers, int(0.8 * free) // max(1, layer_bytes))
