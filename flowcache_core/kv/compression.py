"""How finished chunks are folded: a merger joins tokens, a scorer values the rest, and the best of every head stay.

Composable like a press: a scorer or a merger is one file, and selection, order and granularity are here once.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .budget import KVShape
from .marks import LOG_M, SALIENCE, SCORE, Kept
from .merging import Merged, Merger
from .scorers.flowcache import FlowCacheScore
from .scoring import Cached, Scorer
from .select import Granularity, by_position, by_score, gather_tokens
from .store import KVStore

GRANULARITIES = ("token", "frame", "chunk")


@dataclass(frozen=True)
class Compression:
    """merger: joins tokens before the scorer drops any. granularity: what is kept or dropped as a whole.

    The rest is for comparison with the authors' release. released_order: survivors lie in the order of their scores
    and are pooled in that order, instead of the video's. finished_chunks (SkyReels-V2): fold as soon as more than so
    many are finished, instead of when the budget asks for room. cached_chunks (MAGI-1): fold one chunk away
    at the end of each stage in which so many are cached, with the queries of the last chunk that was computed.
    """

    scorer: Scorer = field(default_factory=FlowCacheScore)
    granularity: Granularity = "token"
    released_order: bool = False
    finished_chunks: int | None = None
    cached_chunks: int | None = None
    merger: Merger | None = None

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"granularity {self.granularity!r}: choose one of {', '.join(GRANULARITIES)}")
        if self.merger is not None and (self.granularity != "token" or self.released_order):
            raise ValueError(f"merger {self.merger.name!r} with granularity {self.granularity!r}"
                             f"{' in the released order' * self.released_order}: tokens are merged one by one, in the "
                             "video's order; use granularity token")

    @property
    def marks(self) -> tuple[str, ...]:
        """What the store must keep beside each token."""
        return ((LOG_M,) * (self.merger is not None) + (SCORE,) * self.scorer.remembers
                + (SALIENCE,) * (self.scorer.tap is not None))

    def check(self, shape: KVShape) -> None:
        """Raises ValueError where a method does not fit a cache of this shape."""
        for method in filter(None, (self.merger, self.scorer)):
            method.check(shape)

    def group(self, tokens_per_frame: int, tokens_per_chunk: int) -> int:
        """Tokens that stay or go together."""
        return {"token": 1, "frame": tokens_per_frame, "chunk": tokens_per_chunk}[self.granularity]

    def choose(self, queries: Tensor, cached: Cached, keep: int) -> Tensor:
        """Indices `(items, kv_heads, keep)` of the tokens that stay. queries: `(items, heads, Lq, d)`."""
        return self.fold(queries, replace(cached, keep=keep)).index

    def fold(self, queries: Tensor, cached: Cached) -> Kept:
        """What is left when `cached.keep` tokens stay."""
        if self.merger is not None:
            return self._merge(queries, cached)
        score = self._score(queries, cached)
        index = self._best(score, cached)
        return Kept(index, None, {SCORE: score.gather(-1, index)} if self.scorer.remembers else {})

    def _score(self, queries: Tensor, cached: Cached) -> Tensor:
        return self.scorer.score(queries if self.scorer.needs_queries else None, cached)

    def _best(self, score: Tensor, cached: Cached) -> Tensor:
        order = by_score if self.released_order else by_position
        return order(score, cached.keep, self.group(cached.tokens_per_frame, cached.tokens_per_chunk))

    def _merge(self, queries: Tensor, cached: Cached) -> Kept:
        merged = self.merger.merge(cached, cached.keys.shape[2] - cached.keep)
        left = (~merged.absorbed).sum(-1)
        index = merged.absorbed.byte().sort(dim=-1, stable=True).indices   # those that remain first, ascending
        score = torch.zeros(merged.log_m.shape, device=index.device) if cached.earlier is None else cached.earlier
        if (left > cached.keep).any():
            index, score = self._drop(queries, cached, merged, index, left)
        index = index[..., :cached.keep]
        marks = {LOG_M: merged.log_m.gather(-1, index), SCORE: score.gather(-1, index)}
        return Kept(index, gather_tokens(merged.values, index), {name: marks[name] for name in self.marks})

    def _drop(self, queries: Tensor, cached: Cached, merged: Merged, index: Tensor,
              left: Tensor) -> tuple[Tensor, Tensor]:
        """Lets the scorer choose in every head for itself, since heads have merged unlike numbers of tokens."""
        index, group = index.clone(), queries.shape[1] // cached.keys.shape[1]
        scores = torch.zeros(merged.log_m.shape, device=index.device)
        for item, head in torch.cartesian_prod(*map(torch.arange, left.shape)).tolist():
            rows, own = index[item, head, :left[item, head]], (slice(item, item + 1), slice(head, head + 1))
            part = replace(cached, keys=cached.keys[own][:, :, rows], values=merged.values[own][:, :, rows],
                           positions=cached.positions[own][:, :, rows], log_m=merged.log_m[own][:, :, rows],
                           **{name: None if mark is None else mark[own][:, :, rows]
                              for name, mark in (("earlier", cached.earlier), ("salience", cached.salience))})
            score = self._score(queries[own[0], head * group:(head + 1) * group], part)
            scores[item, head, rows] = score[0, 0]
            index[item, head, :cached.keep] = rows[by_position(score, cached.keep)[0, 0]]
        return index, scores


def settle(store: KVStore, compression: Compression, layer: int, stream: str, queries: Tensor, tokens_per_frame: int,
           tokens_per_chunk: int) -> None:
    """Carries out the announced compression of one layer and stream."""
    keep, marks = store.layout.folded.tokens, store.pending_marks(layer, stream)

    def choose(keys: Tensor, values: Tensor, positions: Tensor) -> Kept:
        return compression.fold(queries, Cached(
            keys, values, None if compression.released_order else positions, tokens_per_frame, tokens_per_chunk, keep,
            layer, store.shape.layers, marks.get(LOG_M), marks.get(SCORE), store.shape.time_theta, marks.get(SALIENCE)))

    store.settle(layer, stream, choose)
