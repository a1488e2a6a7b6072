"""Where the noise of a chunk comes from. Only local generators; skipping a step never moves a later draw."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan.chunk_plan import Chunk
from ..registry import Registry

START = -1   # the "step" whose noise a chunk begins with
GIVEN = -2   # the "step" of the noise on given frames in row 0; that of row r is GIVEN - r


@dataclass(frozen=True)
class NoiseRule(ABC):
    """Standard normal noise, fp32 on the CPU, as a function of the seed and the place alone."""

    @abstractmethod
    def initial(self, seed: int, shape: Sequence[int], chunks: Sequence[Chunk]) -> Tensor:
        """The noise of a whole video, `shape = (B, C, F, h, w)`."""

    @abstractmethod
    def fresh(self, seed: int, shape: Sequence[int], chunk: int, step: int) -> Tensor:
        """What a re-noising solver adds to `chunk` after `step`; `shape = (B, C, frames of the chunk, h, w)`."""


NOISE_RULES: Registry[NoiseRule] = Registry("noise rule")


def _generator(*place: int) -> torch.Generator:
    digest = hashlib.sha256(repr(tuple(map(int, place))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@NOISE_RULES.register("per_chunk")
@dataclass(frozen=True)
class PerChunk(NoiseRule):
    """A generator per (seed, batch item, chunk, step): a longer video begins with the same noise, and item 0 of a
    batch is the video that a batch of one makes."""

    def initial(self, seed: int, shape: Sequence[int], chunks: Sequence[Chunk]) -> Tensor:
        return torch.cat([self.fresh(seed, (*shape[:2], c.frames, *shape[3:]), c.index, START) for c in chunks], dim=2)

    def fresh(self, seed: int, shape: Sequence[int], chunk: int, step: int) -> Tensor:
        return torch.stack([torch.randn(tuple(shape[1:]), generator=_generator(seed, item, chunk, step))
                            for item in range(shape[0])])


@NOISE_RULES.register("comfy_ar")
@dataclass(frozen=True)
class ComfyAR(NoiseRule):
    """The rule of ComfyUI's own autoregressive sampler: one draw for the whole video, then a generator seeded with
    `seed + 1000 * chunk + step` a step."""

    def initial(self, seed: int, shape: Sequence[int], chunks: Sequence[Chunk]) -> Tensor:
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(int(seed)))

    def fresh(self, seed: int, shape: Sequence[int], chunk: int, step: int) -> Tensor:
        place = (int(seed) + 1000 * chunk + step) % 2**64   # the host fails beyond the largest seed
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(place))
