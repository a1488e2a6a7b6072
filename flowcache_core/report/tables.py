"""Plain text for terminals: tables of results, and a plan as a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..plan.chunk_plan import ChunkPlan, Row
from ..reuse.contract import Decision
from ..trace import Trace
from .plan_picture import PlanCell, plan_cells, plan_sentence

MISSING = "-"
MARKS = {"prefix": "P", "commit": "C", "near_clean": "N", "recache": "R"}
MEANINGS = {"prefix": "P keys of a given chunk", "commit": "C commit", "near_clean": "N near-clean pass",
            "recache": "R keys stored anew"}


def comparison_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None,
                     markdown: bool = False) -> str:
    """Rows as an aligned table, numbers to the right. columns: keys to show (default all, in order of appearance).

    Floats of a column share their number of decimals; None and missing keys are shown as "-".
    """
    if not rows:
        raise ValueError("a table of 0 rows: give at least one")
    columns = list(dict.fromkeys(key for row in rows for key in row) if columns is None else columns)
    decimals = {c: _decimals([row.get(c) for row in rows]) for c in columns}
    cells = [[_cell(row.get(c), decimals[c]) for c in columns] for row in rows]
    if markdown:
        cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    right = [_is_numeric([row.get(c) for row in rows]) for c in columns]
    widths = [max(3, len(c), *(len(line[n]) for line in cells)) for n, c in enumerate(columns)]

    def joined(line: Sequence[str]) -> str:
        padded = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)]
        return "| " + " | ".join(padded) + " |" if markdown else "  ".join(padded).rstrip()

    rule = [("-" * (w - 1) + ":") if markdown and r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join(joined(line) for line in [columns, rule, *cells])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_numeric(values: Sequence[Any]) -> bool:
    given = [value for value in values if value is not None]
    return bool(given) and all(map(_is_number, given))


def _decimals(values: Sequence[Any]) -> int:
    """Decimals for the floats of a column, by its largest."""
    top = max((abs(v) for v in values if _is_number(v) and math.isfinite(v)), default=0.0)
    return 1 if top >= 100 else 2 if top >= 1 else 3 if top >= 0.01 else 6


def _cell(value: Any, decimals: int) -> str:
    if value is None:
        return MISSING
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.{decimals}f}"
    return f"{value:,}" if _is_number(value) else str(value)


def plan_text(plan: ChunkPlan, rows: int = 40, width: int = 100) -> str:
    """The schedule as text: one line a row of the plan, at most `rows` of them, the middle of a longer plan left out.

    One column a chunk where `width` characters hold them; otherwise what every chunk of the row does.
    """
    cells = plan_cells(plan)
    first = max(3, len(str(len(plan.rows) - 1)))
    cell_width = max(3, 1 + max(len(_marks(cell)) for cell in cells.values()), 1 + len(str(len(plan.chunks) - 1)) + 1)
    as_grid = first + 1 + cell_width * len(plan.chunks) <= width
    head = "row".rjust(first) + " " + ("".join(f"c{c.index}".rjust(cell_width) for c in plan.chunks) if as_grid
                                       else "  chunk:step")
    lines = [plan_sentence(plan), "", head]
    for number in _shown(len(plan.rows), rows):
        if number is None:
            left_out = len(plan.rows) - rows
            lines.append(f"{'...'.rjust(first)}   {left_out:,} {'row' if left_out == 1 else 'rows'} left out")
            continue
        what = _grid_row(plan, cells, number, cell_width) if as_grid else _listed_row(plan.rows[number], cells, number)
        lines.append(f"{number:>{first}} {what}".rstrip())
    return "\n".join([*lines, "", _legend(cells)])


def _shown(count: int, most: int) -> list[int | None]:
    """Numbers of the rows to show; None stands for those left out."""
    if most < 2:
        raise ValueError(f"{most} rows of text: expected at least 2")
    if count <= most:
        return list(range(count))
    return [*range(most - most // 2), None, *range(count - most // 2, count)]


def _marks(cell: PlanCell) -> str:
    return ("" if cell.step is None else str(cell.step)) + "".join(MARKS[kind] for kind in cell.others)


def _grid_row(plan: ChunkPlan, cells: Mapping[tuple[int, int], PlanCell], number: int, width: int) -> str:
    texts = (_marks(cells[c.index, number]) if (c.index, number) in cells else "." for c in plan.chunks)
    return "".join(text.rjust(width) for text in texts)


def _listed_row(row: Row, cells: Mapping[tuple[int, int], PlanCell], number: int) -> str:
    chunks = sorted({chunk for p in row for chunk in p.chunks})
    return "  " + "  ".join(f"{chunk}:{_marks(cells[chunk, number])}" for chunk in chunks)


def _legend(cells: Mapping[tuple[int, int], PlanCell]) -> str:
    kinds = {kind for cell in cells.values() for kind in cell.others}
    words = ["number: the step a chunk takes", *(words for kind, words in MEANINGS.items() if kind in kinds)]
    if any(cell.joint for cell in cells.values()):
        words.append("chunks of a row run jointly")
    return "; ".join(words)


def decision_text(decisions: Sequence[Sequence[Decision]], number: int = 0) -> str:
    """One line for each run of chunks with the same decisions: # a computed step, - a skipped one. number: of the first
    chunk."""
    lines, patterns = [], ["".join("#" if d.computes else "-" for d in chunk) for chunk in decisions]
    first = 0
    for chunk, pattern in enumerate(patterns):
        if chunk + 1 < len(patterns) and patterns[chunk + 1] == pattern:
            continue
        low, high = first + number, chunk + number
        name = f"chunk {low}" if chunk == first else f"chunks {low}-{high}"
        lines.append(f"{name}: {pattern} ({pattern.count('#')} of {len(pattern)} steps computed)")
        first = chunk + 1
    return "\n".join(lines)


def not_finite_words(trace: Trace, most: int = 3) -> str:
    """How many steps had a signal that was not finite, and the first chunks and steps; "" where there are none."""
    places = list(dict.fromkeys(f"chunk {lane.chunk} step {lane.step}" for lane in trace.not_finite()))
    if not places:
        return ""
    rest = f" and {len(places) - most} more" if len(places) > most else ""
    return f"{', '.join(places[:most])}{rest} (computed)"
