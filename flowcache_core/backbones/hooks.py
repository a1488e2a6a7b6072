"""The hook contract: what a network calls during a pass, and nothing else that the core knows of a network.

A network that supports hooks calls, in this order:

    hooks.begin(call) -> velocity | None                      may answer without any forward
    hooks.block(index, x, run) -> hidden                      once a block; `run(x)` computes exactly this `x`
    hooks.attention(index, kind, q, k, v, attend) -> out      once an attention inside `run`; k is already rotated
    hooks.output(velocity) -> velocity                        after unpatchify

The hooks own every decision; the network owns every weight. Nothing is written in place into what a hook is given.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

AttentionKind = Literal["self", "cross"]
Attend = Callable[..., Tensor]
"""`attend(q, k, v, bias=None) -> out`, all `(B, H, N, d)`; `bias` broadcasts to `(B, H, Nq, Nk)` and is added to the
scaled logits."""


@dataclass(frozen=True)
class Call:
    """What a network is asked to compute.

    latent: `(B, C, F, h, w)`; timestep: `(B, F)` in 0..1000; frame_index: the `F` positions in the video, which give
    the rotary time index; tokens_per_frame: tokens of one latent frame.
    """

    latent: Tensor
    timestep: Tensor
    frame_index: tuple[int, ...]
    tokens_per_frame: int


@dataclass(frozen=True)
class BlockInput:
    """What one block reads. Slicing keeps all members aligned.

    hidden: `(B, N, D)`; modulation: `(B, F, 6, D)` fp32; rope: `(N, d/2, 2)` cosines and sines, fp32;
    text: `(B, L, D)`; token_index: `(N,)` positions of the tokens in the whole call, or None for all of them.
    """

    hidden: Tensor
    modulation: Tensor
    rope: Tensor
    text: Tensor
    tokens_per_frame: int
    token_index: Tensor | None = None

    def take(self, rows: Tensor | None = None, tokens: Tensor | None = None) -> "BlockInput":
        """The chosen batch rows and tokens (index tensors; None keeps all)."""
        x = self
        if rows is not None:
            x = replace(x, hidden=x.hidden[rows], modulation=x.modulation[rows], text=x.text[rows])
        if tokens is not None:
            index = tokens if x.token_index is None else x.token_index[tokens]
            x = replace(x, hidden=x.hidden[:, tokens], rope=x.rope[tokens], token_index=index)
        return x

    def with_hidden(self, hidden: Tensor) -> "BlockInput":
        return replace(self, hidden=hidden)

    def fold(self, y: Tensor) -> Tensor:
        """`(B, N, D)` of these tokens in the shape against which `spread` broadcasts."""
        return y.unflatten(1, (-1, self.tokens_per_frame)) if self.token_index is None else y

    def spread(self, values: Tensor) -> Tensor:
        """Per-frame `values (B, F, D)` for these tokens: `(B, F, 1, D)`, or `(B, N, D)` for chosen tokens."""
        if self.token_index is None:
            return values.unsqueeze(2)
        return values[:, self.token_index // self.tokens_per_frame]


Run = Callable[[BlockInput], Tensor]


class Hooks(Protocol):
    """What a network calls; see the module's text for the order."""

    def begin(self, call: Call) -> Tensor | None: ...

    def block(self, index: int, x: BlockInput, run: Run) -> Tensor: ...

    def attention(self, index: int, kind: AttentionKind, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor: ...

    def output(self, velocity: Tensor) -> Tensor: ...


class NoHooks:
    """Computes everything and changes nothing. A base for hooks that need only some of the four."""

    def begin(self, call: Call) -> Tensor | None:
        return None

    def block(self, index: int, x: BlockInput, run: Run) -> Tensor:
        return run(x)

    def attention(self, index: int, kind: AttentionKind, q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        return attend(q, k, v)

    def output(self, velocity: Tensor) -> Tensor:
        return velocity


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention over `(B, H, N, d)`; fewer key heads than query heads are shared in groups."""
    if k.shape[2] == 0:
        raise ValueError("attention over no keys: a pass must see at least its own tokens")
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=k.shape[1] != q.shape[1])


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotary embedding in fp32: consecutive pairs of `x (B, H, N, d)` turned by `rope (N, d/2, 2)`."""
    pairs = x.float().unflatten(-1, (-1, 2))
    cos, sin = rope.unbind(-1)
    real, imaginary = pairs.unbind(-1)
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
