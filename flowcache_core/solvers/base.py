"""How one chunk takes one step. A solver is frozen; what it remembers of a chunk is a state of its own."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..registry import Registry
from .sigmas import SigmaTable


@dataclass(frozen=True)
class Solver(ABC):
    """`step` never changes its inputs: it returns the next sample and the next state."""

    needs_noise: ClassVar[bool] = False

    def new_state(self) -> Any:
        """The state of a chunk that has taken no step."""
        return None

    @abstractmethod
    def step(self, state: Any, x: Tensor, velocity: Tensor, index: int, table: SigmaTable,
             noise: Tensor | None = None) -> tuple[Tensor, Any]:
        """From level `index` to `index + 1` of `table`.

        x, velocity: `(B, C, F, h, w)`. noise: fresh noise of the same shape for solvers that need it.
        """

    def step_clean(self, state: Any, x: Tensor, clean: Tensor, index: int, table: SigmaTable,
                   noise: Tensor | None = None) -> tuple[Tensor, Any]:
        """As `step`, from the estimate of the clean sample that a host hands out, in the host's own arithmetic."""
        return self.step(state, x, (x - clean) / table.sigmas[index], index, table, noise)

    def moved(self, state: Any, by: Tensor) -> Any:
        """The state of a chunk whose sample is moved by `by (B, C, F, h, w)` before its next step."""
        return state


SOLVERS: Registry[Solver] = Registry("solver")
