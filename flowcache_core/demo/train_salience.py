"""Trains the salience head of PaFu-KV on the bundled model: what `train-salience` does.

Clips of the synthetic world are encoded once; the teacher's targets and the student's hidden states are computed once;
then a small head learns to rank the tokens of a chunk (pairwise logistic loss, and a little of a robust distance).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones.wan import WanTransformer
from ..kv.salience import SalienceHead, fresh_weights
from .latent_pool import LatentPool
from .salience_targets import Sample, sample

GROUPS, PAIRS, FAR, ROBUST, BATCH, RATE = 3, 1024, 0.5, 0.1, 8, 1e-3


def tap_of(layers: int) -> int:
    """The block at two thirds of the depth."""
    return max(0, round(2 * layers / 3) - 1)


def samples(model: WanTransformer, pool: LatentPool, chunk_frames: int, first: int, count: int) -> list[Sample]:
    """Of `count` long clips from number `first` on. Raises ValueError where the pool has too few."""
    clips = [*pool.starts, *pool.later]
    if len(clips) < first + count:
        raise ValueError(f"{len(clips)} clips in {pool.folder}: {first + count} are wanted; give another "
                         "--pool, or ask for fewer")
    return [sample(model, *(x.float().unsqueeze(0) for x in clips[n]), chunk_frames, tap_of(model.sizes.layers), GROUPS,
                   seed=n) for n in range(first, first + count)]


def ranking_loss(score: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
    """score, target `(chunks, tokens, groups)`: of random pairs of a chunk's tokens, the higher target first."""
    tokens = score.shape[1]
    a, b = torch.randint(tokens, (2, PAIRS), generator=generator)
    gap, wanted = score[:, a] - score[:, b], target[:, a] - target[:, b]
    clear = wanted.abs() > FAR
    pairs = F.softplus(-gap * wanted.sign())[clear]
    return (pairs.mean() if clear.any() else gap.sum() * 0) + ROBUST * F.huber_loss(score, target)


def rank_correlation(score: Tensor, target: Tensor) -> float:
    """Spearman's, between tokens of a chunk, mean over chunks and groups; both `(chunks, tokens, groups)`."""
    ranks = [x.argsort(1).argsort(1).float() for x in (score, target)]
    a, b = ((x - x.mean(1, keepdim=True)) for x in ranks)
    return ((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()).mean().item()


def train(model: WanTransformer, train_on: Sequence[Sample], held_out: Sequence[Sample], steps: int,
          log: Callable[[dict], None], seed: int = 0) -> tuple[SalienceHead, float]:
    """A head for `model`, and its rank correlation with the teacher on held-out clips."""
    hidden, target = (torch.cat([getattr(s, name) for s in train_on]) for name in ("hidden", "target"))
    weights = {name: w.requires_grad_(True) for name, w in fresh_weights(hidden.shape[-1], GROUPS, seed).items()}
    sizes = model.sizes
    head = SalienceHead(weights, sizes.layers, sizes.heads, sizes.head_dim, tap_of(sizes.layers))
    optimizer = torch.optim.AdamW(weights.values(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randint(len(hidden), (BATCH,), generator=generator)
        loss = ranking_loss(head(hidden[chosen]), target[chosen], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            log({"step": step + 1, "loss": round(loss.item(), 4), "held_out": round(measure(head, held_out), 4)})
    done = SalienceHead({name: w.detach() for name, w in weights.items()}, *(getattr(head, name) for name in (
        "layers", "heads", "head_dim", "tap")))
    return done, measure(done, held_out)


@torch.no_grad()
def measure(head: SalienceHead, held_out: Sequence[Sample]) -> float:
    return sum(rank_correlation(head(s.hidden), s.target) for s in held_out) / len(held_out)


def train_salience(model: WanTransformer, pool_folder: Path, chunk_frames: int, clips: int, held_out: int, steps: int,
                   out: Path, log: Callable[[dict], None]) -> float:
    """Writes the head to `out`; returns its rank correlation on clips it was not trained on."""
    pool = LatentPool(pool_folder)
    pool.refresh()
    known, unknown = (samples(model, pool, chunk_frames, *part) for part in ((held_out, clips), (0, held_out)))
    head, correlation = train(model, known, unknown, steps, log)
    out.parent.mkdir(parents=True, exist_ok=True)
    head.save(out, rank_correlation=f"{correlation:.4f}", clips=str(clips), steps=str(steps))
    return correlation
