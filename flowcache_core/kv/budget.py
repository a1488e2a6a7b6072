"""How many tokens may live in the KV cache, checked against a plan before anything is sampled.

A budget counts every resident token of one layer and stream: pinned (sink, recent), in flight, and the chunk that
lands. MB and GB count keys and values over all layers, streams and batch items, and are rounded down to tokens.
"""

import math
from dataclasses import dataclass
from typing import Literal

from ..plan.chunk_plan import ChunkPlan

Unit = Literal["tokens", "chunks", "MB", "GB"]
UNIT_BYTES = {"MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class KVShape:
    """What a token costs: keys and values of `heads * head_dim` numbers in `layers` layers of `streams` streams.

    time_theta: the base of the rotary frequencies with which the first channels of a key tell the frame, where they
    lie as in Wan (see kv/rotation.py); None: unknown. scale_bytes: what a one-byte format keeps beside every vector.
    """

    layers: int
    streams: int
    items: int
    heads: int
    head_dim: int
    bytes_per_number: int
    time_theta: float | None = None
    scale_bytes: int = 0

    @property
    def bytes_per_token(self) -> int:
        vector = self.head_dim * self.bytes_per_number + self.scale_bytes
        return 2 * self.layers * self.streams * self.items * self.heads * vector


@dataclass(frozen=True)
class KVBudget:
    """At most `amount` (None: no limit). Finished chunks give way oldest first, but for the first `sink_chunks` and
    the last `recent_chunks`."""

    amount: float | None = None
    unit: Unit = "chunks"
    sink_chunks: int = 0
    recent_chunks: int = 0

    def __post_init__(self) -> None:
        if self.unit not in ("tokens", "chunks", *UNIT_BYTES):
            raise ValueError(f"budget unit {self.unit!r}: choose tokens, chunks, MB or GB")
        if self.amount is not None and not 0 < self.amount < math.inf:
            raise ValueError(f"KV budget of {self.amount} {self.unit}: expected more than 0, or none for no limit")
        if self.sink_chunks < 0 or self.recent_chunks < 0:
            raise ValueError(f"{self.sink_chunks} sink and {self.recent_chunks} recent chunks: expected 0 or more")

    def tokens(self, chunk_tokens: int, shape: KVShape) -> int | None:
        """The limit in tokens per layer and stream."""
        if self.amount is None:
            return None
        if self.unit == "tokens":
            return int(self.amount)
        if self.unit == "chunks":
            return int(self.amount * chunk_tokens)
        return int(self.amount * UNIT_BYTES[self.unit] // shape.bytes_per_token)


def chunk_tokens(plan: ChunkPlan, tokens_per_frame: int) -> int:
    """Tokens of the plan's largest chunk."""
    return max(chunk.frames for chunk in plan.chunks) * tokens_per_frame
