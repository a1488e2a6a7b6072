"""The decision map: chunks down, steps across, a cell coloured by what was decided there."""

from collections import Counter
from dataclasses import dataclass

from ..reuse.contract import OUTSIDE
from ..trace import LaneRecord, Trace
from .canvas import Canvas
from .grid import Grid
from .palette import DECISIONS, EMPTY, FORCED, Colour

FORCED_REASONS = frozenset({"warm-up", "last steps", "the plan must compute", OUTSIDE})
WORDS = {"compute": "computed", "forced": "always computed (warm-up, last steps, plan)", "reuse": "reused",
         "predict": "predicted", "partial": "computed in part", "derive": "derived from another stream"}


def mark_of(lane: LaneRecord) -> str:
    """The decision, or "forced" for a compute that the policy had no say in."""
    return "forced" if lane.decision == "compute" and lane.reason in FORCED_REASONS else lane.decision


def colour_of(mark: str) -> Colour:
    return FORCED if mark == "forced" else DECISIONS[mark]


@dataclass(frozen=True)
class Decisions:
    """marks: for every (chunk, step) what each lane did, in the order of `lanes` (stream, item)."""

    marks: dict[tuple[int, int], tuple[str, ...]]
    lanes: tuple[tuple[str, int], ...]
    counts: Counter

    @property
    def split(self) -> bool:
        """Whether lanes differ anywhere."""
        return any(len(set(marks)) > 1 for marks in self.marks.values())


def read_decisions(trace: Trace) -> Decisions:
    """What a trace says, cell by cell."""
    cells: dict[tuple[int, int], dict[tuple[str, int], str]] = {}
    for p in trace.passes:
        for lane in p.lanes:
            cells.setdefault((lane.chunk, lane.step), {})[lane.stream, lane.item] = mark_of(lane)
    lanes = tuple(sorted({lane for cell in cells.values() for lane in cell}))
    marks = {place: tuple(cell[lane] for lane in lanes if lane in cell) for place, cell in cells.items()}
    return Decisions(marks, lanes, Counter(mark for cell in cells.values() for mark in cell.values()))


def draw_map(canvas: Canvas, grid: Grid, decisions: Decisions) -> None:
    """Fills the cells; stripes from top to bottom where lanes differ. What was never run stays empty."""
    for chunk in range(grid.rows):
        for step in range(grid.columns):
            x, y, width, height = grid.cell(chunk, step)
            marks = decisions.marks.get((chunk, step), ())
            if len(set(marks)) <= 1:
                canvas.rect(x, y, width, height, colour_of(marks[0]) if marks else EMPTY)
                continue
            for n, mark in enumerate(marks):
                canvas.rect(x, y + height * n / len(marks), width, height / len(marks), colour_of(mark))


def legend_entries(decisions: Decisions) -> list[tuple[Colour, str]]:
    """Colour and words of what occurs, with its count."""
    return [(colour_of(mark), f"{words}: {decisions.counts[mark]:,}") for mark, words in WORDS.items()
            if decisions.counts[mark]]
