"""The Wan2.1 video VAE in plain torch, with the key names and shapes of real checkpoints.

Geometry: `4n + 1` pixel frames <-> `n + 1` latent frames, 8x8 in space, 16 latent channels. Every temporal
operation is causal, so a video can be decoded latent by latent: `StreamMemory` keeps the last frames that each
temporal layer saw. The first pixel frame passes both temporal resamplers untouched.

Shapes: pixels `(B, 3, T, H, W)` in [-1, 1]; latents `(B, 16, F, H/8, W/8)`, normalised by `LATENT_MEAN/STD`.
`width` is the channel count of the outermost level (96 in Wan2.1); any width loads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_CHANNELS = 16
SPATIAL_FACTOR, TEMPORAL_FACTOR = 8, 4

# Per-channel statistics of Wan2.1 latents; models see (z - mean) / std.
LATENT_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
               0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
LATENT_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
              3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


def latent_frames(pixel_frames: int) -> int:
    """Latent frames of a clip of `pixel_frames` (which must be 4n + 1)."""
    if pixel_frames < 1 or (pixel_frames - 1) % TEMPORAL_FACTOR:
        raise ValueError(f"{pixel_frames} pixel frames: the codec takes 4n + 1 frames (1, 5, 9, ...)")
    return (pixel_frames - 1) // TEMPORAL_FACTOR + 1


def pixel_frames(latent_frame_count: int) -> int:
    """Pixel frames of a clip of `latent_frame_count` latent frames."""
    return (latent_frame_count - 1) * TEMPORAL_FACTOR + 1


class StreamMemory:
    """What each temporal layer remembers between the calls of one streamed clip."""

    def __init__(self) -> None:
        self._tails: dict[nn.Module, Tensor] = {}

    def started(self, layer: nn.Module) -> bool:
        return layer in self._tails

    def join(self, layer: nn.Module, x: Tensor, keep: int, pad: int) -> Tensor:
        """`x` behind the remembered frames (or `pad` zero frames at the start); remembers the last `keep`."""
        tail = self._tails.get(layer)
        if tail is None:
            tail = x.new_zeros(x.shape[0], x.shape[1], pad, *x.shape[3:])
        joined = torch.cat([tail, x], dim=2)
        # A clone, or the slice would keep the whole call's activations alive.
        self._tails[layer] = joined[:, :, -keep:].clone() if keep <= joined.shape[2] else joined
        return joined


class CausalConv3d(nn.Conv3d):
    """Conv3d whose temporal padding lies wholly in the past."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int) -> None:
        super().__init__(in_dim, out_dim, kernel, padding=(0, kernel // 2, kernel // 2))

    def forward(self, x: Tensor, memory: StreamMemory) -> Tensor:
        past = self.kernel_size[0] - 1
        return super().forward(memory.join(self, x, past, past) if past else x)


class ChannelNorm(nn.Module):
    """RMS norm over the channel dimension with a learned gain."""

    def __init__(self, dim: int, spatial_dims: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *([1] * spatial_dims)))

    def forward(self, x: Tensor) -> Tensor:
        power = (x * x).mean(dim=1, keepdim=True)   # not square(): autocast would widen it
        return x * power.clamp_min(1e-24).rsqrt() * self.gamma.to(x.dtype)


class ResidualBlock(nn.Module):
    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(in_dim), nn.SiLU(), CausalConv3d(in_dim, out_dim, 3),
            ChannelNorm(out_dim), nn.SiLU(), nn.Identity(), CausalConv3d(out_dim, out_dim, 3))
        self.shortcut = CausalConv3d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, memory: StreamMemory) -> Tensor:
        y = x
        for layer in self.residual:
            y = layer(y, memory) if isinstance(layer, CausalConv3d) else layer(y)
        skip = self.shortcut(x, memory) if isinstance(self.shortcut, CausalConv3d) else x
        return skip + y


class FrameAttention(nn.Module):
    """Single-head attention inside each frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim, spatial_dims=2)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, memory: StreamMemory) -> Tensor:
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)
        qkv = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).unsqueeze(1)
        out = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        out = self.proj(out.squeeze(1).transpose(1, 2).reshape(b * t, c, h, w))
        return x + out.reshape(b, t, c, h, w).transpose(1, 2)


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    b, c, t = x.shape[:3]
    y = layer(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (b, t)).transpose(1, 2)


class Downsample(nn.Module):
    """Halves height and width; with `temporal`, also time (all frames but the first of the clip)."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))
        self.time_conv = nn.Conv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, memory: StreamMemory) -> Tensor:
        x = _per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        first = None if memory.started(self) else x[:, :, :1]
        joined = memory.join(self, x, 1, 0)
        rest = self.time_conv(joined) if joined.shape[2] >= 3 else None
        return torch.cat([part for part in (first, rest) if part is not None], dim=2)


class Upsample(nn.Module):
    """Doubles height and width (and halves the channels); with `temporal`, also time, but for the first frame."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(dim, dim // 2, 3, padding=1))
        self.time_conv = nn.Conv3d(dim, 2 * dim, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, memory: StreamMemory) -> Tensor:
        return _per_frame(self.resample, self._double_time(x, memory) if self.time_conv is not None else x)

    def _double_time(self, x: Tensor, memory: StreamMemory) -> Tensor:
        first = None
        if not memory.started(self):
            first, x = x[:, :, :1], x[:, :, 1:]
            memory.join(self, first[:, :, :0], 2, 2)
        if x.shape[2]:
            b, c, t, h, w = x.shape
            pairs = self.time_conv(memory.join(self, x, 2, 2)).view(b, 2, c, t, h, w)
            x = torch.stack(pairs.unbind(1), dim=3).reshape(b, c, 2 * t, h, w)
        return x if first is None else torch.cat([first, x], dim=2)


class _Stage(nn.Module):
    """Runs its layers in order, handing each the stream memory."""

    @staticmethod
    def run(layers: nn.Sequential, x: Tensor, memory: StreamMemory) -> Tensor:
        for layer in layers:
            x = layer(x) if isinstance(layer, (ChannelNorm, nn.SiLU)) else layer(x, memory)
        return x


def _middle(dim: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(dim, dim), FrameAttention(dim), ResidualBlock(dim, dim))


class Encoder(_Stage):
    def __init__(self, width: int) -> None:
        super().__init__()
        dims = [width, width, 2 * width, 4 * width, 4 * width]
        self.conv1 = CausalConv3d(3, width, 3)
        layers: list[nn.Module] = []
        for level, (in_dim, out_dim) in enumerate(zip(dims[:-1], dims[1:], strict=True)):
            layers += [ResidualBlock(in_dim, out_dim), ResidualBlock(out_dim, out_dim)]
            if level < 3:
                layers.append(Downsample(out_dim, temporal=level > 0))
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(dims[-1])
        self.head = nn.Sequential(ChannelNorm(dims[-1]), nn.SiLU(), CausalConv3d(dims[-1], 2 * LATENT_CHANNELS, 3))

    def forward(self, x: Tensor, memory: StreamMemory) -> Tensor:
        x = self.conv1(x, memory)
        for stage in (self.downsamples, self.middle, self.head):
            x = self.run(stage, x, memory)
        return x


class Decoder(_Stage):
    def __init__(self, width: int) -> None:
        super().__init__()
        dims = [4 * width, 4 * width, 4 * width, 2 * width, width]
        self.conv1 = CausalConv3d(LATENT_CHANNELS, dims[0], 3)
        self.middle = _middle(dims[0])
        layers: list[nn.Module] = []
        for level, (in_dim, out_dim) in enumerate(zip(dims[:-1], dims[1:], strict=True)):
            in_dim = in_dim // 2 if level else in_dim   # the upsampler before has halved the channels
            layers += [ResidualBlock(in_dim, out_dim), ResidualBlock(out_dim, out_dim), ResidualBlock(out_dim, out_dim)]
            if level < 3:
                layers.append(Upsample(out_dim, temporal=level < 2))
        self.upsamples = nn.Sequential(*layers)
        self.head = nn.Sequential(ChannelNorm(width), nn.SiLU(), CausalConv3d(width, 3, 3))

    def forward(self, z: Tensor, memory: StreamMemory) -> Tensor:
        x = self.conv1(z, memory)
        for stage in (self.middle, self.upsamples, self.head):
            x = self.run(stage, x, memory)
        return x


class WanVAE(nn.Module):
    """Encoder and decoder. `width` as above; parameters grow with its square (0.9 M at 8, 127 M at 96)."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.conv1 = CausalConv3d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.conv2 = CausalConv3d(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = Decoder(width)
        self.register_buffer("mean", torch.tensor(LATENT_MEAN).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(LATENT_STD).view(1, -1, 1, 1, 1), persistent=False)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Raw latent mean and log-variance, each `(B, 16, F, h, w)`, of a whole clip in one pass."""
        memory = StreamMemory()
        mean, log_variance = self.conv1(self.encoder(pixels, memory), memory).chunk(2, dim=1)
        return mean, log_variance

    def reconstruct(self, raw: Tensor) -> Tensor:
        """Pixels of a whole clip of raw (not normalised) latents in one pass; for training."""
        memory = StreamMemory()
        return self.decoder(self.conv2(raw, memory), memory)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised latents `(B, 16, F, h, w)` of pixels `(B, 3, 4n + 1, H, W)` in [-1, 1]."""
        latent_frames(pixels.shape[2])
        return (self.moments(pixels.to(self.mean.device))[0] - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels `(B, 3, 4F - 3, H, W)` of normalised latents `(B, 16, F, h, w)`."""
        return self.decode_stream().push(latents)

    def decode_stream(self) -> "DecodeStream":
        """A decoder for one video that comes in pieces; its memory does not grow with the video."""
        return DecodeStream(self)


class DecodeStream:
    """Decodes the pieces of one video in order. Every piece is decoded latent by latent, so any split gives the same
    bits: `4f - 3` pixel frames for the first piece of f latent frames, `4f` for the others."""

    def __init__(self, vae: WanVAE) -> None:
        self._vae, self._memory = vae, StreamMemory()

    @torch.inference_mode()
    def push(self, latents: Tensor) -> Tensor:
        """Pixels `(B, 3, T, H, W)` in about [-1, 1] of normalised latents `(B, 16, f, h, w)`."""
        raw = latents.to(self._vae.mean.device) * self._vae.std + self._vae.mean
        vae, memory = self._vae, self._memory
        return torch.cat([vae.decoder(vae.conv2(z, memory), memory) for z in raw.split(1, dim=2)], dim=2)
