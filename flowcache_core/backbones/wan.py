"""The Wan2.1 text-to-video network in plain torch, with the key names and shapes of real checkpoints.

A reference: small, explicit, and calling the hooks of `hooks.py` where ComfyUI's own network offers patches. Covers
Wan2.1 T2V, the Self-Forcing family (same tensors) and SkyReels-V2 DF 1.3B (`fps_*` tensors besides).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..flops import wan_architecture
from .backbone import Sizes
from .fps import BIAS, NAMES, fps_delta, fps_row
from .hooks import BlockInput, Call, Hooks, NoHooks, attend, rotate

PATCH = 2          # tokens cover PATCH x PATCH latent pixels of one frame
NORM_EPS = 1e-6
TIMESTEP_PERIOD = ROPE_THETA = 10000.0


@dataclass(frozen=True)
class WanConfig:
    """Sizes of a checkpoint. `fps`: whether it has the fps embedding of SkyReels-V2 DF 1.3B.

    head_dim is 128 in every released model; small test models may use less (a multiple of 4, at least 12).
    """

    dim: int
    layers: int
    ffn: int
    heads: int
    freq_dim: int = 256
    text_dim: int = 4096
    channels: int = 16
    fps: bool = False

    def __post_init__(self) -> None:
        if self.dim % self.heads or self.head_dim % 4 or self.head_dim < 12:
            raise ValueError(f"dim {self.dim} with {self.heads} heads: a head needs a multiple of 4, at least 12")
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim {self.freq_dim}: expected an even number")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), NORM_EPS)


class Attention(nn.Module):
    """Projections of one attention; q and k are normalised over the full width before the split into heads."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(config.dim), RMSNorm(config.dim)

    def project(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of `x`, keys and values of `source`, each `(B, H, N, d)`."""
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(source)), self.v(source)
        return tuple(y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))

    def merge(self, out: Tensor) -> Tensor:
        return self.o(out.transpose(1, 2).flatten(2))


class WanBlock(nn.Module):
    def __init__(self, config: WanConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.self_attn, self.cross_attn = Attention(config), Attention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.ffn = nn.Sequential(nn.Linear(config.dim, config.ffn), nn.GELU("tanh"), nn.Linear(config.ffn, config.dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)

    def forward(self, x: BlockInput, hooks: Hooks) -> Tensor:
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (
            x.spread(part) for part in (self.modulation.unsqueeze(0) + x.modulation).unbind(2))
        hidden = x.hidden
        tokens = _modulate(x, hidden, shift_sa, scale_sa)
        q, k, v = self.self_attn.project(tokens, tokens)
        out = hooks.attention(self.index, "self", rotate(q, x.rope), rotate(k, x.rope), v, attend)
        hidden = hidden + _gate(x, self.self_attn.merge(out), gate_sa)
        q, k, v = self.cross_attn.project(self.norm3(hidden), x.text)
        hidden = hidden + self.cross_attn.merge(hooks.attention(self.index, "cross", q, k, v, attend))
        return hidden + _gate(x, self.ffn(_modulate(x, hidden, shift_ff, scale_ff)), gate_ff)


def _modulate(x: BlockInput, y: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = x.fold(F.layer_norm(y, (y.shape[-1],), eps=NORM_EPS))
    return (normed * (1 + scale) + shift).to(y.dtype).view_as(y)


def _gate(x: BlockInput, y: Tensor, gate: Tensor) -> Tensor:
    return (x.fold(y) * gate).to(y.dtype).view_as(y)


class WanHead(nn.Module):
    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.head = nn.Linear(config.dim, PATCH * PATCH * config.channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: BlockInput, embedding: Tensor) -> Tensor:
        """`embedding (B, F, D)` is the time embedding itself, not its projection."""
        shift, scale = (x.spread(part) for part in (self.modulation.unsqueeze(0) + embedding.unsqueeze(2)).unbind(2))
        return self.head(_modulate(x, x.hidden, shift, scale))


@dataclass(frozen=True)
class TimeModulation:
    """embedding `(B, F, D)` and modulation `(B, F, 6, D)` of per-frame timesteps, both fp32."""

    embedding: Tensor
    modulation: Tensor


class WanTransformer(nn.Module):
    """`(latent, timestep, text) -> velocity`, with hooks. See `WanConfig` for the sizes."""

    def __init__(self, config: WanConfig, fps: float | None = None) -> None:
        """fps: the frame rate told to checkpoints that have an fps embedding (16, or anything else for 24)."""
        super().__init__()
        self.config, self.fps = config, fps
        d = config.dim
        self.patch_embedding = nn.Conv3d(config.channels, d, (1, PATCH, PATCH), stride=(1, PATCH, PATCH))
        self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, d), nn.GELU("tanh"), nn.Linear(d, d))
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, d), nn.SiLU(), nn.Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        if config.fps:
            self.fps_embedding = nn.Embedding(2, d)
            self.fps_projection = nn.Sequential(nn.Linear(d, d), nn.SiLU(), nn.Linear(d, 6 * d))
        self.blocks = nn.ModuleList(WanBlock(config, index) for index in range(config.layers))
        self.head = WanHead(config)

    def at_fps(self, fps: float | None) -> "WanTransformer":
        """This network with a frame rate folded into its bias; every other tensor is shared. Without an fps embedding
        it is the network itself, which knows no rates."""
        if not self.config.fps:
            return self
        with torch.device("meta"):
            folded = WanTransformer(replace(self.config, fps=False))
        tensors = self.state_dict()
        tensors[BIAS] = (tensors[BIAS].float() + fps_delta(tensors, fps)).to(tensors[BIAS].dtype)
        folded.load_state_dict({name: value for name, value in tensors.items() if name not in NAMES}, assign=True)
        return folded.eval().requires_grad_(False)

    @property
    def sizes(self) -> Sizes:
        c = self.config
        a = wan_architecture(c.dim, c.ffn, c.layers)
        return Sizes(c.channels, PATCH, c.layers, c.heads, c.head_dim, ROPE_THETA, a.linear, a.text_linear)

    @property
    def dtype(self) -> torch.dtype:
        return self.head.head.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.head.head.weight.device

    def embed_text(self, text: Tensor) -> Tensor:
        """`(B, L, text_dim) -> (B, L, D)`; depends on the prompt alone, so a run computes it once."""
        return self.text_embedding(text.to(self.text_embedding[0].weight.dtype))

    def embed_time(self, timestep: Tensor) -> TimeModulation:
        """Time embedding and modulation of `timestep (B, F)`."""
        waves = _sinusoid(timestep, self.config.freq_dim)
        embedding = self.time_embedding(waves.to(self.time_embedding[0].weight.dtype))
        modulation = self.time_projection(embedding).unflatten(-1, (6, -1)).float()
        if self.config.fps:
            row = torch.tensor(fps_row(self.fps), device=timestep.device)
            modulation = modulation + self.fps_projection(self.fps_embedding(row)).view(6, -1).float()
        return TimeModulation(embedding.float(), modulation)

    def time_modulation(self, timestep: Tensor) -> Tensor:
        return self.embed_time(timestep).modulation

    def patch_tokens(self, latent: Tensor) -> Tensor:
        """`(B, C, F, h, w) -> (B, F * h/2 * w/2, D)`, tokens in (frame, row, column) order."""
        b, c, f, h, w = latent.shape
        conv = self.patch_embedding
        patches = latent.to(conv.weight.dtype).reshape(b, c, f, h // PATCH, PATCH, w // PATCH, PATCH)
        # Patches do not overlap, so that one matrix product does what the convolution does, faster on CPUs.
        tokens = patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        return F.linear(tokens, conv.weight.flatten(1), conv.bias)

    def shift_keys(self, keys: Tensor, frames: int) -> Tensor:
        return shift_keys(keys, frames)

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor, frame_index: Sequence[int] | None = None,
                hooks: Hooks | None = None) -> Tensor:
        """Velocity `(B, C, F, h, w)`, in the latent's dtype.

        latent `(B, C, F, h, w)`, h and w even; timestep `(B, F)` in 0..1000; text `(B, L, D)` of `embed_text`;
        frame_index: positions of the F frames in the video (default 0..F-1).
        Raises ValueError where the shapes do not fit one another.
        """
        hooks = hooks or NoHooks()
        b, _, f, h, w = latent.shape
        frame_index = tuple(range(f)) if frame_index is None else tuple(frame_index)
        self._check(latent, timestep, text, frame_index)
        per_frame = (h // PATCH) * (w // PATCH)
        answer = hooks.begin(Call(latent, timestep, frame_index, per_frame))
        if answer is not None:
            return hooks.output(answer)
        time = self.embed_time(timestep)
        rope = rope_table(frame_index, h // PATCH, w // PATCH, self.config.head_dim, latent.device)
        x = BlockInput(self.patch_tokens(latent), time.modulation, rope, text, per_frame)
        for block in self.blocks:
            x = x.with_hidden(hooks.block(block.index, x, lambda part, block=block: block(part, hooks)))
        tokens = self.head(x, time.embedding)
        return hooks.output(self._unpatchify(tokens, f, h, w).to(latent.dtype))

    def _check(self, latent: Tensor, timestep: Tensor, text: Tensor, frame_index: tuple[int, ...]) -> None:
        b, c, f, h, w = latent.shape
        if c != self.config.channels or h % PATCH or w % PATCH:
            raise ValueError(f"latent {tuple(latent.shape)}: expected {self.config.channels} channels and even sides")
        if tuple(timestep.shape) != (b, f) or len(frame_index) != f:
            raise ValueError(f"timestep {tuple(timestep.shape)} and {len(frame_index)} frame positions: "
                             f"expected ({b}, {f}) and {f}, one a latent frame")
        if text.shape[0] != b or text.shape[-1] != self.config.dim:
            raise ValueError(f"text {tuple(text.shape)}: expected ({b}, L, {self.config.dim}), made by embed_text")

    def _unpatchify(self, tokens: Tensor, f: int, h: int, w: int) -> Tensor:
        patches = tokens.unflatten(1, (f, h // PATCH, w // PATCH)).unflatten(-1, (PATCH, PATCH, -1))
        return patches.permute(0, 6, 1, 2, 4, 3, 5).reshape(tokens.shape[0], -1, f, h, w)


def _sinusoid(timestep: Tensor, dim: int) -> Tensor:
    half = dim // 2
    frequency = TIMESTEP_PERIOD ** (-torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angle = timestep.double().unsqueeze(-1) * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1).float()


def rope_table(frame_index: Sequence[int], rows: int, columns: int, head_dim: int, device: torch.device) -> Tensor:
    """Cosines and sines `(F * rows * columns, head_dim / 2, 2)`, fp32, of every token's place in time, row, column.

    Shared between calls: not to be written to.
    """
    with torch.inference_mode(False):   # or else a table made while sampling could not be trained with
        return _rope_table(tuple(frame_index), rows, columns, head_dim, device)


def shift_keys(keys: Tensor, frames: int) -> Tensor:
    """Rotated keys `(B, H, N, d)` as if their tokens lay `frames` latent frames later.

    One more rotation of the pairs of time, in fp32: rotations add up, so the keys before rotation are not needed.
    """
    table = rope_table((frames,), 1, 1, keys.shape[-1], keys.device)
    return rotate(keys, table)


@lru_cache(maxsize=16)   # a table for each chunk in flight
def _rope_table(frame_index: tuple[int, ...], rows: int, columns: int, head_dim: int, device: torch.device) -> Tensor:
    side = 2 * (head_dim // 6)
    widths = (head_dim - 2 * side, side, side)
    frequencies = [ROPE_THETA ** (-torch.arange(0, width, 2, dtype=torch.float64) / width) for width in widths]
    places = [torch.tensor(place, dtype=torch.float64) for place in (list(frame_index), range(rows), range(columns))]
    t, y, x = (torch.outer(place, frequency) for place, frequency in zip(places, frequencies, strict=True))
    shape = (len(frame_index), rows, columns)
    angle = torch.cat([t[:, None, None].expand(*shape, -1), y[None, :, None].expand(*shape, -1),
                       x[None, None].expand(*shape, -1)], dim=-1).flatten(0, 2)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float().to(device)
