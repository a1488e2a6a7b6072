"""How the streams of a pass become one velocity, and whose keys of the past each of them sees."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

COND, UNCOND, ALONE = "cond#0", "uncond#0", "alone#0"


@dataclass(frozen=True)
class Guidance(ABC):
    """streams: conditioning roles, in the order in which they run."""

    @property
    @abstractmethod
    def streams(self) -> tuple[str, ...]: ...

    @abstractmethod
    def combine(self, velocities: Mapping[str, Tensor], timestep: float) -> Tensor:
        """The velocity that the solver gets, from those of the streams `needed` at this timestep."""

    def needed(self, timestep: float) -> tuple[str, ...]:
        """The streams that count at this timestep."""
        return self.streams

    def cache_of(self, stream: str) -> str | None:
        """The stream whose keys of the past `stream` sees; None: it sees none. It writes keys if that is itself."""
        return stream

    def from_start(self, stream: str) -> bool:
        """Whether the stream is told that its chunk is the first of the video."""
        return False

    @property
    def strength(self) -> float:
        """The scale with which a stream's own share of the velocity counts; 1 is off."""
        return 1.0

    @property
    def writers(self) -> tuple[str, ...]:
        """Streams whose keys are cached."""
        return tuple(stream for stream in self.streams if self.cache_of(stream) == stream)


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """`uncond + scale * (cond - uncond)`; a scale of 1 needs no `uncond`."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ValueError(f"guidance {self.scale}: expected 0 or more (1 is off)")

    @property
    def strength(self) -> float:
        return self.scale

    @property
    def streams(self) -> tuple[str, ...]:
        return (COND,) if self.scale == 1 else (COND, UNCOND)

    def combine(self, velocities: Mapping[str, Tensor], timestep: float) -> Tensor:
        if UNCOND not in velocities:
            return velocities[COND]
        return velocities[UNCOND] + self.scale * (velocities[COND] - velocities[UNCOND])


@dataclass(frozen=True)
class MagiGuidance(Guidance):
    """MAGI-1's three passes: with text, without text, and without text and past.

    `(1 - past) alone + (past - text) uncond + text cond`. Only `uncond` writes keys, and `cond` sees those. From
    `late` on (timesteps are 1000 t, 1000 is clean) the result is `uncond` itself and the others are not run.
    """

    text: float = 7.5
    past: float = 1.5
    late: float = 300.0

    @property
    def strength(self) -> float:
        return self.text

    @property
    def streams(self) -> tuple[str, ...]:
        return (UNCOND, COND, ALONE)

    def needed(self, timestep: float) -> tuple[str, ...]:
        return (UNCOND,) if timestep > self.late - 1e-4 else self.streams   # borders belong to the later part

    def cache_of(self, stream: str) -> str | None:
        return None if stream == ALONE else UNCOND

    def from_start(self, stream: str) -> bool:
        return stream == ALONE

    def combine(self, velocities: Mapping[str, Tensor], timestep: float) -> Tensor:
        if COND not in velocities:
            return velocities[UNCOND]
        return ((1 - self.past) * velocities[ALONE] + (self.past - self.text) * velocities[UNCOND]
                + self.text * velocities[COND])
