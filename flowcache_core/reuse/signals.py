"""What a policy looks at, and how far it moved. The run asks the backbone for the signal of a chunk."""

import torch
from torch import Tensor


def relative_l1(now: Tensor, before: Tensor, eps: float = 0.0) -> float:
    """`mean|now - before| / (mean|before| + eps)` in fp32 (TeaCache, FlowCache); NaN where both are zero."""
    before = before.float()
    return float(torch.mean((now.float() - before).abs()) / (before.abs().mean() + eps))
