"""What a run writes down of its passes: decisions, time, tokens, FLOPs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .backbones.backbone import Sizes
from .deciding import Deciding
from .flops import architecture_of
from .lanes import Lane
from .plan.chunk_plan import Pass
from .reuse.contract import Decision
from .run_cache import RunCache
from .run_texts import Texts, text_of
from .trace import LaneRecord, PassRecord

if TYPE_CHECKING:
    from .pass_hooks import PassHooks


@dataclass(frozen=True)
class Cost:
    """What a pass cost: see `PassRecord`."""

    seconds: float = 0.0
    hook_seconds: float = 0.0
    kv_seconds: float = 0.0
    compress_seconds: float = 0.0
    calls: int = 0
    keys: int = 0
    flops: int = 0

    def plus(self, hooks: "PassHooks") -> "Cost":
        return Cost(self.seconds, self.hook_seconds + hooks.watch.hooks,
                    self.kv_seconds + hooks.kv_watch.hooks - hooks.compress_seconds,
                    self.compress_seconds + hooks.compress_seconds, self.calls + hooks.computed_rows,
                    max(self.keys, hooks.keys_seen), self.flops + hooks.flops.total)


class PassRecorder:
    """sizes: of the network; tokens: of a latent frame. Chunks count from `settings.first_chunk` in what is written."""

    def __init__(self, deciding: Deciding, cache: RunCache, texts: Texts, sizes: Sizes, tokens: int) -> None:
        self._plan, self._settings = deciding.plan, deciding.settings
        self._deciding, self._cache, self._texts, self._tokens = deciding, cache, texts, tokens
        self._sizes = sizes

    def record(self, number: int, p: Pass, decisions: dict[Lane, Decision], cost: Cost) -> PassRecord:
        """Of a pass in row `number`, when it is over."""
        steps, first = dict(p.moves), self._settings.first_chunk
        lanes = tuple(LaneRecord(lane.chunk + first, steps[lane.chunk], lane.stream, lane.item, d.kind.value, d.reason,
                                 d.distance, d.value, d.limit,
                                 d.share(self._deciding.tokens(lane.chunk), self._sizes.layers))
                      for lane, d in decisions.items())
        chunks = tuple(c + first for c in p.chunks if c not in p.still)
        return PassRecord(number, p.kind, chunks, tuple(steps.values()), cost.seconds, cost.hook_seconds, cost.calls,
                          *self._cache.held(), lanes, cost.keys, cost.kv_seconds, cost.compress_seconds, cost.flops,
                          self._whole_flops(p))

    def _whole_flops(self, p: Pass) -> int:
        """FLOPs of the pass had every row of it been computed densely; 0 where they are not known."""
        tokens, past = sum(self._plan.chunks[c].frames for c in p.chunks) * self._tokens, self._cache.readable(p)
        total = 0
        for stream in self._deciding.streams(p):
            architecture = architecture_of(self._sizes, text_of(self._texts, p, stream).shape[1])
            seen = tokens + (past if self._settings.guide.cache_of(stream) is not None else 0)
            total += architecture.forward(tokens, seen) if architecture else 0
        return self._settings.items * total
