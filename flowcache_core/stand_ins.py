"""What stands in for the network in one call: the predictor's values by lane, residuals of block ranges, and velocities
derived from another stream. Joint passes hold several chunks in a row, so rows are split into lanes here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from .backbones.hooks import Call
from .lanes import Evidence, Lane, Lanes
from .plan.chunk_plan import ChunkPlan, Pass
from .reuse.contract import BlockRange, Decision
from .reuse.derivation import derived
from .reuse.predictors import Span

RowKey = tuple[str, int]   # stream, batch item


@dataclass
class StandIns:
    """spans: noise before and after the step of every chunk."""

    plan: ChunkPlan
    p: Pass
    rows: Sequence[RowKey]
    lanes: Lanes
    spans: dict[int, Span]

    def open(self, call: Call) -> None:
        self.frames = [self.plan.chunks[c].frames for c in self.p.chunks]
        self.tokens_per_frame, self.latent = call.tokens_per_frame, call.latent

    def _parts(self, n: int, value: Tensor) -> Iterator[tuple[Lane, Tensor]]:
        """The lanes of row `n` with their parts of its tokens `(N, D)` or of its velocity `(C, F, h, w)`."""
        if len(self.p.chunks) == 1:
            yield Lane(self.p.chunks[0], *self.rows[n]), value
            return
        hidden = value.ndim == 2
        sizes = [frames * (self.tokens_per_frame if hidden else 1) for frames in self.frames]
        for chunk, part in zip(self.p.chunks, value.split(sizes, 0 if hidden else 1), strict=True):
            yield Lane(chunk, *self.rows[n]), part

    def _moving(self, n: int, value: Tensor) -> Iterator[tuple[Lane, Tensor]]:
        return ((lane, part) for lane, part in self._parts(n, value) if lane.chunk not in self.p.still)

    def predicted(self, n: int, value_in: Tensor) -> Tensor:
        """The predictor's value of row `n`. value_in: tokens before the blocks, or the latent."""
        parts = [part if lane.chunk in self.p.still else   # nothing reads it
                 self.lanes.predictor.predict(self.lanes.kept[lane], part, self.spans[lane.chunk])
                 for lane, part in self._parts(n, value_in)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 0 if value_in.ndim == 2 else 1)

    def keep(self, n: int, value_in: Tensor, value_out: Tensor, tokens: Tensor | None = None) -> None:
        """Renews what the predictor holds of row `n`; of these `tokens` alone, where only they were computed."""
        predictor, kept = self.lanes.predictor, self.lanes.kept
        before = dict(self._parts(n, value_in))
        for lane, out in self._moving(n, value_out):
            old, span = kept.get(lane), self.spans[lane.chunk]
            if self.lanes.policy.measures and old is not None and tokens is None:
                guess = predictor.predict(old, before[lane], span)
                self.lanes.evidence["step", lane] = _evidence(guess, out, before[lane])
            new = (predictor.keep(before[lane], out, span) if old is None
                   else predictor.renew(old, before[lane], out, span))
            kept[lane] = predictor.owned(new if tokens is None else predictor.merge(self.mask(tokens, out), new, old))
            if predictor.corrects and old is not None and tokens is None:
                missed = predictor.missed(old, new, span)
                if missed is not None:
                    self.lanes.missed[lane] = missed

    def mask(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Which of a chunk's tokens, or pixels, `tokens` are: `(N, 1)` or `(1, F, h, w)`."""
        mask = torch.zeros(self.frames[0] * self.tokens_per_frame, dtype=torch.bool, device=like.device)
        mask[tokens] = True
        if like.ndim == 2:
            return mask[:, None]
        h, w = like.shape[-2:]
        patch = isqrt(h * w // self.tokens_per_frame)
        grid = mask.view(1, self.frames[0], h // patch, w // patch)
        return grid.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)

    def keep_range(self, n: int, blocks: BlockRange, hidden_in: Tensor, hidden_out: Tensor) -> None:
        """Keeps what the blocks of a range added to row `n`."""
        for lane, residual in self._moving(n, hidden_out - hidden_in):
            old = self.lanes.ranges.get((lane, blocks))
            if self.lanes.policy.measures and old is not None:
                self.lanes.evidence[blocks, lane] = Evidence(old, residual)
            self.lanes.ranges[lane, blocks] = residual.clone()

    def range_residual(self, n: int, blocks: BlockRange) -> Tensor:
        return torch.cat([self.lanes.ranges[Lane(chunk, *self.rows[n]), blocks] for chunk in self.p.chunks])

    def note_blocks(self, n: int, hidden_in: Tensor, hidden_out: Tensor) -> None:
        """Evidence of how much all blocks added."""
        for lane, residual in self._moving(n, hidden_out - hidden_in):
            self.lanes.evidence["blocks", lane] = Evidence(residual, residual)

    def note_last(self, n: int, hidden: Tensor) -> None:
        """What the last block left, for policies that look at it."""
        for lane, part in self._moving(n, hidden):
            self.lanes.last[lane] = part.clone()

    def note_velocity(self, n: int, velocity: Tensor, whole: bool) -> None:
        """Remembers a stream's velocity for this pass."""
        self.lanes.fresh.update({lane: (part, whole) for lane, part in self._moving(n, velocity)})

    def derived(self, n: int, velocity: Tensor, decisions: dict[Lane, Decision]) -> Tensor:
        """`velocity` of row `n`, with the parts of chunks that take a step derived from their source's in this pass."""
        parts = []
        for lane, part in self._parts(n, velocity):
            if lane.chunk not in self.p.still:
                source = Lane(lane.chunk, decisions[lane].source_stream, lane.item)
                if source not in self.lanes.fresh:
                    raise RuntimeError(f"{lane.stream} is to be derived from {source.stream}, which has not run in "
                                       "this pass: run it first")
                part = derived(self.lanes.fresh[source][0], self.lanes.differences[lane], decisions[lane].factors)
            parts.append(part)
        return torch.cat(parts, dim=1)


def _evidence(guess: Tensor, truth: Tensor, value_in: Tensor) -> Evidence:
    """Of residuals for tokens, of the value itself for velocities."""
    return Evidence(guess - value_in, truth - value_in) if truth.ndim == 2 else Evidence(guess, truth)
