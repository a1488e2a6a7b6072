"""A noise rule that remembers what it drew."""

from dataclasses import dataclass, field

from torch import Tensor

from flowcache_core.solvers.noise import PerChunk


@dataclass(frozen=True)
class Recording(PerChunk):
    name = "recording"
    drawn: list[tuple[tuple[int, int], Tensor]] = field(default_factory=list)

    def fresh(self, seed, shape, chunk, step):
        noise = super().fresh(seed, shape, chunk, step)
        self.drawn.append(((chunk, step), noise))
        return noise
