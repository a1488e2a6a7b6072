"""The vocabulary of a plan: chunks, passes, rows. Pure ints; no tensor, no time, no network."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

PassKind = Literal["denoise", "commit", "near_clean", "prefix", "recache"]


@dataclass(frozen=True)
class Chunk:
    """Consecutive latent frames `start .. stop - 1` of the video, denoised as a unit."""

    index: int
    start: int
    stop: int

    @property
    def frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Pass:
    """One run of the network.

    chunks: what is forwarded, ascending. steps: the step each of them takes (near_clean: takes part in; else empty).
    reads: other chunks whose cached keys it may see, ascending. writes: chunks whose keys it stores.
    must_compute: no policy may skip it. joint: several chunks see one another in one forward. place: the chunk whose
    frame positions it is told in place of its own. prompt: the chunk whose prompt it is told in place of its own.
    still: those of `chunks` that take no step and are only seen, their `steps` then being -1 (waiting) or the count of
    steps they have taken (finished). rebase: leading chunks of `reads` are told to lie right before the others.
    """

    chunks: tuple[int, ...]
    kind: PassKind = "denoise"
    steps: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    must_compute: bool = False
    place: int | None = None
    prompt: int | None = None
    still: tuple[int, ...] = ()
    rebase: bool = False

    @property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """The chunks that take (near_clean: take part in) a step, with that step."""
        return tuple((c, s) for c, s in zip(self.chunks, self.steps, strict=False) if c not in self.still)

    @property
    def joint(self) -> bool:
        return len(self.chunks) > 1


Row = tuple[Pass, ...]


@dataclass(frozen=True)
class ChunkPlan:
    """Rows of passes that together denoise every chunk.

    name: the builder's name. num_steps: steps of an ordinary chunk; first_steps: steps of chunk 0 where they differ.
    prefix_chunks: leading chunks that are given, not denoised. end_chunks: trailing chunks that are given and are no
    part of the video (an end frame).
    """

    name: str
    chunks: tuple[Chunk, ...]
    num_steps: int
    rows: tuple[Row, ...]
    prefix_chunks: int = 0
    first_steps: int | None = None
    end_chunks: int = 0

    @property
    def frames(self) -> int:
        """Latent frames of the video, those of end chunks not counted."""
        return self.chunks[-1 - self.end_chunks].stop

    def passes(self) -> Iterator[Pass]:
        return chain.from_iterable(self.rows)

    def steps_of(self, chunk: int) -> int:
        """Denoising steps that `chunk` takes (0 for a given chunk)."""
        if chunk < self.prefix_chunks or chunk >= len(self.chunks) - self.end_chunks:
            return 0
        return self.first_steps if chunk == 0 and self.first_steps is not None else self.num_steps

    def frame_index(self, p: Pass) -> tuple[int, ...]:
        """Positions in the video of the latent frames that a pass forwards, as the network is told them."""
        if p.place is not None:
            start = p.place * self.chunks[0].frames
            return tuple(range(start, start + self.chunks[p.chunks[0]].frames))
        return tuple(chain.from_iterable(range(self.chunks[c].start, self.chunks[c].stop) for c in p.chunks))

    def moved(self, p: Pass) -> dict[int, int]:
        """For every chunk in `p.reads` that is told another place: by how many frames later it is."""
        places = (*p.reads, p.chunks[0]) if p.rebase else ()
        for n in range(len(places) - 1, 0, -1):
            gap = self.chunks[places[n]].start - self.chunks[places[n - 1]].stop
            if gap > 0:
                return dict.fromkeys(p.reads[:n], gap)
        return {}

    def chunk_steps(self) -> int:
        """All chunk steps of the plan: what a policy could skip, and what `computed_share` is a share of."""
        return sum(len(p.moves) for p in self.passes() if p.kind == "denoise")

    def most_in_flight(self) -> int:
        """The largest number of chunks that one row denoises."""
        return max(len({c for p in row if p.kind == "denoise" for c, _ in p.moves}) for row in self.rows)

    def last_use(self) -> dict[int, int]:
        """For every chunk whose keys are stored: the last row that reads or writes them."""
        last: dict[int, int] = {}
        for number, row in enumerate(self.rows):
            for p in row:
                last.update(dict.fromkeys((*p.reads, *p.writes), number))
        return last


def split_frames(frames: int, chunk_frames: int) -> tuple[Chunk, ...]:
    """`frames` latent frames in chunks of `chunk_frames`; the last one may be shorter."""
    if frames < 1:
        raise ValueError(f"{frames} latent frames: a video needs at least 1")
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames {chunk_frames}: a chunk needs at least 1 latent frame")
    starts = range(0, frames, chunk_frames)
    return tuple(Chunk(i, start, min(start + chunk_frames, frames)) for i, start in enumerate(starts))


@dataclass(frozen=True)
class History:
    """Which earlier chunks a chunk may see: the first `sink` and the last `recent` (None: all of them).

    start: chunks before this one are out of sight, and the sink begins with it. rebase: the sink is told to lie right
    before the recent chunks, wherever those are.
    """

    recent: int | None = None
    sink: int = 0
    rebase: bool = False
    start: int = 0

    def __post_init__(self) -> None:
        if self.recent is not None and self.recent < 0 or self.sink < 0:
            raise ValueError(f"history of {self.recent} recent and {self.sink} sink chunks: expected 0 or more")

    def before(self, chunk: int) -> tuple[int, ...]:
        """Chunks that `chunk` may see, ascending, itself not included."""
        if self.recent is None:
            return tuple(range(self.start, chunk))
        first_recent = max(self.start, chunk - self.recent)
        return (*range(self.start, min(self.start + self.sink, first_recent)), *range(first_recent, chunk))


EVERYTHING = History()
