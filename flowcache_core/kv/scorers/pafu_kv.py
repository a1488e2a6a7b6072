"""PaFu-KV (arXiv 2601.21896): tokens are rated by a small trained head, once, when their keys are written.

The paper leaves open where the head reads, what it is trained on and how scores age; see docs/kv-methods.md for ours.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ...registry import knob
from ..budget import KVShape
from ..salience import SalienceHead, load_head
from ..scoring import SCORERS, Cached, Scorer

BUNDLED = Path(__file__).parents[1] / "weights" / "salience-demo.safetensors"


@SCORERS.register("pafu_kv")
@dataclass(frozen=True)
class PaFuKV(Scorer):
    """Keeps the tokens that the head expects later chunks to look at."""

    needs_queries: ClassVar[bool] = False

    weights: str = knob("", None, None, "path of a head that train-salience wrote; empty: the bundled model's")
    decay: float = knob(1.0, 0.01, 1, "of a token's salience, with every chunk of age")
    head: SalienceHead | None = field(default=None, repr=False, compare=False, metadata={"doc": "read from the file"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head is None:
            object.__setattr__(self, "head", load_head(self.weights or BUNDLED))

    @property
    def tap(self) -> int | None:
        return self.head.tap

    def mark(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)[..., [self.head.group_of(layer) for layer in range(self.head.layers)]]

    def check(self, shape: KVShape) -> None:
        self.head.check(shape)

    def score(self, queries: Tensor | None, cached: Cached) -> Tensor:
        """The head's output is the logarithm of a salience, so decay is added."""
        if self.decay == 1:
            return cached.salience
        age = (cached.positions[..., -1:] - cached.positions) // cached.tokens_per_chunk
        return cached.salience + age * math.log(self.decay)
