"""TempCache (arXiv 2602.01801): tokens that say the same in neighbouring frames become one.

From the paper: a token is linked to the most similar one of the previous frame, the newest key of a chain of links and
the mean of its values stand for all of them, and log m is added to the logit. Ours: similarity is that of keys turned
back to a common frame, links are one to one, and no more tokens are merged than must go. Also ours: `close_links`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...registry import knob
from ..budget import KVShape
from ..links import best_links, one_to_one
from ..merging import MERGERS, Merged, Merger, fold_into
from ..rotation import turned_back
from ..scoring import Cached

ALIGN, FIRST = ("time", "none"), ("oldest", "closest")


@MERGERS.register("tempcache")
@dataclass(frozen=True)
class TempCache(Merger):
    """Merges links that are at least `similarity`, the oldest first."""

    similarity: float = knob(0.9, -1, 2, "least cosine of two keys that are linked; above 1 nothing is merged")
    first: str = knob("oldest", None, None, "which links are merged where not all need be: oldest or closest")
    align: str = knob("time", None, None, "keys are compared as if all were of one frame (time), or as they are (none)")
    most: int = knob(0, 0, 10**9, "tokens that a merged one counts for at most; 0: any number")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (("align", self.align, ALIGN), ("first", self.first, FIRST)):
            if value not in known:
                raise ValueError(f"{name} {value!r}: choose one of {', '.join(known)}")

    def check(self, shape: KVShape) -> None:
        if self.align == "time" and shape.time_theta is None:
            raise ValueError(f"merger {self.name!r} compares keys as if all were of one frame, and this network does "
                             "not say how its keys are rotated in time: set align=none")

    def merge(self, cached: Cached, surplus: int) -> Merged:
        older, cosine = self.links(cached)
        linked = one_to_one(older, cosine) & (cosine >= self.similarity)
        n = older.shape[-1]
        order = (-older if self.first == "oldest" else cosine).float()
        best = order.masked_fill(~linked, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
        chosen = torch.zeros_like(linked).scatter_(-1, best[..., :surplus], True) & linked
        target = torch.arange(n, device=older.device).expand_as(older).clone()
        # A token that is not linked writes beyond the end, where nothing is read.
        wide = torch.cat([target, target[..., :1]], dim=-1)
        wide.scatter_(-1, torch.where(chosen, older, n), target.clone())
        merged = fold_into(wide[..., :n], cached)
        if not self.most:
            return merged
        return Merged(merged.absorbed, merged.values, merged.log_m.clamp_max(torch.tensor(float(self.most)).log()))

    def links(self, cached: Cached) -> tuple[Tensor, Tensor]:
        """For every token the most similar one of the frame before, `(items, kv_heads, n)` (-1: there is none), and
        the cosine of the two."""
        keys = cached.keys.float()
        if self.align == "time":
            keys = turned_back(keys, cached.frames, cached.time_theta)
        return best_links(F.normalize(keys, dim=-1), cached.frames, cached.tokens_per_frame)


@MERGERS.register("close_links")
@dataclass(frozen=True)
class CloseLinks(TempCache):
    """Merges only keys that are nearly the same as they are stored, the closest first: the rest is for the scorer."""

    similarity: float = knob(0.99, -1, 2, "least cosine of two keys that are linked; above 1 nothing is merged")
    first: str = knob("closest", None, None, "which links are merged where not all need be: oldest or closest")
    align: str = knob("none", None, None, "keys are compared as if all were of one frame (time), or as they are (none)")
