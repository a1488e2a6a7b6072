"""Attention over keys that stand for several: `log m` is added to the logit of a key that m tokens were merged into.

Two ways through any attention function that knows nothing of it. As a float mask: exact in fp32, but rounded in half
precision (log 100 by 0.009 in bf16), and no flash kernel takes one. As two more channels of queries and keys, whose
product is `log m`: any kernel takes it that takes the width. Neither uses `scale=`, which some hosts ignore: the wider
head's scale is folded into the queries.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Attend = Callable[..., Tensor]   # attend(q, k, v, bias=None), as in backbones/hooks.py
Carrier = Literal["auto", "mask", "channels"]
WIDTH_STEP = 8   # kernels want widths that are multiples of it


def attend_masked(attend: Attend, q: Tensor, k: Tensor, v: Tensor, log_m: Tensor) -> Tensor:
    """`log_m (B, Hk, n)` as a mask that broadcasts over the queries, in their dtype."""
    heads = log_m.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    return attend(q, k, v, heads.unsqueeze(2).to(q.dtype))


def attend_widened(attend: Attend, q: Tensor, k: Tensor, v: Tensor, log_m: Tensor) -> Tensor:
    """`log_m (B, Hk, n)` as channels of the keys, in two parts so that half precision keeps 16 bits of it."""
    d = q.shape[-1]
    wide = -(-(d + 2) // WIDTH_STEP) * WIDTH_STEP
    grown = (wide / d) ** 0.5
    one = torch.tensor(grown).to(q.dtype).item()   # what the queries' channel holds after rounding
    rest = (log_m.float() * (wide**0.5 / one)).unsqueeze(-1)
    high = rest.to(k.dtype)
    low = (rest - high.float()).to(k.dtype)
    q = _padded(torch.cat([(q.float() * grown).to(q.dtype), q.new_full((*q.shape[:-1], 2), one)], dim=-1), wide)
    k = _padded(torch.cat([k, high, low], dim=-1), wide)
    return attend(q, k, _padded(v, wide))[..., :d]


def _padded(x: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[-1]))


class WeightedAttention:
    """Attends with `log m`, by the carrier that fits. One a run: it remembers what the host's attention refused."""

    def __init__(self, carrier: Carrier = "auto") -> None:
        self.carrier = carrier
        self._takes_width: dict[tuple[torch.dtype, int], bool] = {}

    def __call__(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, log_m: Tensor | None) -> Tensor:
        """`attend(q, k, v)` where `log_m` is None."""
        if log_m is None:
            return attend(q, k, v)
        wanted = q.is_cuda or q.dtype in (torch.bfloat16, torch.float16)
        channels = self.carrier == "channels" or self.carrier == "auto" and wanted and self.fits(attend, q, k, v)
        return (attend_widened if channels else attend_masked)(attend, q, k, v, log_m)

    def fits(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """Whether the host's attention takes a wider head, tried on a few tokens."""
        kind = (q.dtype, q.shape[-1])
        if kind not in self._takes_width:
            few = [x[:1, :, :WIDTH_STEP] for x in (q, k, v)]
            try:
                attend_widened(attend, *few, few[1].new_zeros(few[1].shape[:3], dtype=torch.float32))
                self._takes_width[kind] = True
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, AssertionError):   # what kernels raise for a width they do not have
                self._takes_width[kind] = False
        return self._takes_width[kind]
