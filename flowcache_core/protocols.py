"""What a run needs around the network: a text encoder and a codec. Real families bring their own later."""

from typing import Protocol

from torch import Tensor


class TextEncoder(Protocol):
    def encode(self, prompt: str) -> Tensor:
        """`(1, L, text_dim)`; "" is the unconditional prompt. Raises ValueError for a prompt it cannot read."""


class VideoStream(Protocol):
    def push(self, latents: Tensor) -> Tensor:
        """Pixels `(B, 3, T, H, W)` in about [-1, 1] of the next latents `(B, C, f, h, w)` of one video."""


class Codec(Protocol):
    def encode(self, pixels: Tensor) -> Tensor:
        """Latents `(B, C, F, h, w)` of pixels `(B, 3, 4F - 3, H, W)` in [-1, 1]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of a whole video."""

    def decode_stream(self) -> VideoStream:
        """A decoder for a video that comes in pieces."""
