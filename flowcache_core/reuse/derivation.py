"""One stream's velocity from another's and a cached difference, plain or split by spatial frequency.

The cfg cache of FasterCache (arXiv 2410.19355): the difference between unconditional and conditional output changes
slowly, its low and high frequencies at different rates.
"""

import torch
from torch import Tensor


def low_frequencies(x: Tensor) -> Tensor:
    """`x (C, F, h, w)` with only the spatial frequencies inside a disc of radius `min(h, w) // 5`, frame by frame."""
    h, w = x.shape[-2:]
    rows, columns = (torch.fft.fftfreq(n, 1 / n, device=x.device) for n in (h, w))
    disc = rows[:, None] ** 2 + columns[None] ** 2 <= (min(h, w) // 5) ** 2
    return torch.fft.ifft2(torch.fft.fft2(x.float()) * disc).real


def derived(source: Tensor, difference: Tensor, factors: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """`source + difference`, whose low and high spatial frequencies are scaled by `factors`. All `(C, F, h, w)`.

    Linear in the spectrum, so the difference itself is kept and two spectra are not.
    """
    low, high = factors
    if low == high:
        return source + low * difference if low != 1 else source + difference
    lows = low_frequencies(difference)
    return (source + low * lows + high * (difference.float() - lows)).to(source.dtype)
