"""A schedule at a glance: rows of the plan go right, chunks go down, cells darken from the first step to the last."""

from dataclasses import dataclass, field

import numpy as np

from ..plan.chunk_plan import ChunkPlan, Pass
from .canvas import Canvas, text_width
from .grid import Grid, card, draw_legend, fit_grid, label_grid
from .header import Header
from .palette import CARD, EMPTY, FIRST_STEP, INK, LAST_STEP, PASSES, Colour, blend

WIDTH, MARGIN = 1280, 28
INNER = WIDTH - 2 * MARGIN
GRID_X, GRID_TOP, GRID_FOOT = 64, 74, 44   # inside the card
GRID_HEIGHT, LARGEST_CELL = 640, (72, 34)
MARK_SHARE, MARK_LEAST = 0.36, 2.0         # width of the mark of a pass beside the denoising, of a cell and in pixels
STEP_SIZE, STEP_ROOM = 10, 20              # font size of step numbers; cells that are smaller have none
DARK = 450                                 # sum of the channels under which a colour takes white text
WORDS = {"prefix": "given chunk, keys stored", "commit": "commit", "near_clean": "near-clean pass",
         "recache": "keys stored anew"}


@dataclass
class PlanCell:
    """What one row does with one chunk. step: the step it takes, if any; others: kinds of its other passes."""

    step: int | None = None
    joint: bool = False
    others: list[str] = field(default_factory=list)

    def add(self, p: Pass, chunk: int) -> None:
        if p.kind == "denoise":
            self.step, self.joint = p.steps[p.chunks.index(chunk)], p.joint
        else:
            self.others.append(p.kind)


def plan_cells(plan: ChunkPlan) -> dict[tuple[int, int], PlanCell]:
    """The cells of every (chunk, row) in which something happens."""
    cells: dict[tuple[int, int], PlanCell] = {}
    for number, row in enumerate(plan.rows):
        for p in row:
            for chunk in (c for c in p.chunks if c not in p.still):
                cells.setdefault((chunk, number), PlanCell()).add(p, chunk)
    return cells


def step_colour(plan: ChunkPlan, chunk: int, step: int) -> Colour:
    """The colour of a denoising step: light for the first, dark for the last."""
    return blend(FIRST_STEP, LAST_STEP, step / max(1, plan.steps_of(chunk) - 1))


def plan_sentence(plan: ChunkPlan) -> str:
    """The plan in one line of words."""
    frames = max(c.frames for c in plan.chunks)
    return (f"{plan.name}: {_count(len(plan.chunks), 'chunk')} of {_count(frames, 'latent frame')}, "
            f"{_count(plan.num_steps, 'step')}, {_count(len(plan.rows), 'row')}, "
            f"{_count(sum(1 for _ in plan.passes()), 'pass', 'passes')}")


def _count(number: int, word: str, words: str | None = None) -> str:
    return f"{number:,} {word if number == 1 else words or word + 's'}"


def plan_layout(plan: ChunkPlan) -> tuple[Header, Grid]:
    """Head and cells of `plan_picture(plan)`; row of the grid = chunk, column = row of the plan."""
    facts = (("latent frames", f"{plan.frames:,}"), ("chunk steps", f"{plan.chunk_steps():,}"),
             ("most chunks in flight", str(plan.most_in_flight())))
    given = plan.prefix_chunks + plan.end_chunks
    facts += (("given chunks", str(given)),) if given else ()
    header = Header(plan_sentence(plan), (facts,), INNER)
    grid = fit_grid(MARGIN + GRID_X, MARGIN + header.height + 4 + GRID_TOP, len(plan.chunks), len(plan.rows),
                    INNER - GRID_X - 24, GRID_HEIGHT, LARGEST_CELL)
    return header, grid


def plan_picture(plan: ChunkPlan) -> np.ndarray:
    """The picture of a plan, RGB uint8 `(H, 1280, 3)`."""
    header, grid = plan_layout(plan)
    cells, top = plan_cells(plan), MARGIN + header.height + 4
    canvas = Canvas(WIDTH, grid.bottom + GRID_FOOT + MARGIN)
    header.draw(canvas, MARGIN, MARGIN)
    card(canvas, MARGIN, top, INNER, grid.bottom + GRID_FOOT - top, "Schedule")
    _legend(canvas, plan, cells, top + 24)
    label_grid(canvas, grid, "chunk", "row of the plan (time)")
    canvas.rect(grid.x, grid.y, grid.right - grid.x, grid.bottom - grid.y, EMPTY)
    for (chunk, row), cell in cells.items():
        if cell.step is not None:
            _draw_step(canvas, grid, plan, chunk, row, cell)
    for (chunk, row), cell in cells.items():
        if cell.others:
            _draw_marks(canvas, grid, chunk, row, cell)
    return canvas.image()


def _draw_step(canvas: Canvas, grid: Grid, plan: ChunkPlan, chunk: int, row: int, cell: PlanCell) -> None:
    x, y, width, height = grid.cell(chunk, row)
    colour = step_colour(plan, chunk, cell.step)
    canvas.rect(x, y, width, height, colour)
    room = width * (1 - MARK_SHARE if cell.others else 1)
    if min(room, height) >= STEP_ROOM:
        ink = CARD if sum(colour) < DARK else INK
        canvas.text(x + room / 2, y + height / 2, str(cell.step), STEP_SIZE, ink, "center")
    if cell.joint:
        _bar(canvas, grid, chunk, row)


def _draw_marks(canvas: Canvas, grid: Grid, chunk: int, row: int, cell: PlanCell) -> None:
    """The passes that are no steps, at the end of the cell, since they follow the step."""
    x, y, width, height = grid.cell(chunk, row)
    share = max(MARK_LEAST, (1.0 if cell.step is None else MARK_SHARE) * width / len(cell.others))
    for n, kind in enumerate(cell.others):
        left = x + width - (len(cell.others) - n) * share
        canvas.rect(max(grid.x, left), y, share, height, PASSES[kind])


def _bar(canvas: Canvas, grid: Grid, chunk: int, row: int) -> None:
    """A line through the cells of one joint pass, bridging the gaps between them."""
    x, y, width, _ = grid.cell(chunk, row)
    canvas.rect(x + min(5.0, width * 0.1), y, min(2.0, max(1.0, width * 0.08)), grid.cell_height, INK)


def _legend(canvas: Canvas, plan: ChunkPlan, cells: dict[tuple[int, int], PlanCell], y: float) -> None:
    kinds = {kind for cell in cells.values() for kind in cell.others}
    entries: list[tuple[Colour, str]] = [(PASSES[kind], words) for kind, words in WORDS.items() if kind in kinds]
    if any(cell.joint for cell in cells.values()):
        entries.append((INK, "joint pass"))
    right = WIDTH - MARGIN - 20
    draw_legend(canvas, right, y, entries)
    right -= sum(38 + text_width(words, 11) for _, words in entries)
    last = f"step {plan.num_steps - 1}"
    canvas.text(right, y, last, 11, INK, "right")
    right -= text_width(last, 11) + 8
    for n in range(60):
        canvas.rect(right - 120 + 2 * n, y - 6, 2, 12, blend(FIRST_STEP, LAST_STEP, n / 59))
    canvas.text(right - 128, y, "step 0", 11, INK, "right")
