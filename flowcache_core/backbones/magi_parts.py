"""Sizes and parts of the MAGI-1 network: norms, rotary places, embeddings, and what a block is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_WAVES = 256
TIME_PERIOD = ROPE_PERIOD = 10000.0
ROPE_SIDE = 16           # patches along a side of the square grid on which rows and columns keep their distances
KEPT, DROPPED = -2, -1   # rows of the null caption that stand for "has a caption" and "has none"
MERGE_GROUPS = 8         # own and cross attention are interleaved in 8 parts, however many heads there are


@dataclass(frozen=True)
class MagiConfig:
    """Sizes of a checkpoint.

    kv_heads: heads of keys and values, shared by `heads / kv_heads` heads of queries each; channels: of the latent;
    chunk_width: latent frames of a chunk in training (the network itself takes any number); gated: SiLU-gated
    feed-forward; half_channel: the network is given the latent twice, at a tenth of its size (24B).
    """

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int = 8
    head_dim: int = 128
    channels: int = 16
    caption_channels: int = 4096
    caption_max_length: int = 800
    chunk_width: int = 6
    gated: bool = False
    half_channel: bool = False
    eps: float = 1e-6
    cond_hidden_ratio: float = 0.25

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads share {self.kv_heads} key heads: expected a multiple")
        if self.head_dim % 8:
            raise ValueError(f"head_dim {self.head_dim}: expected a multiple of 8")

    @property
    def condition(self) -> int:
        """Size of the condition vector."""
        return int(self.hidden * self.cond_hidden_ratio)

    @property
    def model_channels(self) -> int:
        return 2 * self.channels if self.half_channel else self.channels

    @property
    def x_rescale(self) -> float:
        return 0.1 if self.half_channel else 1.0


def linear32(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in fp32, whatever its weights are stored in."""
    return F.linear(x.float(), layer.weight.float(), None if layer.bias is None else layer.bias.float())


class MagiNorm(nn.LayerNorm):
    """Layer norm in the dtype of what it is given; with `plus_one` the gain is stored less 1."""

    def __init__(self, dim: int, eps: float, plus_one: bool = True) -> None:
        super().__init__(dim, eps)
        self.plus_one = plus_one
        if plus_one:
            nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        gain = self.weight + 1 if self.plus_one else self.weight
        return F.layer_norm(x, self.normalized_shape, gain.to(x.dtype), self.bias.to(x.dtype), self.eps)


class MagiRope(nn.Module):
    """Rotary places in time, row and column, with frequencies that were learned, one set for all three."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        count = head_dim // 8
        self.bands = nn.Parameter(ROPE_PERIOD ** (-torch.arange(count) / count))

    def forward(self, frame_index: Sequence[int], rows: int, columns: int) -> Tensor:
        """Cosines and sines `(F * rows * columns, 3 * head_dim / 8, 2)`, fp32, of every token's place."""
        bands = self.bands.float()
        side = (rows * columns) ** 0.5 / ROPE_SIDE
        places = (torch.tensor(list(frame_index)), _centred(rows, side), _centred(columns, side))
        t, y, x = (place.to(bands).unsqueeze(-1) * bands for place in places)
        shape = (len(frame_index), rows, columns)
        angle = torch.cat([t[:, None, None].expand(*shape, -1), y[None, :, None].expand(*shape, -1),
                           x[None, None].expand(*shape, -1)], dim=-1).flatten(0, 2)
        return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _centred(length: int, side: float) -> Tensor:
    """Places around 0 that span `length / side - 1`, however many there are."""
    places = torch.arange(length) - (length - 1) / 2
    return places / (length - 1) * (length / side - 1) if length > 1 else places


def rotate_halves(x: Tensor, rope: Tensor) -> Tensor:
    """Turns number i of `x (B, H, N, d)` together with number i + K by `rope (N, K, 2)`; what is beyond 2 K stays."""
    k = rope.shape[1]
    a, b, rest = x.split([k, k, x.shape[-1] - 2 * k], dim=-1)
    cos, sin = rope.unbind(-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def time_frequencies() -> Tensor:
    """`(128,)`, fp32, each rounded from the exact power of the exponent as fp32 holds it.

    A step offset turns the first waves by 8000 radians and more: one unit in the last place of a frequency is 5e-4
    there, and processors disagree by one in their fp32 `exp`.
    """
    half = TIME_WAVES // 2
    exponent = -math.log(TIME_PERIOD) * torch.arange(half, dtype=torch.float32) / half
    return exponent.double().exp().float()


class TimeEmbedder(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_WAVES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """`(B, F) -> (B, F, c)`, fp32. The waves are rounded to `dtype`, the model's, as released."""
        angle = timestep.float().unsqueeze(-1) * time_frequencies().to(timestep.device)
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype)
        return linear32(self.mlp[2], F.silu(linear32(self.mlp[0], waves)))


class CaptionEmbedder(nn.Module):
    def __init__(self, channels: int, length: int, hidden: int, condition: int) -> None:
        super().__init__()
        self.null_caption_embedding = nn.Parameter(torch.randn(length, channels) / channels**0.5)
        self.y_proj_xattn = nn.Sequential(nn.Linear(channels, hidden), nn.SiLU())
        self.y_proj_adaln = nn.Sequential(nn.Linear(channels, condition))

    def words(self, text: Tensor) -> Tensor:
        """`(B, L, channels) -> (B, L, hidden)`, fp32: what cross-attention reads."""
        return F.silu(linear32(self.y_proj_xattn[0], text))

    def share(self, dropped: bool) -> Tensor:
        """`(condition,)`, fp32: the caption's part of the condition vector, the same for every caption."""
        return linear32(self.y_proj_adaln[0], self.null_caption_embedding[DROPPED if dropped else KEPT])


class Projections(nn.Module):
    """The linears that read the hidden state; `qx` makes the queries of cross-attention from the same input."""

    def __init__(self, config: MagiConfig) -> None:
        super().__init__()
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.layer_norm = MagiNorm(config.hidden, config.eps, plus_one=False)
        self.q, self.qx = (nn.Linear(config.hidden, queries, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(config.hidden, keys, bias=False) for _ in range(2))


class Attention(nn.Module):
    """Self- and cross-attention side by side: both read the block's input, one projection reads both results."""

    def __init__(self, config: MagiConfig) -> None:
        super().__init__()
        self.head_dim = d = config.head_dim
        self.linear_qkv = Projections(config)
        self.linear_kv_xattn = nn.Linear(config.hidden, 2 * config.kv_heads * d, bias=False)
        self.linear_proj = nn.Linear(2 * config.heads * d, config.hidden, bias=False)
        self.q_layernorm, self.k_layernorm, self.q_layernorm_xattn, self.k_layernorm_xattn = (
            MagiNorm(d, config.eps) for _ in range(4))

    def project(self, hidden: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotated queries and keys, values, and the queries of cross-attention, each `(B, H, N, d)`."""
        project, normed = self.linear_qkv, self.linear_qkv.layer_norm(hidden)
        q, k, v, qx = (self._heads(linear(normed), self.head_dim)
                       for linear in (project.q, project.k, project.v, project.qx))
        q = rotate_halves(self.q_layernorm(q.float()), rope).to(v.dtype)
        k = rotate_halves(self.k_layernorm(k.float()), rope).to(v.dtype)
        return q, k, v, self.q_layernorm_xattn(qx)

    def project_text(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `text (B, L, D)`, which lie next to one another for every head."""
        k, v = self._heads(self.linear_kv_xattn(text), 2 * self.head_dim).chunk(2, dim=-1)
        return self.k_layernorm_xattn(k), v

    def merge(self, own: Tensor, cross: Tensor) -> Tensor:
        """`(B, N, D)`, fp32."""
        both = torch.stack([own.transpose(1, 2).flatten(2), cross.transpose(1, 2).flatten(2)], dim=2)
        return linear32(self.linear_proj, both.unflatten(-1, (MERGE_GROUPS, -1)).transpose(2, 3).flatten(2))

    @staticmethod
    def _heads(x: Tensor, width: int) -> Tensor:
        return x.unflatten(-1, (-1, width)).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, config: MagiConfig) -> None:
        super().__init__()
        self.gated = config.gated
        self.layer_norm = MagiNorm(config.hidden, config.eps, plus_one=False)
        self.linear_fc1 = nn.Linear(config.hidden, (1 + config.gated) * config.ffn, bias=False)
        self.linear_fc2 = nn.Linear(config.ffn, config.hidden, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        wide = self.linear_fc1(self.layer_norm(hidden))
        if not self.gated:
            return self.linear_fc2(F.gelu(wide))
        gate, value = wide.chunk(2, dim=-1)
        return self.linear_fc2(F.silu(gate) * value)


class Gates(nn.Module):
    def __init__(self, config: MagiConfig) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(config.condition, 2 * config.hidden))

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Two gates in -1..1 of `condition (B, F, c)`, each `(B, F, D)`, fp32: of attention and of feed-forward."""
        return self.proj(F.silu(condition).to(self.proj[0].weight.dtype)).float().tanh().chunk(2, dim=-1)
