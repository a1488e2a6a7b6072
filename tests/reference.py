"""Slow, obvious truths beside the fast code, and what the tests of the core share: a tiny network and its runs, the
golden folder."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from flowcache_core.backbones.hooks import NoHooks
from flowcache_core.backbones.wan import WanConfig, WanTransformer
from flowcache_core.generation import Generation, RunSettings
from flowcache_core.kv import SCORERS, Scorer
from flowcache_core.kv.salience import SalienceHead, fresh_weights
from flowcache_core.plan import ChunkPlan
from flowcache_core.solvers import flow_table

PROPERTY = settings(deadline=None, derandomize=True, database=None, max_examples=60)
TINY = WanConfig(dim=24, layers=2, ffn=32, heads=2, freq_dim=16, text_dim=8, channels=4)
SIDE = 4   # latent height and width of the tiny runs
TOKENS = 4   # per latent frame


def tiny_wan(config: WanConfig = TINY, seed: int = 0) -> WanTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return WanTransformer(config).eval().requires_grad_(False)


def make_scorer(name: str) -> Scorer:
    """A scorer for runs of `TINY`: one that needs a trained head gets an untrained one."""
    if name != "pafu_kv":
        return SCORERS.make(name)
    head = SalienceHead(fresh_weights(TINY.dim), TINY.layers, TINY.heads, TINY.head_dim, tap=0)
    return SCORERS[name](head=head)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def golden(name: str) -> Path:
    """A file of reference vectors; without the folder the test is skipped, and says so."""
    folder = Path(os.environ.get("FLOWCACHE_GOLDEN") or Path(__file__).parents[2] / "shared" / "golden")
    if not folder.is_dir():
        pytest.skip(f"CONFORMANCE NOT CHECKED: no folder {folder}; set FLOWCACHE_GOLDEN to the golden vectors")
    found = sorted(folder.rglob(name))
    if not found:
        pytest.skip(f"CONFORMANCE NOT CHECKED: no {name} in {folder}")
    return found[0]


def naive_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """Softmax attention written out. `visible (Nq, Nk)`: which keys each query may look at."""
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if visible is not None:
        logits = logits.masked_fill(~visible, -torch.inf)
    return logits.softmax(-1) @ v


def block_causal(sizes: Sequence[int]) -> Tensor:
    """`(N, N)`: a token sees every token of its own chunk and of those before; sizes: tokens of each chunk."""
    chunk = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return chunk[None] <= chunk[:, None]


class Masked(NoHooks):
    """One dense forward in which self-attention sees only what `visible` allows."""

    def __init__(self, visible: Tensor) -> None:
        self.visible = visible

    def attention(self, index, kind, q, k, v, attend):
        return naive_attention(q, k, v, self.visible if kind == "self" else None)


def accumulator(distances: Sequence[float], threshold: float, warmup: int, last: int, longest: int = 0) -> list[bool]:
    """FlowCache by hand: whether each step is computed. distances[s]: how far the signal moved from step s - 1 to s."""
    total, skips, computed = 0.0, 0, []
    for step, distance in enumerate(distances):
        if step < warmup or step >= len(distances) - last:
            compute = True
        else:
            total += distance
            compute = not total < threshold or (longest > 0 and skips == longest)
        total, skips = (0.0, 0) if compute else (total, skips + 1)
        computed.append(compute)
    return computed


class ListStore:
    """A KV store that copies every chunk's keys and values into a dict, item by item."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.data: dict[tuple[int, str, int], list[tuple[Tensor, Tensor]]] = {}

    def write(self, layer: int, stream: str, chunk: int, keys: Tensor, values: Tensor, items: Sequence[int]) -> None:
        kept = self.data.setdefault((layer, stream, chunk), [None] * len(keys))
        if len(kept) < len(keys):
            raise AssertionError("the first write must be of the whole batch")
        for row, item in enumerate(items):
            kept[item] = (keys[row].clone(), values[row].clone())

    def release(self, chunk: int) -> None:
        del self.sizes[chunk]
        self.data = {place: kept for place, kept in self.data.items() if place[2] != chunk}

    def read(self, layer: int, stream: str, chunks: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        found = [self.data[layer, stream, c] for c in sorted(chunks) if (layer, stream, c) in self.data]
        if not found:
            return None
        return tuple(torch.cat([torch.stack([item[part] for item in kept]) for kept in found], dim=2)
                     for part in (0, 1))


def texts(chunks: int, streams: Sequence[str] = ("cond#0", "uncond#0"), items: int = 1) -> dict[str, list[Tensor]]:
    """An embedded prompt for every stream, the same in every chunk."""
    return {stream: [normal(items, 5, TINY.dim, seed=100 + n)] * chunks for n, stream in enumerate(streams)}


def tiny_run(plan: ChunkPlan, model: WanTransformer | None = None, given: dict | None = None, **settings) -> Generation:
    """A run of `plan` on a tiny network; settings as in RunSettings."""
    table = settings.pop("table", flow_table(plan.num_steps, 3.0))
    if plan.first_steps is not None:
        settings.setdefault("first_table", flow_table(plan.first_steps, 3.0))
    prefix = normal(settings.get("items", 1), TINY.channels, plan.chunks[plan.prefix_chunks - 1].stop, SIDE, SIDE,
                    seed=50) if plan.prefix_chunks else None
    return Generation(model or tiny_wan(), plan, RunSettings(table, SIDE, SIDE, **settings),
                      given or texts(len(plan.chunks)), prefix)


def decisions(run: Generation) -> dict[tuple[int, int, str, int], str]:
    return {(lane.chunk, lane.step, lane.stream, lane.item): lane.decision
            for p in run.trace.passes for lane in p.lanes}
