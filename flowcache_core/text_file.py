"""Embedded prompts from a safetensors file, in place of a text encoder.

    prompt        [L, width] or [1, L, width]     for every chunk
    prompt.0, prompt.3, ...                       from that chunk on, in place of `prompt`; the last one holds
    negative      as prompt                       the unconditional prompt; needed where guidance is on

Rows are the encoder's last hidden states: for Wan2.1 umt5-xxl, at most 512 rows, the padding zero or left out; for
MAGI-1 T5 v1.1 XXL, at most 800 rows, without padding.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoints.safetensors_file import safetensors_contents

KEY = re.compile(r"prompt(?:\.(\d+))?")


class TextFile:
    """What a file holds; a prompt is called by its tensor's name and a digest of it. Raises ValueError where the names
    are not those above."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._found = safetensors_contents(self.path).sets[""]
        strays = sorted(name for name in self._found if name != "negative" and not KEY.fullmatch(name))
        starts = {int(match[1] or 0): name for name in self._found if (match := KEY.fullmatch(name))}
        if strays or not starts:
            raise ValueError(f"{self.path}: {f'tensor {strays[0]}' if strays else 'no prompt'}; expected prompt, or "
                             "prompt.0, prompt.3 and so on, and negative")
        if "prompt" in self._found and len(self._found) - ("negative" in self._found) > 1:
            raise ValueError(f"{self.path}: prompt together with prompt.N; call the first one prompt.0")
        if 0 not in starts:
            raise ValueError(f"{self.path}: chunk 0 has no prompt; begin with prompt.0")
        self._starts = starts
        self._labels = {name: f"{name}@{_digest(stored.read())}" for name, stored in self._found.items()}

    def prompts(self, chunks: int) -> tuple[str, ...]:
        """The name of the prompt of every chunk. Raises ValueError for one that begins too late."""
        late = max(self._starts)
        if late >= chunks:
            raise ValueError(f"{self.path}: prompt.{late}, the video has {chunks} chunks, 0 to {chunks - 1}")
        names = {start: self._labels[name] for start, name in self._starts.items()}
        return tuple(names[max(start for start in names if start <= c)] for c in range(chunks))

    @property
    def negative(self) -> str:
        """The name of the unconditional prompt; "" where there is none."""
        return self._labels.get("negative", "")

    def read(self, width: int, rows: int, padded: bool) -> "TextRows":
        """The tensors, for a model whose text has `width` numbers a row and at most `rows` rows; padded: whether fewer
        are filled up with zeros. Raises ValueError where one does not fit."""
        tensors = {}
        for name, stored in self._found.items():
            value = _checked(f"{self.path}: {name}", stored.read(), width, rows)
            tensors[self._labels[name]] = (F.pad(value, (0, 0, 0, rows - value.shape[0])) if padded else value)[None]
        return TextRows(self.path, tensors)


@dataclass(frozen=True)
class TextRows:
    """A `TextEncoder` whose prompts are the names of `TextFile`."""

    path: Path
    tensors: Mapping[str, Tensor]

    def encode(self, prompt: str) -> Tensor:
        """`(1, L, width)`, fp32."""
        if prompt not in self.tensors:
            raise ValueError(f"{self.path}: no negative, which guidance needs; add it, or use --guidance 1")
        return self.tensors[prompt]


def _digest(value: Tensor) -> str:
    """Tells files apart whose tensors have the same names."""
    return hashlib.sha256(value.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[:12]


def _checked(where: str, value: Tensor, width: int, most: int) -> Tensor:
    rows = value[0] if value.dim() == 3 and value.shape[0] == 1 else value
    if rows.dim() != 2 or rows.shape[1] != width or not 1 <= rows.shape[0] <= most:
        raise ValueError(f"{where} of shape {list(value.shape)}; expected [1 to {most}, {width}], rows of the text "
                         "encoder of this model")
    if not rows.is_floating_point() or not torch.isfinite(rows.float()).all():
        raise ValueError(f"{where} holds {'NaN or infinity' if rows.is_floating_point() else rows.dtype}; expected "
                         "finite floating-point numbers; encode the prompt again")
    return rows.float()
