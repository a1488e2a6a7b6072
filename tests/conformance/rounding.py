"""What rounding may do to an end-to-end run, and no more: near ties between tokens, and the last digits of latents.

The vectors are fp32, ours are too, and sums are made in another order. A wrong rule moves latents by 3e-2 and more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from flowcache_core.backbones import magi, wan
from flowcache_core.kv import Compression
from flowcache_core.kv.marks import Kept
from flowcache_core.kv.scoring import Cached
from flowcache_core.kv.select import group_means
from tests.conformance import golden

TIE = 1e-5     # of a score, relative: what the error of latents makes of it
AGAIN = 3.0    # times the suggested tolerance that a case may take, if rounding alone moves it so far

Snapshots = Mapping[str, Tensor]


@dataclass(frozen=True)
class Recorded(Compression):
    """Keeps every choice, in the order in which it was made. given: the vectors' choices `(kv_heads, keep)`, best
    first; where one differs from ours by no more than near ties, the run goes on with theirs, and its number is in
    `ties`."""

    choices: list[Tensor] = field(default_factory=list)
    given: list[Tensor] = field(default_factory=list)
    ties: list[int] = field(default_factory=list)

    def fold(self, queries: Tensor, cached: Cached) -> Kept:
        kept, number = super().fold(queries, cached), len(self.choices)
        self.choices.append(kept.index)
        if number >= len(self.given):
            return kept
        theirs = self.given[number].long()[None].to(kept.index.device)
        if torch.equal(theirs, kept.index) or not self.is_tie(queries, cached, theirs):
            return kept
        self.ties.append(number)
        return replace(kept, index=theirs)

    def is_tie(self, queries: Tensor, cached: Cached, theirs: Tensor) -> bool:
        """Whether `theirs` ranks tokens as our scores do, but for scores that rounding cannot tell apart."""
        size = self.group(cached.tokens_per_frame, cached.tokens_per_chunk)
        score, scale = self._score(queries, cached), self.scorer.terms(queries, cached)[0].abs().amax(-1, keepdim=True)
        if theirs.shape != (*score.shape[:2], cached.keep):
            return False
        ranked = score if size == 1 else group_means(score, size)
        places = theirs[..., ::size] // size
        left = torch.ones_like(ranked).scatter_(-1, places, 0.0)
        whole = torch.equal(theirs, (places.unsqueeze(-1) * size + torch.arange(size)).flatten(-2))
        if not whole or (left.sum(-1) != ranked.shape[-1] - places.shape[-1]).any():
            return False
        ranks, slack = ranked.gather(-1, places), TIE * (scale + ranked.abs())
        ordered = ranks.diff(dim=-1) <= slack.gather(-1, places)[..., 1:]
        beaten = ranked - slack <= ranks.amin(-1, keepdim=True)
        return bool(ordered.all() and (beaten | (left == 0)).all())


def check_choices(case: str, compression: Recorded | None, expected: list[tuple[dict, Tensor]]) -> None:
    """Every event of a run chose the recorded tokens; near ties are noted."""
    if compression is None:
        assert not expected
        return
    assert len(compression.choices) == len(expected)
    for number, (found, (event, kept)) in enumerate(zip(compression.choices, expected, strict=True)):
        same = torch.equal(found[0].sort(-1).values, kept.long().sort(-1).values)
        assert same or number in compression.ties, {name: event[name] for name in event if name != "kept"}
    if compression.ties:
        golden.NOTED.append(f"{case}: {len(compression.ties)} of {len(expected)} compression events have near ties, "
                            "where the recorded order was taken")


def written_out(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention as its formula says it, which rounds in another way."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def check_latents(case: str, found: Snapshots, expected: Snapshots, tolerance: float,
                  again: Callable[[], Snapshots]) -> None:
    """All latents within `tolerance`. Where a case is further off, it is run `again` with attention that rounds in
    another way: twice the difference of our two runs is granted, up to `AGAIN` times the tolerance, and noted."""
    errors = {name: float((found[name] - expected[name]).abs().max()) for name in expected}
    if max(errors.values()) <= tolerance:
        return
    with pytest.MonkeyPatch.context() as patch:
        for module in (wan, magi):
            patch.setattr(module, "attend", written_out)
        other = again()
    noise = max(float((found[name] - other[name]).abs().max()) for name in expected)
    granted = min(max(tolerance, 2 * noise), AGAIN * tolerance)
    name, error = max(errors.items(), key=lambda item: item[1])
    assert error <= granted, f"{case}, {name}: {error:.2e} off, {granted:.2e} allowed ({noise:.1e} is rounding)"
    golden.NOTED.append(f"{case}: latents {error:.1e} off, {error / tolerance:.1f} times the suggested tolerance; "
                        f"rounding alone moves ours by {noise:.1e}")
