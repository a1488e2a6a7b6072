"""The frame-rate embedding of SkyReels-V2 DF 1.3B, as what it is: a constant added to one bias.

`e0 += fps_projection(fps_embedding(row))` adds the same vector to the modulation at every timestep, hence to
`time_projection.1.bias`. Folded there it costs nothing, works on copies of the model that lost the `fps_*` tensors,
and another rate is another bias, not another model.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

FPS_SLOW = 16   # row 0 of the embedding; every other rate (24 in practice) is row 1
BIAS = "time_projection.1.bias"
NAMES = ("fps_embedding.weight", "fps_projection.0.weight", "fps_projection.0.bias", "fps_projection.2.weight",
         "fps_projection.2.bias")


def fps_row(fps: float | None) -> int:
    return 0 if fps == FPS_SLOW else 1


def fps_delta(tensors: Mapping[str, Tensor], fps: float | None) -> Tensor:
    """What `time_projection.1.bias` gains at `fps` (16, or anything else for 24): `(6 D,)`, fp32.

    tensors: a checkpoint's, without prefix; only those of `NAMES` are read. Raises ValueError where one is missing.
    """
    missing = [name for name in NAMES if name not in tensors]
    if missing:
        raise ValueError(f"no tensor {missing[0]}: only SkyReels-V2 DF 1.3B knows frame rates; leave the rate out")
    embedding, weight0, bias0, weight2, bias2 = (tensors[name].float() for name in NAMES)
    return F.linear(F.silu(F.linear(embedding[fps_row(fps)], weight0, bias0)), weight2, bias2)
