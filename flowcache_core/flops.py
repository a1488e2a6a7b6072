"""FLOPs of a run, counted from architecture, plan and decisions; never measured, never called a speed-up.

Two FLOPs a multiply-add. Norms, softmax, rotation, embeddings, heads, VAE and text encoder are not counted. Keys are
counted as the plan reads them: the own chunk's and those of every chunk in `reads` whose keys exist by then.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .backbones.backbone import Sizes
from .backbones.hooks import Attend
from .plan.chunk_plan import ChunkPlan, Pass


@dataclass(frozen=True)
class Architecture:
    """What one forward costs. dim: hidden width; queries, keys: widths of all query and all key heads;
    linear: weights of a block that every token meets; text_linear: of a block that every text token meets;
    text: text tokens."""

    layers: int
    dim: int
    queries: int
    keys: int
    linear: int
    text_linear: int
    text: int

    def forward(self, tokens: int, seen: int) -> int:
        """FLOPs of `tokens` tokens that look at `seen` keys (their own included), in all layers."""
        attention = 4 * tokens * (seen + self.text) * self.queries
        return self.layers * (2 * tokens * self.linear + attention + 2 * self.text * self.text_linear)


def wan_architecture(dim: int, ffn: int, layers: int, text: int = 512) -> Architecture:
    """Wan2.1 and SkyReels-V2: self- and cross-attention of full width, a two-layer feed-forward."""
    return Architecture(layers, dim, dim, dim, 6 * dim * dim + 2 * dim * ffn, 2 * dim * dim, text)


def magi_architecture(dim: int, ffn: int, layers: int, heads: int, gated: bool = False, kv_heads: int = 8,
                      head_dim: int = 128, text: int = 800) -> Architecture:
    """MAGI-1: grouped keys, parallel self- and cross-attention."""
    q, k = heads * head_dim, kv_heads * head_dim
    return Architecture(layers, dim, q, k, dim * (4 * q + 2 * k + (3 if gated else 2) * ffn), 2 * dim * k, text)


def architecture_of(sizes: Sizes, text: int) -> Architecture | None:
    """Of a backbone with `text` text tokens; None where its sizes do not say."""
    if not sizes.linear:
        return None
    queries, keys = (sizes.query_heads or sizes.heads) * sizes.head_dim, sizes.heads * sizes.head_dim
    return Architecture(sizes.layers, queries, queries, keys, sizes.linear, sizes.text_linear, text)


SKYREELS_1_3B = wan_architecture(1536, 8960, 30)
SKYREELS_14B = wan_architecture(5120, 13824, 40)
MAGI_4_5B = magi_architecture(3072, 12288, 34, 24)

KeysSeen = Callable[[Pass, int], int]
"""Keys in chunks that a pass of a row sees besides its own."""


@dataclass(frozen=True)
class PlanFlops:
    """FLOPs of one stream. computed: of the passes that ran; active: had every pass of the plan run; causal: had every
    chunk been forwarded in every row, each seeing those before it; bidirectional: the same, all seeing all."""

    computed: float
    active: float
    causal: float
    bidirectional: float

    @property
    def saving(self) -> float:
        """Model-call saving: active / computed."""
        return self.active / self.computed


def plan_flops(architecture: Architecture, plan: ChunkPlan, tokens_per_frame: int,
               share: Callable[[Pass, int], float] = lambda p, row: 1.0, keys: KeysSeen | None = None) -> PlanFlops:
    """Counts a plan. share(pass, row) in 0..1: the part of the pass's rows that was computed (1 where all of it was).

    keys(pass, row): other chunks seen, where a budget cut `reads` down; default: every chunk in `reads`.
    """
    sizes = [chunk.frames * tokens_per_frame for chunk in plan.chunks]
    computed = active = causal = bidirectional = 0.0
    for row, passes in enumerate(plan.rows):
        for p in passes:
            own = sum(sizes[c] for c in p.chunks)
            seen = sum(sizes[c] for c in p.reads) if keys is None else keys(p, row) * max(sizes)
            cost = architecture.forward(own, own + seen)
            active += cost
            computed += cost * (share(p, row) if p.kind == "denoise" else 1.0)
        causal += sum(architecture.forward(size, sum(sizes[:c + 1])) for c, size in enumerate(sizes))
        bidirectional += architecture.forward(sum(sizes), sum(sizes))
    return PlanFlops(computed, active, causal, bidirectional)


class FlopCounter:
    """Counts what really runs, from the shapes that attention is called with: PARTIAL passes, chosen keys and rows that
    are left out count by themselves. Zero where the backbone's sizes do not say."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes, self.total = sizes, 0

    def watch(self, kind: str, q: Tensor, k: Tensor, attend: Attend) -> Attend:
        """`attend`, counted, and the linear layers of the tokens (self) or of the text (cross) that lead to it."""
        if not self._sizes.linear:
            return attend
        own = 2 * q.shape[0] * (q.shape[2] * self._sizes.linear if kind == "self"
                                else k.shape[2] * self._sizes.text_linear)
        self.total += own
        width = q.shape[-1]   # channels that carry weights or corrections through attention are not the network's

        def counted(q: Tensor, k: Tensor, *rest: Tensor) -> Tensor:
            self.total += 4 * q[..., 0].numel() * width * k.shape[2]
            return attend(q, k, *rest)
        return counted

    def add_pairs(self, pairs: int, width: int) -> None:
        """Query-key pairs of `width` numbers that a kernel computed without a call of `attend`."""
        self.total += 4 * pairs * width if self._sizes.linear else 0
