"""What a run needs of a network besides its forward: sizes, embeddings, and the signals that policies look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .hooks import Hooks


@dataclass(frozen=True)
class Sizes:
    """channels: of the latent; a token covers `patch x patch` latent pixels of one frame; heads: of keys and values.

    time_theta: base of the rotary frequencies by which the first `head_dim - 4 * (head_dim // 6)` channels of a key
    tell the frame, in consecutive pairs; None where keys are rotated in another way. linear, text_linear: weights of a
    block that every token, and every text token, meets, for the count of FLOPs (0: not known, FLOPs are not counted);
    query_heads: where they are more than `heads`.
    """

    channels: int
    patch: int
    layers: int
    heads: int
    head_dim: int
    time_theta: float | None = None
    linear: int = 0
    text_linear: int = 0
    query_heads: int = 0

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Tokens of a latent frame of `height x width` latent pixels."""
        if height % self.patch or width % self.patch:
            raise ValueError(f"latent of {height} x {width}: both sides must be multiples of {self.patch}")
        return (height // self.patch) * (width // self.patch)


class Backbone(Protocol):
    """A network with hooks. Shapes as in `hooks.Call`; text as `embed_text` returns it.

    A network may also have `shift_keys(keys, frames) -> keys`, which turns rotated keys `(B, H, N, d)` to a place that
    many frames later; plans whose sink moves along need it.
    """

    @property
    def sizes(self) -> Sizes: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def embed_text(self, text: Tensor) -> Tensor: ...

    def time_modulation(self, timestep: Tensor) -> Tensor:
        """`(B, F) -> (B, F, 6, D)`: depends on the timestep alone."""

    def patch_tokens(self, latent: Tensor) -> Tensor:
        """`(B, C, F, h, w) -> (B, N, D)`: depends on the content."""

    def __call__(self, latent: Tensor, timestep: Tensor, text: Tensor, frame_index: Sequence[int] | None = None,
                 hooks: Hooks | None = None) -> Tensor: ...
