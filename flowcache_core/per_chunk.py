"""Values and prompts that differ by chunk, in one small syntax for widgets, command line and JSON.

    0.1                          all chunks
    0:0.05, 1-3:0.1, 4+:0.15     by chunk; gaps and overlaps are errors
    0.05->0.15                   linear from the first to the last chunk
    0: a cat; 3: a dog           prompts; the last one holds

The index is the chunk's position in the finished video.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

ENTRY = re.compile(r"\s*(\d+)\s*(?:(\+)|-\s*(\d+))?\s*:\s*([^\s,:]+)\s*")


@dataclass(frozen=True)
class PerChunk:
    """A number for every chunk. `spans`: (first, last or None, value); `ramp`: (first value, last value)."""

    text: str
    spans: tuple[tuple[int, int | None, float], ...] = ()
    ramp: tuple[float, float] | None = None

    def at(self, chunk: int, chunks: int) -> float:
        """The value of `chunk` in a video of `chunks`."""
        if self.ramp is not None:
            first, last = self.ramp
            return first if chunks < 2 else first + (last - first) * chunk / (chunks - 1)
        for first, last, value in self.spans:
            if first <= chunk and (last is None or chunk <= last):
                return value
        raise ValueError(f"threshold {self.text!r}: no value for chunk {chunk} of {chunks}; end it with "
                         f"'{self.spans[-1][1] + 1}+:VALUE' to cover the rest")

    def values(self, chunks: int) -> tuple[float, ...]:
        return tuple(self.at(c, chunks) for c in range(chunks))

    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        numbers = self.ramp or tuple(value for _, _, value in self.spans)
        return min(numbers), max(numbers)

    def __str__(self) -> str:
        return self.text


def _error(text: str, place: int, what: str) -> ValueError:
    return ValueError(f"threshold {text!r}: {what} at position {place + 1}\n  {text}\n  {' ' * place}^")


def _number(text: str, token: str, place: int) -> float:
    """`token` begins at `place` of `text`."""
    place, token = place + _indent(token), token.strip()
    try:
        value = float(token)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _error(text, place, f"{token!r} is not a number")
    return value


def _indent(token: str) -> int:
    return len(token) - len(token.lstrip())


def parse_per_chunk(value: "str | float | PerChunk") -> PerChunk:
    """Parses the syntax above. Raises ValueError that points at the place."""
    if isinstance(value, PerChunk):
        return value
    text = str(value)
    if "->" in text:
        first, last = text.split("->", 1)
        return PerChunk(text, ramp=(_number(text, first, 0), _number(text, last, len(first) + 2)))
    if ":" not in text:
        return PerChunk(text, spans=((0, None, _number(text, text, 0)),))
    spans: list[tuple[int, int | None, float]] = []
    begin, expected = 0, 0
    for part in text.split(","):
        match, place = ENTRY.fullmatch(part), begin + _indent(part)
        if match is None:
            raise _error(text, place, "expected 'i:VALUE', 'i-j:VALUE' or 'i+:VALUE'")
        first, last = int(match[1]), None if match[2] else int(match[3] or match[1])
        if expected is None or first != expected:
            what = "overlap" if expected is None or first < expected else "gap"
            raise _error(text, place, f"{what}: " + ("an open range must come last" if expected is None
                                                     else f"chunk {expected} comes next, not {first}"))
        if last is not None and last < first:
            raise _error(text, place, f"range {first}-{last} runs backwards")
        spans.append((first, last, _number(text, match[4], begin + match.start(4))))
        begin, expected = begin + len(part) + 1, None if last is None else last + 1
    return PerChunk(text, tuple(spans))


def parse_prompts(text: str, chunks: int) -> tuple[str, ...]:
    """A prompt for every chunk: `0: a cat; 3: a dog`, or one prompt for all. The last one holds."""
    prompts = prompt_starts(text)
    check_starts(prompts, chunks)
    return tuple(prompts[max(p for p in prompts if p <= c)] for c in range(chunks))


def prompt_starts(text: str) -> dict[int, str]:
    """The prompts by the chunk at which they begin, where nobody has said yet how many chunks there are."""
    parts = text.split(";")
    if not re.match(r"\s*\d+\s*:", text):
        if len(parts) > 1:
            raise ValueError(f"prompt {text!r}: several prompts need a first chunk each: '0: a cat; 3: a dog'")
        return {0: text.strip()}
    prompts: dict[int, str] = {}
    for part in parts:
        match = re.fullmatch(r"\s*(\d+)\s*:\s*(.*?)\s*", part, re.DOTALL)
        if match is None or not match[2]:
            raise ValueError(f"prompt {part.strip()!r}: expected 'CHUNK: text'")
        if prompts and int(match[1]) <= max(prompts):
            raise ValueError(f"prompt for chunk {match[1]}: chunks must ascend")
        prompts[int(match[1])] = match[2]
    if 0 not in prompts:
        raise ValueError(f"prompt {text!r}: chunk 0 has none; begin with '0: ...'")
    return prompts


def check_starts(starts: Iterable[int], chunks: int) -> None:
    """Raises ValueError for a prompt that begins behind the end of a video of so many chunks."""
    late = next((start for start in starts if start >= chunks), None)
    if late is not None:
        raise ValueError(f"prompt for chunk {late}: the video has {chunks} chunks, 0 to {chunks - 1}")
