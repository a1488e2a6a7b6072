"""What is done with each row of a call, block by block: everything, some tokens, some blocks, or nothing.

Rows are numbers in the batch of the call. Rows that compute other tokens than others run apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .reuse.contract import BlockRange, Decision, Kind


@dataclass(frozen=True)
class Group:
    """Rows that run together in one block. tokens: those that run `(n,)`, None for all."""

    rows: tuple[int, ...]
    tokens: Tensor | None = None


class RowWork:
    """The decisions of a call's rows, sorted by what the network has to do. None stands for a pass without decisions,
    which is computed whole."""

    def __init__(self, decisions: Sequence[Decision | None], device: torch.device) -> None:
        self._device = device
        self.whole = [n for n, d in enumerate(decisions) if d is None or d.computes]
        self.recorded = [n for n in self.whole if decisions[n] is None or decisions[n].records]
        self.skipped = [n for n, d in enumerate(decisions) if d is not None and d.kind in (Kind.REUSE, Kind.PREDICT)]
        self.derived = [n for n, d in enumerate(decisions) if d is not None and d.kind is Kind.DERIVE]
        self.tokens: dict[int, Tensor] = {}
        self.gaps: dict[int, BlockRange] = {}
        tensors: dict[tuple[int, ...], Tensor] = {}
        for n, d in enumerate(decisions):
            if d is not None and d.kind is Kind.PARTIAL and d.tokens is not None:
                if d.tokens not in tensors:
                    tensors[d.tokens] = torch.tensor(d.tokens, device=device)
                self.tokens[n] = tensors[d.tokens]
            elif d is not None and d.kind is Kind.PARTIAL:
                self.gaps[n] = d.blocks
        self._token_groups = [Group(tuple(n for n, t in self.tokens.items() if t is tokens), tokens)
                              for tokens in tensors.values()]
        self._always = self._groups(self.whole)

    @property
    def running(self) -> int:
        """Rows for which the network computes at least a part."""
        return len(self.whole) + len(self.tokens) + len(self.gaps)

    def groups(self, index: int) -> list[Group]:
        """What runs in block `index`."""
        if not self.gaps:
            return self._always
        return self._groups(sorted([*self.whole, *(n for n, (a, b) in self.gaps.items() if not a <= index < b)]))

    def _groups(self, all_tokens: Sequence[int]) -> list[Group]:
        return [*([Group(tuple(all_tokens))] if all_tokens else []), *self._token_groups]

    def index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, device=self._device)
