"""What a salience head is trained towards: how much later and earlier chunks look at each token, by a teacher.

The teacher is the network itself in one bidirectional pass over a whole clip at little noise (arXiv 2601.21896 leaves
level, weights and normalisation open; ours are here). The student's side is the hidden state of a clean, causal pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..backbones.hooks import Attend, BlockInput, NoHooks, Run
from ..backbones.wan import WanTransformer

TEACHER_NOISE = 0.1     # sigma
LOOK_AHEAD = 0.25       # weight of what earlier chunks see of a token, in the target
FLOOR = 1e-6            # added to a salience before its logarithm


class SalienceRecorder(NoHooks):
    """Every layer's `later (N,)` and `earlier (N,)`: the largest attention that a query of a later, an earlier chunk
    gives a token, averaged over heads. One clip a call; the queries of a chunk at a time."""

    def __init__(self, tokens_per_chunk: int) -> None:
        self.tokens_per_chunk = tokens_per_chunk
        self.later: list[Tensor] = []
        self.earlier: list[Tensor] = []

    def attention(self, index: int, kind: str, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        if kind == "self":
            peaks = torch.stack([self._peak(queries, k) for queries in q.split(self.tokens_per_chunk, dim=2)])
            chunk = torch.arange(k.shape[2], device=k.device) // self.tokens_per_chunk
            looking = torch.arange(len(peaks), device=k.device)[:, None]
            for table, wanted in ((self.later, looking > chunk), (self.earlier, looking < chunk)):
                table.append((peaks * wanted[:, None]).amax(0).mean(0))
        return attend(q, k, v)

    @staticmethod
    def _peak(queries: Tensor, k: Tensor) -> Tensor:
        """`(heads, N)`"""
        logits = queries[0].float() @ k[0].float().transpose(-1, -2) / k.shape[-1] ** 0.5
        return logits.softmax(-1).amax(1)


class CausalTap(NoHooks):
    """A dense forward under the block-causal mask that keeps the hidden state after block `tap`."""

    def __init__(self, tap: int, tokens_per_chunk: int, tokens: int) -> None:
        self.tap, self.hidden = tap, None
        chunk = torch.arange(tokens) // tokens_per_chunk
        self.mask = chunk[None] <= chunk[:, None]

    def block(self, index: int, x: BlockInput, run: Run) -> Tensor:
        hidden = run(x)
        if index == self.tap:
            self.hidden = hidden
        return hidden

    def attention(self, index: int, kind: str, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        return attend(q, k, v, self.mask.to(q.device)) if kind == "self" else attend(q, k, v)


@dataclass(frozen=True)
class Sample:
    """One clip: hidden `(chunks, tokens, D)` and target `(chunks, tokens, groups)`, standardised within each chunk;
    without the last chunk, which nobody looks back at."""

    hidden: Tensor
    target: Tensor


def targets(later: list[Tensor], earlier: list[Tensor], groups: int, tokens_per_chunk: int) -> Tensor:
    """`(chunks - 1, tokens, groups)`: log salience, mean over the layers of a group."""
    logs = torch.stack([(FLOOR + a).log() + LOOK_AHEAD * (FLOOR + b).log()
                        for a, b in zip(later, earlier, strict=True)])
    group = torch.arange(len(logs)) * groups // len(logs)
    y = torch.stack([logs[group == g].mean(0) for g in range(groups)], dim=-1)
    y = y.unflatten(0, (-1, tokens_per_chunk))[:-1]
    return (y - y.mean(1, keepdim=True)) / y.std(1, keepdim=True).clamp_min(1e-6)


@torch.inference_mode()
def sample(model: WanTransformer, latent: Tensor, text: Tensor, chunk_frames: int, tap: int, groups: int,
           seed: int) -> Sample:
    """Of one clip `latent (1, C, F, h, w)`, F whole chunks, with its prompt `text (1, L, text_dim)`."""
    frames = latent.shape[2]
    per_chunk = chunk_frames * model.sizes.tokens_per_frame(*latent.shape[3:])
    embedded = model.embed_text(text)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    recorder = SalienceRecorder(per_chunk)
    model((1 - TEACHER_NOISE) * latent + TEACHER_NOISE * noise, torch.full((1, frames), 1000 * TEACHER_NOISE),
          embedded, hooks=recorder)
    student = CausalTap(tap, per_chunk, frames // chunk_frames * per_chunk)
    model(latent, torch.zeros(1, frames), embedded, hooks=student)
    hidden = student.hidden[0].unflatten(0, (-1, per_chunk))[:-1]
    return Sample(hidden.float().clone(), targets(recorder.later, recorder.earlier, groups, per_chunk).clone())
