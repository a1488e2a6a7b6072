"""What a video of windows will do, told before it is sampled: a `Forecast` a window, and what they come to."""

from collections.abc import Callable
from dataclasses import dataclass

from .forecast import Forecast
from .plan import Window


@dataclass(frozen=True)
class VideoForecast:
    """parts: of the windows, in their order; one where the model sees the whole video."""

    windows: tuple[Window, ...]
    parts: tuple[Forecast, ...]

    @property
    def firsts(self) -> list[int]:
        """The number in the video of every window's first chunk, and last how many chunks the video has."""
        made, prefixes = [0], [*(part.plan.prefix_chunks for part in self.parts[1:]), 0]
        for part, shared in zip(self.parts, prefixes, strict=True):
            made.append(made[-1] + len(part.plan.chunks) - part.plan.end_chunks - shared)
        return made

    def _sum(self, of: Callable[[Forecast], float]) -> float:
        return sum(of(part) for part in self.parts)

    @property
    def rows(self) -> int:
        return self._sum(lambda part: len(part.plan.rows))

    @property
    def passes(self) -> int:
        return self._sum(lambda part: sum(1 for _ in part.plan.passes()))

    @property
    def calls(self) -> int:
        return self._sum(lambda part: part.calls)

    @property
    def whole_calls(self) -> int:
        return self._sum(lambda part: part.whole_calls)

    @property
    def flops(self) -> float:
        return self._sum(lambda part: part.flops)

    @property
    def whole_flops(self) -> float:
        return self._sum(lambda part: part.whole_flops)

    @property
    def kv_bytes(self) -> int:
        """Of the largest cache: a window's is freed before the next one's is made."""
        return max(part.kv_bytes for part in self.parts)

    @property
    def computed_share(self) -> float:
        """Computed chunk steps / all chunk steps."""
        steps = [part.plan.chunk_steps() for part in self.parts]
        return sum(n * part.computed_share for n, part in zip(steps, self.parts, strict=True)) / max(1, sum(steps))

    @property
    def seconds(self) -> float | None:
        """Estimated, of the network alone; None where nothing was timed."""
        return None if self.parts[0].rate is None else self._sum(lambda part: part.seconds)

    @property
    def whole_seconds(self) -> float | None:
        """Estimated, were nothing skipped."""
        return None if self.parts[0].rate is None else self._sum(lambda part: part.whole_seconds)

    def different(self) -> list[int]:
        """Windows that do not go as an earlier one does."""
        known = [(part.plan, part.decisions) for part in self.parts]
        return [n for n, part in enumerate(known) if part not in known[:n]]
