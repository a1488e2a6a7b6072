"""Weights in 8 bits with a scale beside them, given back as plain weights, one at a time.

    name.weight  F8_E4M3 [out, in] or [1, out, in]
    name.scale_weight or name.weight_scale    [] or [1], or a number a row [out, 1]
    name.smooth_scale [1, in], name.input_scale [1]      MAGI-1's second kind only: weight * weight_scale * input_scale
                                                         / smooth_scale a column
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .stored import EIGHT_BITS, CheckpointError, Stored

SCALES = ("scale_weight", "weight_scale", "scale_input", "input_scale", "smooth_scale", "comfy_quant")
MARKS = ("scaled_fp8",)


def dequantised(found: Mapping[str, Stored], where: str) -> dict[str, Stored]:
    """Without scales; weights that had one are read as BF16. Raises CheckpointError where one does not fit."""
    kept = {name: tensor for name, tensor in found.items() if name not in MARKS and name.split(".")[-1] not in SCALES}
    if len(kept) == len(found):
        return kept
    for name, tensor in list(kept.items()):
        base, _, last = name.rpartition(".")
        if last != "weight" or tensor.dtype not in EIGHT_BITS:
            continue
        beside = {scale: found[f"{base}.{scale}"] for scale in SCALES if f"{base}.{scale}" in found}
        kept[name] = _scaled(name, tensor, beside, where)
    return kept


def _scaled(name: str, tensor: Stored, beside: Mapping[str, Stored], where: str) -> Stored:
    scale = beside.get("scale_weight", beside.get("weight_scale"))
    shape = tensor.shape[1:] if len(tensor.shape) == 3 and tensor.shape[0] == 1 else tensor.shape
    if scale is None and tensor.shape == shape:
        return tensor
    if scale is None or scale.numbers not in (1, shape[0]):
        raise CheckpointError(f"{where}: {name} is in 8 bits with " + ("no scale" if scale is None else
                              f"scales {scale.shape}") + "; give a file with one scale a tensor or a row")
    smooth, added = beside.get("smooth_scale"), beside.get("input_scale")
    if smooth is not None and (added is None or added.numbers != 1 or smooth.numbers != shape[-1]):
        raise CheckpointError(f"{where}: {name} has a smooth_scale that does not fit {shape}; download it again")

    def read() -> Tensor:
        factor = scale.read().float().flatten()
        weight = tensor.read().view(torch.float8_e5m2 if tensor.dtype == "F8_E5M2" else torch.float8_e4m3fn)
        weight = weight.reshape(shape).float() * (factor if factor.numel() == 1 else factor.unsqueeze(1))
        if smooth is not None:
            weight = weight * added.read().float().flatten() / smooth.read().float().flatten()
        return weight.bfloat16()

    return Stored(shape, "BF16", read)
