"""The MAGI-1 network in plain torch, with the key names and shapes of released checkpoints.

A reference like `wan.py`, calling the same hooks. Three things differ from the other families:

- Time. The network is told `1000 t` with `t = 0` noise and `t = 1` clean, but it returns the project's velocity,
  `noise - x0`, the negative of what MAGI's own code returns. The solvers then run over `sigma = 1 - t` as ever.
- Text. The first row that `embed_text` returns is not a word: it holds the caption's share of the condition vector.
- The hidden state keeps the dtype of the block weights; embeddings, rotary, the norms of q and k, the attention's
  output projection, gates, post norms and head are computed in fp32 whatever their weights are stored in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..flops import magi_architecture
from ..solvers.magi_times import SHORTCUT_STEPS, magi_intervals, magi_times
from .backbone import Sizes
from .hooks import BlockInput, Call, Hooks, NoHooks, attend
from .magi_parts import (
    Attention,
    CaptionEmbedder,
    FeedForward,
    Gates,
    MagiConfig,
    MagiNorm,
    MagiRope,
    TimeEmbedder,
    linear32,
)

PATCH = 2           # tokens cover PATCH x PATCH latent pixels of one frame
TIME_SCALE = 1000   # the network embeds 1000 t
NULL_ROWS = 50      # of the null caption that are read as text


@dataclass(frozen=True)
class MagiDistill:
    """What a distilled checkpoint is told besides the time: the offset of its steps, which falls with their size.

    steps: of the run; shortcut: the grid of a run of 12 steps, see `magi_times`.
    """

    steps: int
    shortcut: str = "8,16,16"

    def __post_init__(self) -> None:
        magi_intervals(self.steps, self.shortcut)

    def offset(self, timestep: Tensor) -> Tensor:
        """In units of t, for each of `timestep (B, F)`: `steps / 2`, or for 12 steps `8 / interval` of its step.

        A time between the steps belongs to a clean or prefix pass, which runs with the first step of a stage.
        """
        if self.steps != SHORTCUT_STEPS:
            return torch.full_like(timestep, self.steps / 2)
        times = torch.tensor(magi_times(self.steps, shortcut=self.shortcut)[:-1], device=timestep.device)
        intervals = torch.tensor(magi_intervals(self.steps, self.shortcut), device=timestep.device)
        distance, step = (timestep.unsqueeze(-1) - TIME_SCALE * times).abs().min(-1)
        return 8 / intervals[torch.where(distance < 1e-2, step, 0)].to(timestep.dtype)


class MagiBlock(nn.Module):
    def __init__(self, config: MagiConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.ada_modulate_layer = Gates(config)
        self.self_attention = Attention(config)
        self.self_attn_post_norm = MagiNorm(config.hidden, config.eps)
        self.mlp = FeedForward(config)
        self.mlp_post_norm = MagiNorm(config.hidden, config.eps)

    def forward(self, x: BlockInput, hooks: Hooks) -> Tensor:
        gate_sa, gate_ff = (x.spread(gate) for gate in self.ada_modulate_layer(x.modulation.squeeze(2)))
        q, k, v, qx = self.self_attention.project(x.hidden, x.rope)
        own = hooks.attention(self.index, "self", q, k, v, attend)
        cross = hooks.attention(self.index, "cross", qx, *self.self_attention.project_text(x.text), attend)
        hidden = _add(x, x.hidden, self.self_attention.merge(own, cross), gate_sa, self.self_attn_post_norm)
        return _add(x, hidden, self.mlp(hidden), gate_ff, self.mlp_post_norm)


def _add(x: BlockInput, hidden: Tensor, y: Tensor, gate: Tensor, norm: MagiNorm) -> Tensor:
    gated = (x.fold(y.float()) * gate).view_as(y)
    return (hidden.float() + norm(gated)).to(hidden.dtype)


class MagiTransformer(nn.Module):
    """`(latent, timestep, text) -> velocity`, with hooks. See `MagiConfig` for the sizes."""

    def __init__(self, config: MagiConfig, distill: MagiDistill | None = None) -> None:
        """distill: required by distilled checkpoints, which no tensor tells from base ones."""
        super().__init__()
        self.config, self.distill = config, distill
        c, d = config.model_channels, config.hidden
        self.x_embedder = nn.Conv3d(c, d, (1, PATCH, PATCH), stride=(1, PATCH, PATCH), bias=False)
        self.t_embedder = TimeEmbedder(config.condition)
        self.y_embedder = CaptionEmbedder(config.caption_channels, config.caption_max_length, d, config.condition)
        self.rope = MagiRope(config.head_dim)
        blocks = nn.ModuleList(MagiBlock(config, index) for index in range(config.layers))
        self.videodit_blocks = nn.ModuleDict({"layers": blocks, "final_layernorm": MagiNorm(d, config.eps)})
        self.final_linear = nn.ModuleDict({"linear": nn.Linear(d, PATCH * PATCH * c, bias=False)})

    @property
    def sizes(self) -> Sizes:
        c = self.config
        a = magi_architecture(c.hidden, c.ffn, c.layers, c.heads, c.gated, c.kv_heads, c.head_dim)
        return Sizes(c.channels, PATCH, c.layers, c.kv_heads, c.head_dim, None, a.linear, a.text_linear, c.heads)

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden state."""
        return self.videodit_blocks["layers"][0].mlp.linear_fc1.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.x_embedder.weight.device

    def embed_text(self, text: Tensor, dropped: bool = False) -> Tensor:
        """`(B, L, caption_channels) -> (B, 1 + L, D)`, fp32; depends on the caption alone, so a run computes it once.

        text: the rows that count, without padding. Row 0 of the result is the caption's share of the condition vector
        in its first `c` numbers, where it follows the text through batches and slices; the words come after it.
        dropped: whether the text stands for no caption (the passes of guidance that see null text).
        """
        words = self.y_embedder.words(text)
        share = F.pad(self.y_embedder.share(dropped), (0, words.shape[-1] - self.config.condition))
        return torch.cat([share.expand(words.shape[0], 1, -1), words], dim=1)

    def null_text(self, dropped: bool) -> Tensor:
        """`(1, 1 + NULL_ROWS, D)`: what stands for no caption; dropped: as in `embed_text`."""
        with torch.inference_mode():
            return self.embed_text(self.y_embedder.null_caption_embedding[None, :NULL_ROWS].float(), dropped)

    def time_modulation(self, timestep: Tensor) -> Tensor:
        """`(B, F) -> (B, F, 1, c)`: the condition vector of a caption that is not dropped."""
        return self._condition(timestep, self.y_embedder.share(dropped=False))

    def patch_tokens(self, latent: Tensor) -> Tensor:
        """`(B, C, F, h, w) -> (B, F * h/2 * w/2, D)`, tokens in (frame, row, column) order."""
        x = latent.float() * self.config.x_rescale
        x = torch.cat([x, x], dim=1) if self.config.half_channel else x
        tokens = F.conv3d(x, self.x_embedder.weight.float(), stride=self.x_embedder.stride)
        return tokens.flatten(2).transpose(1, 2).to(self.dtype)

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor, frame_index: Sequence[int] | None = None,
                hooks: Hooks | None = None) -> Tensor:
        """Velocity `noise - x0`, `(B, C, F, h, w)`, in the latent's dtype.

        latent `(B, C, F, h, w)`, h and w even; timestep `(B, F)`, `1000 t` with t = 1 clean, equal inside a chunk;
        text `(B, 1 + L, D)` of `embed_text`; frame_index: positions of the F frames in the video (default 0..F-1).
        Raises ValueError where the shapes do not fit one another.
        """
        hooks = hooks or NoHooks()
        b, _, f, h, w = latent.shape
        frame_index = tuple(range(f)) if frame_index is None else tuple(frame_index)
        self._check(latent, timestep, text, frame_index)
        rows, columns = h // PATCH, w // PATCH
        answer = hooks.begin(Call(latent, timestep, frame_index, rows * columns))
        if answer is not None:
            return hooks.output(answer)
        condition = self._condition(timestep, text[:, :1, :self.config.condition].float())
        x = BlockInput(self.patch_tokens(latent), condition, self.rope(frame_index, rows, columns),
                       text[:, 1:].to(self.dtype), rows * columns)
        for block in self.videodit_blocks["layers"]:
            x = x.with_hidden(hooks.block(block.index, x, lambda part, block=block: block(part, hooks)))
        tokens = linear32(self.final_linear["linear"], self.videodit_blocks["final_layernorm"](x.hidden.float()))
        return hooks.output(-(self._unpatchify(tokens, f, h, w) / self.config.x_rescale).to(latent.dtype))

    def _condition(self, timestep: Tensor, share: Tensor) -> Tensor:
        """`(B, F, 1, c)`, fp32 rounded to the hidden state's dtype; share: `(c,)` or `(B, 1, c)`."""
        condition = self.t_embedder(timestep, self.dtype)
        if self.distill is not None:
            condition = condition + self.t_embedder(TIME_SCALE * self.distill.offset(timestep), self.dtype)
        return (condition + share).to(self.dtype).float().unsqueeze(2)

    def _check(self, latent: Tensor, timestep: Tensor, text: Tensor, frame_index: tuple[int, ...]) -> None:
        b, c, f, h, w = latent.shape
        if c != self.config.channels or h % PATCH or w % PATCH:
            raise ValueError(f"latent {tuple(latent.shape)}: expected {self.config.channels} channels and even sides")
        if tuple(timestep.shape) != (b, f) or len(frame_index) != f:
            raise ValueError(f"timestep {tuple(timestep.shape)} and {len(frame_index)} frame positions: "
                             f"expected ({b}, {f}) and {f}, one a latent frame")
        if text.shape[0] != b or text.shape[1] < 2 or text.shape[-1] != self.config.hidden:
            raise ValueError(f"text {tuple(text.shape)}: expected ({b}, 1 + L, {self.config.hidden}) with at least "
                             "one word, made by embed_text")

    def _unpatchify(self, tokens: Tensor, f: int, h: int, w: int) -> Tensor:
        patches = tokens.unflatten(1, (f, h // PATCH, w // PATCH)).unflatten(-1, (PATCH, PATCH, -1))
        latent = patches.permute(0, 6, 1, 2, 4, 3, 5).reshape(tokens.shape[0], -1, f, h, w)
        return latent[:, :self.config.channels]
