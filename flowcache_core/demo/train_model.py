"""Training of the bundled autoregressive model: rectified flow with an own noise level for every chunk.

A batch row is a clip of `CHUNKS` chunks under the block-causal mask, cut to a random history window, at a random
place in time. Some rows are bidirectional (a teacher for later work), some chunks are clean, in some rows the noise
grows from chunk to chunk (as in every plan), some prompts are dropped (guidance).
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

CHUNK_FRAMES = 3
SHAPES = ((32, 1), (8, 4), (4, 8))   # (batch, chunks) of openings, short and long clips
SHARES = (0.25, 0.4, 0.35)           # of the batches
CLEAN_CHUNK, STAGGERED, BIDIRECTIONAL, DROPPED_PROMPT = 0.15, 0.5, 0.2, 0.1
MAX_OFFSET, NOISE_SHIFT = 400, 3.0
CONTEXT_ERROR = 0.15        # clean chunks carry up to so much noise that the model is not told of, as its own do
MUON_RATE = 4.0             # of the matrices of the blocks, against everything else


class MaskedAttention(NoHooks):
    """Self-attention under a boolean mask `(B, 1, N, N)`, True where a query may look."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def attention(self, index: int, kind: str, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        return attend(q, k, v, self.mask) if kind == "self" else attend(q, k, v)


def window_mask(windows: Tensor, chunks: int, tokens_per_chunk: int) -> Tensor:
    """`(B, 1, N, N)`: a chunk sees itself and the `windows[b] - 1` chunks before it; window 0 sees everything."""
    chunk = torch.arange(chunks)
    age = chunk[:, None] - chunk[None, :]
    seen = (age >= 0) & (age < windows[:, None, None]) | (windows == 0)[:, None, None]
    seen = seen.repeat_interleave(tokens_per_chunk, 1).repeat_interleave(tokens_per_chunk, 2)
    return seen.unsqueeze(1)


@dataclass(frozen=True)
class Batch:
    """latents `(B, C, F, h, w)`, text `(B, L, W)`, sigma and weight `(B, chunks)`, windows `(B,)`, one time offset."""

    latents: Tensor
    text: Tensor
    sigma: Tensor
    weight: Tensor
    windows: Tensor
    offset: int


def draw_sigma(generator: torch.Generator, count: int, chunks: int) -> Tensor:
    """`(count, chunks)` noise levels: independent ones, of which some are 0, or rows with a constant lag from chunk to
    chunk, as in the plans (lag 0: all chunks together; lag 1: one after the other)."""
    free = torch.rand(count, chunks, generator=generator)
    if chunks > 1:
        free = free.masked_fill(torch.rand(count, chunks, generator=generator) < CLEAN_CHUNK, 0.0)
    lag = torch.rand(count, 1, generator=generator)
    start = 1 - torch.rand(count, 1, generator=generator) * (1 + (chunks - 1) * lag)
    staggered = (start + lag * torch.arange(chunks)).clamp(0, 1)
    u = torch.where(torch.rand(count, 1, generator=generator) < STAGGERED, staggered, free)
    return NOISE_SHIFT * u / (1 + (NOISE_SHIFT - 1) * u)


def draw_windows(generator: torch.Generator, count: int, chunks: int) -> Tensor:
    """`(count,)`; at least two chunks, since only the first chunk of a video ever stands alone."""
    windows = torch.randint(min(2, chunks), chunks + 1, (count,), generator=generator)
    windows = windows.masked_fill(torch.rand(count, generator=generator) < 0.4, chunks)
    return windows.masked_fill(torch.rand(count, generator=generator) < BIDIRECTIONAL, 0)


def draw_batch(pool: LatentPool, generator: torch.Generator) -> Batch:
    def pick(n: int) -> int:
        return int(torch.randint(0, n, (), generator=generator))

    count, chunks = SHAPES[int(torch.multinomial(torch.tensor(SHARES), 1, generator=generator))]
    frames = chunks * CHUNK_FRAMES
    # One offset a batch: the rotary table is shared by its rows.
    offset = 1 + pick(MAX_OFFSET) if chunks > 1 and pick(2) else 0
    clips = pool.openings if chunks == 1 else pool.later if offset else pool.starts
    latents, texts = [], []
    for _ in range(count):
        clip, text = clips[pick(len(clips))]
        start = 1 + pick(CLIP_LATENTS - frames) if offset else 0
        latents.append(clip[:, start:start + frames])
        texts.append(encode_scene(None) if torch.rand((), generator=generator) < DROPPED_PROMPT else text)
    sigma = draw_sigma(generator, count, chunks)
    weight = (sigma > 0).float()
    if offset:
        weight[:, 0] = 0   # a chunk in mid-video without a past: context, but no target
    return Batch(torch.stack(latents).float(), torch.stack([t.float() for t in texts]), sigma, weight,
                 draw_windows(generator, count, chunks), offset)


def flow_loss(model: WanTransformer, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity `noise - clean` over the chunks that are not clean."""
    x0 = batch.latents
    noise = torch.randn(x0.shape, generator=generator)
    per_frame = batch.sigma.repeat_interleave(CHUNK_FRAMES, 1)
    sigma = per_frame[:, None, :, None, None]
    error = CONTEXT_ERROR * torch.rand(batch.sigma.shape, generator=generator) * (batch.sigma == 0)
    error = error.repeat_interleave(CHUNK_FRAMES, 1)[:, None, :, None, None]
    noisy = (1 - sigma) * x0 + (sigma + error) * noise
    tokens = CHUNK_FRAMES * (x0.shape[-2] // 2) * (x0.shape[-1] // 2)
    hooks = MaskedAttention(window_mask(batch.windows, batch.sigma.shape[1], tokens))
    index = range(batch.offset, batch.offset + x0.shape[2])
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model(noisy, 1000 * per_frame, model.embed_text(batch.text), index, hooks)
    weight = batch.weight.repeat_interleave(CHUNK_FRAMES, 1)[:, None, :, None, None].expand_as(x0)
    return (weight * (velocity.float() - (noise - x0)).square()).sum() / weight.sum().clamp_min(1)


class Average:
    """Exponential moving average of the weights; what is saved. It looks back over a tenth of the steps at first."""

    def __init__(self, model: WanTransformer, decay: float = 0.998) -> None:
        self.decay, self.steps = decay, 0
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: WanTransformer) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        for name, value in model.state_dict().items():
            self.values[name].lerp_(value, 1 - decay)


def make_optimisers(model: WanTransformer, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else but the first text layer.

    That one stays as it was drawn: its input is dense and 4096 wide, so that small steps in every weight add up, and
    within hours they had pushed all words so far below zero that GELU let nothing of them through.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in (*matrices, *model.text_embedding[0].parameters())}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [torch.optim.Muon(matrices, lr=MUON_RATE * rate, weight_decay=0.01, momentum=0.95,
                             adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)]


@torch.no_grad()
def renew_text(model: WanTransformer, seed: int) -> None:
    """Draws the path from words to blocks anew; the blocks hear nothing of the text until they have learned to."""
    generator = torch.Generator().manual_seed(seed)
    layers = [model.text_embedding[0], model.text_embedding[2],
              *(layer for block in model.blocks for layer in (block.cross_attn.q, block.cross_attn.k,
                                                              block.cross_attn.v, block.cross_attn.o))]
    for layer in layers:
        layer.weight.normal_(std=layer.in_features**-0.5, generator=generator)
        layer.bias.zero_()
    for block in model.blocks:
        block.cross_attn.o.weight.zero_()
        block.cross_attn.norm_q.weight.fill_(1)
        block.cross_attn.norm_k.weight.fill_(1)


def train_model(model: WanTransformer, pool: LatentPool, minutes: float, seed: int, log: Callable[[dict], None],
                save: Callable[[dict[str, Tensor]], None], rate: float = 1e-3, save_minutes: float = 5) -> None:
    """Trains for `minutes` of wall time; the rate warms up, stays, and falls over the last 60 %.

    `save` gets the averaged weights every `save_minutes` and at the end, also after an interrupt.
    """
    generator = torch.Generator().manual_seed(seed)
    model.text_embedding[0].requires_grad_(False)
    optimisers = make_optimisers(model, rate)
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    peaks = [group["lr"] for group in groups]
    average = Average(model)
    begin, step, running, saved = time.monotonic(), 0, None, 0.0
    for block in model.blocks:
        block.compile(dynamic=False)
    try:
        while (spent := (time.monotonic() - begin) / 60) < minutes:
            if step % 100 == 0:
                clips = pool.refresh()
            factor = min(1, (step + 1) / 100, max(0.02, (1 - spent / minutes) / 0.6))
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * factor
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
