"""Training of the bundled autoregressive model: rectified flow with an own noise level for every chunk.

A batch row is a clip of `CHUNKS` chunks under the block-causal mask, cut to a random history window, at a random
place in time. Some rows are bidirectional (a teacher for later work), some chunks are clean, some rows have a wholly
clean past (the sequential plans), some prompts are dropped (guidance).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backbones.hooks import Attend, NoHooks
from ..backbones.wan import WanTransformer
from .latent_pool import CLIP_LATENTS, LatentPool
from .text import encode_scene

CHUNK_FRAMES, CHUNKS, BATCH = 3, 4, 8
FRAMES = CHUNK_FRAMES * CHUNKS
CLEAN_CHUNK, CLEAN_PAST, BIDIRECTIONAL, DROPPED_PROMPT = 0.15, 0.3, 0.2, 0.12
MAX_OFFSET, NOISE_SHIFT = 400, 3.0


class MaskedAttention(NoHooks):
    """Self-attention under a boolean mask `(B, 1, N, N)`, True where a query may look."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def attention(self, index: int, kind: str, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        return attend(q, k, v, self.mask) if kind == "self" else attend(q, k, v)


def window_mask(windows: Tensor, tokens_per_chunk: int) -> Tensor:
    """`(B, 1, N, N)`: a chunk sees itself and the `windows[b] - 1` chunks before it; window 0 sees everything."""
    chunk = torch.arange(CHUNKS)
    age = chunk[:, None] - chunk[None, :]
    seen = (age >= 0) & (age < windows[:, None, None]) | (windows == 0)[:, None, None]
    seen = seen.repeat_interleave(tokens_per_chunk, 1).repeat_interleave(tokens_per_chunk, 2)
    return seen.unsqueeze(1)


@dataclass(frozen=True)
class Batch:
    """latents `(B, C, F, h, w)`, text `(B, L, W)`, sigma `(B, CHUNKS)`, windows `(B,)`, one time offset."""

    latents: Tensor
    text: Tensor
    sigma: Tensor
    windows: Tensor
    offset: int


def draw_sigma(generator: torch.Generator, count: int) -> Tensor:
    u = torch.rand(count, CHUNKS, generator=generator)
    sigma = NOISE_SHIFT * u / (1 + (NOISE_SHIFT - 1) * u)
    clean = torch.rand(count, CHUNKS, generator=generator) < CLEAN_CHUNK
    first_noisy = torch.randint(0, CHUNKS, (count, 1), generator=generator)
    past = (torch.rand(count, 1, generator=generator) < CLEAN_PAST) & (torch.arange(CHUNKS) < first_noisy)
    return sigma.masked_fill(clean | past, 0.0)


def draw_batch(pool: LatentPool, generator: torch.Generator) -> Batch:
    def pick(n: int) -> int:
        return int(torch.randint(0, n, (), generator=generator))

    # One offset a batch: the rotary table is shared by its rows. Half of the batches begin where videos begin.
    offset = pick(MAX_OFFSET + 1) if pick(2) else 0
    latents, texts = [], []
    for _ in range(BATCH):
        clip = pick(len(pool.latents))
        start = 1 + pick(CLIP_LATENTS - FRAMES) if offset else 0
        latents.append(pool.latents[clip][:, start:start + FRAMES])
        texts.append(encode_scene(None) if torch.rand((), generator=generator) < DROPPED_PROMPT else pool.texts[clip])
    windows = torch.randint(1, CHUNKS + 1, (BATCH,), generator=generator)
    windows = windows.masked_fill(torch.rand(BATCH, generator=generator) < 0.4, CHUNKS)
    windows = windows.masked_fill(torch.rand(BATCH, generator=generator) < BIDIRECTIONAL, 0)
    return Batch(torch.stack(latents).float(), torch.stack([t.float() for t in texts]),
                 draw_sigma(generator, BATCH), windows, offset)


def flow_loss(model: WanTransformer, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity `noise - clean` over the chunks that are not clean."""
    x0 = batch.latents
    noise = torch.randn(x0.shape, generator=generator)
    per_frame = batch.sigma.repeat_interleave(CHUNK_FRAMES, 1)
    sigma = per_frame[:, None, :, None, None]
    noisy = (1 - sigma) * x0 + sigma * noise
    tokens = CHUNK_FRAMES * (x0.shape[-2] // 2) * (x0.shape[-1] // 2)
    hooks = MaskedAttention(window_mask(batch.windows, tokens))
    index = range(batch.offset, batch.offset + FRAMES)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model(noisy, 1000 * per_frame, model.embed_text(batch.text), index, hooks)
    weight = (sigma > 0).float().expand_as(x0)
    return (weight * (velocity.float() - (noise - x0)).square()).sum() / weight.sum().clamp_min(1)


class Average:
    """Exponential moving average of the weights; what is saved."""

    def __init__(self, model: WanTransformer, decay: float = 0.998) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: WanTransformer) -> None:
        for name, value in model.state_dict().items():
            self.values[name].lerp_(value, 1 - self.decay)


def make_optimisers(model: WanTransformer, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else, at rates of the same step size."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)]


def train_model(model: WanTransformer, pool: LatentPool, minutes: float, seed: int, log: Callable[[dict], None],
                save: Callable[[dict[str, Tensor]], None], rate: float = 1e-3, save_minutes: float = 5) -> None:
    """Trains for `minutes` of wall time; the rate warms up, stays, and falls over the last 30 %.

    `save` gets the averaged weights every `save_minutes` and at the end, also after an interrupt.
    """
    generator = torch.Generator().manual_seed(seed)
    optimisers = make_optimisers(model, rate)
    average = Average(model)
    begin, step, running, saved = time.monotonic(), 0, None, 0.0
    try:
        while (spent := (time.monotonic() - begin) / 60) < minutes:
            if step % 100 == 0:
                clips = pool.refresh()
            factor = min(1, (step + 1) / 100, max(0.02, (1 - spent / minutes) / 0.3))
            for optimiser in optimisers:
                optimiser.param_groups[0]["lr"] = rate * factor
            loss = flow_loss(model, draw_batch(pool, generator), generator)
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
            average.update(model)
            running = loss.item() if running is None else 0.99 * running + 0.01 * loss.item()
            step += 1
            if step % 100 == 0:
                log({"what": "model", "step": step, "minutes": round(spent, 2), "loss": round(running, 4),
                     "clips": clips})
            if spent - saved >= save_minutes:
                save(average.values)
                saved = spent
    finally:
        save(average.values)
