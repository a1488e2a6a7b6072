from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .base import SOLVERS, Solver
from .sigmas import SigmaTable


@SOLVERS.register("euler")
@dataclass(frozen=True)
class Euler(Solver):
    """First order: `x + (sigma' - sigma) v`."""

    def step(self, state: Any, x: Tensor, velocity: Tensor, index: int, table: SigmaTable,
             noise: Tensor | None = None) -> tuple[Tensor, Any]:
        return x + (table.sigmas[index + 1] - table.sigmas[index]) * velocity, state


@SOLVERS.register("renoise")
@dataclass(frozen=True)
class Renoise(Solver):
    """Few-step consistency sampling: estimate the clean sample, add fresh noise of the next level."""

    needs_noise: ClassVar[bool] = True

    def step(self, state: Any, x: Tensor, velocity: Tensor, index: int, table: SigmaTable,
             noise: Tensor | None = None) -> tuple[Tensor, Any]:
        return self.step_clean(state, x, x - table.sigmas[index] * velocity, index, table, noise)

    def step_clean(self, state: Any, x: Tensor, clean: Tensor, index: int, table: SigmaTable,
                   noise: Tensor | None = None) -> tuple[Tensor, Any]:
        following = table.sigmas[index + 1]
        if following == 0:
            return clean, state
        if noise is None:
            raise ValueError(f"step {index} of the renoise solver: fresh noise is needed and none was given")
        return (1 - following) * clean + following * noise, state
