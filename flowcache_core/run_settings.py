"""What a run is asked for, and whether plan and settings fit one another before anything is sampled."""

from dataclasses import dataclass, field
from typing import Any

import torch

from .attention import SparseAttention
from .guidance import ClassifierFree, Guidance
from .kv import Compression, KVBudget
from .plan.chunk_plan import ChunkPlan
from .reuse.contract import ReusePolicy
from .reuse.policies.off import Off
from .reuse.predictors import Predictor, Velocity
from .solvers.base import Solver
from .solvers.noise import NoiseRule, PerChunk
from .solvers.sigmas import SigmaTable
from .solvers.unipc import UniPC

NEAR = 1e-6   # 0.3 of 10 steps is step 3


@dataclass(frozen=True)
class RunSettings:
    """What a run is asked for. height, width: of the latent; items: batch size; first_table: levels of chunk 0 where
    it takes other steps; context_timestep: what commit and prefix passes tell the network; kv_dtype: None is the
    model's; kv_device: where keys lie, gpu, cpu (the host's memory) or auto, by free memory; batch_streams: cond and
    uncond in one call or in one each; compression: how finished chunks are folded
    where the budget asks for room (None: the oldest leave); near_clean: weight of a chunk's own velocity where it is
    blended with that of its near-clean pass; given_noise: how noisy prefix chunks and held frames are shown to the
    network, 0..1000, with fresh noise in every row (None: as they are, prefix chunks at context_timestep and held
    frames at 0); sparse: which keys are looked at (None: all); first_chunk, video_chunks: the number that the plan's
    first chunk has in the finished video, and the chunks of that, where the plan makes only a part of it; reuse_from,
    reuse_until: the part of a chunk's steps, 0..1, in which the policy may skip."""

    table: SigmaTable
    height: int
    width: int
    items: int = 1
    seed: int = 0
    guidance: float | Guidance = 1.0
    solver: Solver = field(default_factory=UniPC)
    policy: ReusePolicy = field(default_factory=Off)
    predictor: Predictor = field(default_factory=Velocity)
    budget: KVBudget = field(default_factory=KVBudget)
    compression: Compression | None = None
    noise_rule: NoiseRule = field(default_factory=PerChunk)
    first_table: SigmaTable | None = None
    context_timestep: float = 0.0
    kv_dtype: torch.dtype | None = None
    kv_device: str = "auto"
    batch_streams: bool = True
    near_clean: float = 0.7
    given_noise: float | None = None
    sparse: SparseAttention | None = None
    first_chunk: int = 0
    video_chunks: int | None = None
    reuse_from: float = 0.0
    reuse_until: float = 1.0

    def __post_init__(self) -> None:
        if self.items < 1:
            raise ValueError(f"batch of {self.items}: expected at least 1 item")
        if self.given_noise is not None and not 0 <= self.given_noise <= 1000:
            raise ValueError(f"noise of {self.given_noise} on given frames: expected 0 to 1000 (20 is usual, 0 is off)")
        if not 0 <= self.reuse_from <= self.reuse_until <= 1:
            raise ValueError(f"skipping from {self.reuse_from:g} until {self.reuse_until:g} of a chunk's steps: "
                             "expected two numbers of 0 to 1, the first one not above the second")
        _ = self.guide   # checks the scale

    @property
    def guide(self) -> Guidance:
        return self.guidance if isinstance(self.guidance, Guidance) else ClassifierFree(self.guidance)

    @property
    def streams(self) -> tuple[str, ...]:
        return self.guide.streams

    def may_skip(self, step: int, steps: int) -> bool:
        """Whether the policy is asked at a step of so many; elsewhere it is told that everything is computed."""
        return self.reuse_from - NEAR <= step / steps <= self.reuse_until + NEAR

    def describe(self) -> dict[str, Any]:
        """As the trace holds it."""
        named = type(self.guidance).__name__ if isinstance(self.guidance, Guidance) else self.guidance
        return {"steps": self.table.steps, "seed": self.seed, "guidance": named, "items": self.items,
                "latent": [self.height, self.width], "solver": self.solver.name, "policy": self.policy.name,
                "policy_settings": self.policy.settings(), "predictor": self.predictor.name,
                "reuse_from": self.reuse_from, "reuse_until": self.reuse_until,
                "budget": None if self.budget.amount is None else f"{self.budget.amount:g} {self.budget.unit}",
                "sink_chunks": self.budget.sink_chunks, "recent_chunks": self.budget.recent_chunks,
                "scorer": self.compression.scorer.name if self.compression else None,
                "merger": self.compression.merger.name if self.compression and self.compression.merger else None,
                "sparse": self.sparse.describe() if self.sparse else None, "noise_rule": self.noise_rule.name}


def check_plan(plan: ChunkPlan, settings: RunSettings, can_shift: bool = True) -> None:
    """can_shift: whether the network can tell cached keys another place.

    Raises ValueError where the plan's steps are not those of the tables, or it has a pass that this run cannot do.
    """
    for count, table in ((plan.num_steps, settings.table), (plan.first_steps, settings.first_table)):
        if count is not None and (table is None or table.steps != count):
            raise ValueError(f"plan of {count} steps with a table of {table and table.steps}: they must agree")
    if not can_shift and any(plan.moved(p) for p in plan.passes()):
        raise ValueError("a sink that moves along with a network that cannot turn cached keys: choose a history "
                         "without rebase")
    cached = settings.compression.cached_chunks if settings.compression else None
    if cached is not None and cached <= plan.most_in_flight():
        raise ValueError(f"compression of {cached} cached chunks with {plan.most_in_flight()} in flight: expected at "
                         "least one more")
    if settings.compression is not None and settings.compression.finished_chunks is None and any(
            p.reads != tuple(range(p.chunks[0])) for p in plan.passes() if p.kind != "near_clean"):
        raise ValueError("KV compression with a plan whose chunks see only a part of the past: folded tokens have no "
                         "chunk; use the budget's sink and recent chunks instead of the plan's history")
