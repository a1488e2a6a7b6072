"""What pictures are laid out with: grids of cells, axes for curves, cards and legends."""

import math
from dataclasses import dataclass

from .canvas import Canvas, Point, text_width
from .palette import CARD, GRID, INK, MUTED, Colour

LABEL = 10   # font size of numbers at an axis


def _gap(size: float) -> float:
    return 0.0 if size < 4 else 1.0 if size < 16 else 2.0


@dataclass(frozen=True)
class Grid:
    """Cells of `rows x columns`. All lengths in logical pixels; x, y: the top left corner."""

    x: float
    y: float
    rows: int
    columns: int
    cell_width: float
    cell_height: float

    @property
    def right(self) -> float:
        return self.x + self.columns * self.cell_width

    @property
    def bottom(self) -> float:
        return self.y + self.rows * self.cell_height

    def cell(self, row: int, column: int) -> tuple[float, float, float, float]:
        """x, y, width, height of a cell, without the gap to its neighbours (none where cells are tiny)."""
        return (self.x + column * self.cell_width, self.y + row * self.cell_height,
                self.cell_width - _gap(self.cell_width), self.cell_height - _gap(self.cell_height))

    def middle(self, row: int, column: int) -> Point:
        x, y, width, height = self.cell(row, column)
        return x + width / 2, y + height / 2


def fit_grid(x: float, y: float, rows: int, columns: int, width: float, height: float,
             largest: tuple[float, float]) -> Grid:
    """A grid inside `width x height` whose cells are at most `largest` wide and high."""
    return Grid(x, y, rows, columns, min(largest[0], width / columns), min(largest[1], height / rows))


def every(room: float, cell: float) -> int:
    """Label every n-th cell so that a label has `room`: n is 1, 2, 5, 10, ..."""
    n = max(1.0, room / cell)
    power = 10 ** math.floor(math.log10(n))
    return next(int(m * power) for m in (1, 2, 5, 10) if m * power >= n - 1e-9)


def label_grid(canvas: Canvas, grid: Grid, row_word: str, column_word: str) -> None:
    """Numbers at the left and below, every n-th where there is little room, and what they count."""
    for row in range(0, grid.rows, every(LABEL + 3, grid.cell_height)):
        canvas.text(grid.x - 7, grid.middle(row, 0)[1], str(row), LABEL, MUTED, "right")
    room = text_width(str(grid.columns - 1), LABEL) + 7
    for column in range(0, grid.columns, every(room, grid.cell_width)):
        canvas.text(grid.middle(0, column)[0], grid.bottom + 10, str(column), LABEL, MUTED, "center")
    canvas.text(grid.x - 7, grid.y - 11, row_word, LABEL, INK, "right")
    canvas.text(grid.x, grid.bottom + 26, column_word, LABEL, INK)


def ticks(high: float, count: int) -> list[float]:
    """Round numbers from 0 to `high`, about `count` of them."""
    raw = high / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    return [step * n for n in range(int(high / step * 1.0001) + 1)]


@dataclass(frozen=True)
class Axes:
    """A plot at x, y of `width x height` logical pixels for data from `x_low..x_high` and 0..`y_high`."""

    x: float
    y: float
    width: float
    height: float
    x_low: float
    x_high: float
    y_high: float

    def at(self, x: float, y: float) -> Point:
        """Where a point of the data lies."""
        span = self.x_high - self.x_low
        across = (x - self.x_low) / span if span else 0.5
        return self.x + across * self.width, self.y + self.height * (1 - y / self.y_high)

    def draw(self, canvas: Canvas, x_word: str) -> None:
        """Horizontal lines with their numbers, whole numbers below."""
        for value in ticks(self.y_high, 4):
            y = self.at(self.x_low, value)[1]
            canvas.line([(self.x, y), (self.x + self.width, y)], GRID)
            canvas.text(self.x - 7, y, f"{value:,.10g}", LABEL, MUTED, "right")
        count = int(self.x_high - self.x_low) + 1
        step = every(text_width(f"{int(self.x_high):,}", LABEL) + 14, self.width / count)
        for value in range(math.ceil(self.x_low / step) * step, int(self.x_high) + 1, step):
            canvas.text(self.at(value, 0)[0], self.y + self.height + 12, f"{value:,}", LABEL, MUTED, "center")
        canvas.text(self.x, self.y + self.height + 28, x_word, LABEL, INK)


def card(canvas: Canvas, x: float, y: float, width: float, height: float, title: str) -> None:
    """A white panel with a heading."""
    canvas.rect(x, y, width, height, GRID, radius=8)
    canvas.rect(x + 0.5, y + 0.5, width - 1, height - 1, CARD, radius=7.5)
    canvas.text(x + 20, y + 24, title, 14, INK, bold=True)


def draw_legend(canvas: Canvas, right: float, y: float, entries: list[tuple[Colour, str]], size: float = 11) -> None:
    """Swatches with words in one line that ends at `right`."""
    x = right + 20 - sum(38 + text_width(words, size) for _, words in entries)
    for colour, words in entries:
        canvas.rect(x, y - 6, 12, 12, colour, radius=2)
        canvas.text(x + 18, y, words, size, INK)
        x += 38 + text_width(words, size)
