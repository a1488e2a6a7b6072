"""What a video of real size is made of, each part timed on the device at hand: passes by how much they see, skipped
steps, compression events, and the device's own matmul peak. Weights are random; figures do not depend on them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowcache_core.generation import COND, UNCOND, Generation, RunSettings
from flowcache_core.kv import Compression, KVShape, KVStore, settle
from flowcache_core.plan import ChunkPlan, dense, sequential
from flowcache_core.reuse import Kind
from flowcache_core.reuse.policies.replay import Replay
from flowcache_core.solvers import flow_table

REPEATS = 5
SHIFT = 8.0


@dataclass(frozen=True)
class Case:
    """A model at a size. latent: height and width; chunks of `chunk_frames` latent frames make the short video."""

    name: str
    make: Callable[[], Any]
    latent: tuple[int, int]
    chunk_frames: int
    chunks: int
    guidance: float
    text_tokens: int
    text_width: int


def synced() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Synced:
    """A network that returns when it is done, so that the trace's seconds are the device's."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, *arguments: Any) -> Tensor:
        out = self.inner(*arguments)
        synced()
        return out


def load(case: Case, device: str, dtype: torch.dtype) -> Synced:
    torch.manual_seed(0)
    with torch.device(device):
        model = case.make()
    model = model.to(dtype).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():   # a residual stream that stays finite through all layers
        if parameter.dim() > 1:
            parameter.normal_(std=0.02 if "modulation" not in name else 0.001)
    return Synced(model)


def embedded(case: Case, model: Synced, chunks: int) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    words = torch.randn(1, case.text_tokens, case.text_width, generator=generator).to(model.device)
    with torch.inference_mode():
        text = model.embed_text(words)
    return dict.fromkeys((COND, UNCOND), [text] * chunks)


def generation(case: Case, model: Synced, plan: ChunkPlan, computed: Callable[[int, int], bool],
               **settings: Any) -> Generation:
    """A run in which `computed(chunk, step)` says which steps run the network and which repeat a velocity."""
    streams = (COND,) if case.guidance == 1 else (COND, UNCOND)
    decisions = {(c, s, stream, 0): Kind.COMPUTE if computed(c, s) else Kind.REUSE
                 for c in range(len(plan.chunks)) for s in range(plan.num_steps) for stream in streams}
    wanted = RunSettings(flow_table(plan.num_steps, SHIFT), *case.latent, guidance=case.guidance,
                         policy=Replay(decisions=decisions), **settings)
    last = plan.chunks[plan.prefix_chunks - 1].stop if plan.prefix_chunks else 0
    prefix = torch.zeros(1, model.sizes.channels, last, *case.latent) if last else None
    return Generation(model, plan, wanted, embedded(case, model, len(plan.chunks)), prefix)


def passes(case: Case, model: Synced, seen: int) -> dict[str, Any]:
    """A chunk that sees `seen` chunks, its own included: one pass to warm up, then computed ones, then skipped ones."""
    frames = seen * case.chunk_frames
    plan = sequential(frames, case.chunk_frames, 2 * REPEATS + 1, prefix_chunks=seen - 1, commit=False)
    run = generation(case, model, plan, lambda _, step: step <= REPEATS)
    run.run()
    steps = [p for p in run.trace.passes if p.kind == "denoise"]
    computed, skipped = steps[1:REPEATS + 1], steps[REPEATS + 1:]
    return {"seen_chunks": seen, "computed_seconds": statistics.median(p.seconds for p in computed),
            "spread_seconds": max(p.seconds for p in computed) - min(p.seconds for p in computed),
            "skipped_seconds": statistics.median(p.seconds for p in skipped), "flops": computed[0].flops,
            "kv_bytes": run.trace.kv_peak_bytes}


def dense_pass(case: Case, model: Synced) -> dict[str, Any]:
    """All chunks in one bidirectional pass."""
    plan = dense(case.chunks * case.chunk_frames, case.chunk_frames, REPEATS + 1)
    run = generation(case, model, plan, lambda chunk, step: True)
    run.run()
    steps = run.trace.passes[1:]
    return {"computed_seconds": statistics.median(p.seconds for p in steps), "flops": steps[0].flops}


def compression_event(case: Case, model: Synced, dtype: torch.dtype) -> float:
    """Seconds of one fold of two finished chunks into the room of one, in all layers and streams."""
    sizes, streams = model.sizes, ("cond#0",) if case.guidance == 1 else ("cond#0", "uncond#0")
    per_frame = sizes.tokens_per_frame(*case.latent)
    tokens = per_frame * case.chunk_frames
    shape = KVShape(sizes.layers, len(streams), 1, sizes.heads, sizes.head_dim, dtype.itemsize)
    queries_heads = getattr(model.inner.config, "heads", sizes.heads)
    seconds = []
    with torch.inference_mode():
        new = [torch.randn(1, heads, tokens, sizes.head_dim, device=model.device).to(dtype)
               for heads in (sizes.heads, sizes.heads, queries_heads)]
        for _ in range(REPEATS + 1):
            store = KVStore(shape, streams, 2 * tokens, dtype, model.device)
            for chunk in range(2):
                store.reserve(chunk, tokens, chunk * tokens)
                for layer in range(sizes.layers):
                    for stream in streams:
                        store.write(layer, stream, chunk, *new[:2])
            synced()
            begin = time.perf_counter()
            store.fold([0, 1], tokens)
            for layer in range(sizes.layers):
                for stream in streams:
                    settle(store, Compression(), layer, stream, new[2], per_frame, tokens)
            synced()
            seconds.append(time.perf_counter() - begin)
            store.close()
    return statistics.median(seconds[1:])


def matmul_peak(device: str, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a square matmul: the best of some runs of several calls."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(REPEATS + 1):
        synced()
        begin = time.perf_counter()
        for _ in range(4):
            a @ b
        synced()
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - begin))
    return best
