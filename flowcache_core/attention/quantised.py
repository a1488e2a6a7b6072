"""Keys that were rounded attract too much attention; this takes it off again.

Rounding noise of a key is zero on average, but its exponential is not: with even steps `delta`, a key gains
`sum_c log(sinh(a_c) / a_c)`, `a_c = q_c delta / (2 sqrt(d))`, in the logit (arXiv 2605.26266), to second order
`|q|^2 delta^2 / (24 d)`. With one step a key that is a product of a number of the query and one of the key, so one more
channel carries it through any attention. The channel form is ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .weighted import WIDTH_STEP


def with_step_channel(q: Tensor, k: Tensor, v: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Wider q, k, v, whose attention cut to v's width is that of `q, k, v` with the bias of rounding taken off.

    steps `(B, Hk, n)`: the distance of neighbouring codes of each key, 0 for one that was not rounded. The wider head's
    scale is folded into the queries.
    """
    d = q.shape[-1]
    wide = -(-(d + 1) // WIDTH_STEP) * WIDTH_STEP
    mean_square = q.float().square().mean(-1, keepdim=True)
    taken = -steps.float().square().unsqueeze(-1) * (wide**0.5 / 24)
    q = torch.cat([(q.float() * (wide / d) ** 0.5).to(q.dtype), mean_square.to(q.dtype)], dim=-1)
    k = torch.cat([k, taken.to(k.dtype)], dim=-1)
    return tuple(F.pad(x, (0, wide - x.shape[-1])) for x in (q, k, v))
