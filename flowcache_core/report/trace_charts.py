"""The charts beside the decision map: seconds per chunk, distance against threshold, tokens in the KV cache."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..trace import Trace
from .canvas import Canvas, text_width
from .grid import LABEL, Axes, Grid, draw_legend
from .header import byte_words, seconds_words
from .palette import ACCENT, CARD, DECISIONS, INK, MUTED, PASSES, SERIES, Colour, blend

MOST_CURVES = len(SERIES)
HEADING, FOOT = 52, 44   # of a chart card, above and below the plot
DENOISE, OTHER = blend(DECISIONS["compute"], CARD, 0.35), PASSES["prefix"]


def chunk_seconds(trace: Trace) -> list[tuple[float, float]]:
    """For every chunk: measured seconds of its denoising passes and of its other passes; a joint pass is shared out."""
    spent = [[0.0, 0.0] for _ in trace.plan["chunks"]]
    for p in trace.passes:
        for chunk in p.chunks:
            spent[chunk][p.kind != "denoise"] += p.seconds / len(p.chunks)
    return [(denoise, other) for denoise, other in spent]


def draw_seconds(canvas: Canvas, grid: Grid, x: float, right: float, trace: Trace) -> None:
    """A bar per row of `grid`, from `x` on; the longest ends where its number still fits before `right`."""
    spent = chunk_seconds(trace)
    longest = max((sum(parts) for parts in spent), default=0.0)
    scale = (right - x - text_width(seconds_words(longest), LABEL) - 8) / longest if longest else 0.0
    for chunk, (denoise, other) in enumerate(spent):
        _, y, _, height = grid.cell(chunk, 0)
        y, height = y + min(3.0, height * 0.15), height - 2 * min(3.0, height * 0.15)
        canvas.rect(x, y, denoise * scale, height, DENOISE)
        if other:
            canvas.rect(x + denoise * scale, y, other * scale, height, OTHER)
        if grid.cell_height >= LABEL:
            words = seconds_words(denoise + other, longest)
            canvas.text(x + (denoise + other) * scale + 6, y + height / 2, words, LABEL, MUTED)
    canvas.text(x, grid.y - 11, "measured time", LABEL, INK)
    canvas.text(x, grid.bottom + 10, f"{seconds_words(trace.seconds)} in all", LABEL, MUTED)
    if any(other for _, other in spent):
        draw_legend(canvas, right, grid.bottom + 26, [(DENOISE, "denoising"), (OTHER, "other passes")], LABEL)


@dataclass(frozen=True)
class Curve:
    """chunks: those whose numbers are the same. runs: points (step, value); a run ends where the step was computed."""

    chunks: tuple[int, ...]
    runs: tuple[tuple[tuple[int, float], ...], ...]
    computed: frozenset[int]

    @property
    def label(self) -> str:
        first, last = self.chunks[0], self.chunks[-1]
        if len(self.chunks) == 1:
            return f"chunk {first}"
        if last - first + 1 == len(self.chunks):
            return f"chunks {first}-{last}"
        return "chunks " + ", ".join(map(str, self.chunks[:3])) + (", ..." if len(self.chunks) > 3 else "")


def read_curves(trace: Trace) -> tuple[list[Curve], frozenset[float]]:
    """The compared values of the first stream and item, chunk by chunk, and their limits (empty: nothing compared).

    Where chunks have limits of their own, values are shares of them.
    """
    lanes = [lane for p in trace.passes for lane in p.lanes]
    first = min(((lane.stream, lane.item) for lane in lanes), default=None)
    lanes = [lane for lane in lanes if (lane.stream, lane.item) == first and lane.value is not None and lane.limit
             and math.isfinite(lane.value)]
    limits = frozenset(lane.limit for lane in lanes)
    points: dict[int, list[tuple[int, float, bool]]] = {}
    for lane in sorted(lanes, key=lambda lane: (lane.chunk, lane.step)):
        value = lane.value / (lane.limit if len(limits) > 1 else 1.0)
        points.setdefault(lane.chunk, []).append((lane.step, value, lane.decision == "compute"))
    same: dict[tuple[tuple[int, float, bool], ...], list[int]] = {}
    for chunk, its in points.items():
        same.setdefault(tuple(its), []).append(chunk)
    return [Curve(tuple(chunks), _runs(its), frozenset(step for step, _, computed in its if computed))
            for its, chunks in same.items()], limits


def _runs(points: Sequence[tuple[int, float, bool]]) -> tuple[tuple[tuple[int, float], ...], ...]:
    runs: list[list[tuple[int, float]]] = []
    goes_on_at = None
    for step, value, computed in points:
        if step != goes_on_at:
            runs.append([])
        runs[-1].append((step, value))
        goes_on_at = None if computed else step + 1
    return tuple(tuple(run) for run in runs)


def spread(curves: Sequence[Curve], most: int) -> list[Curve]:
    """At most `most` of them, evenly over the video."""
    if len(curves) <= most:
        return list(curves)
    return [curves[round(n * (len(curves) - 1) / (most - 1))] for n in range(most)]


def draw_distance(canvas: Canvas, x: float, y: float, width: float, height: float, trace: Trace) -> None:
    """Accumulated distance over steps; a dot where the step was computed."""
    curves, limits = read_curves(trace)
    curves, limit = spread(curves, MOST_CURVES), 1.0 if len(limits) > 1 else next(iter(limits))
    top = 1.15 * max(limit, *(value for c in curves for run in c.runs for _, value in run))
    axes = Axes(x + 58, y + HEADING, width - 82, height - HEADING - FOOT, 0, max(1, trace.plan["num_steps"] - 1), top)
    axes.draw(canvas, "step")
    start, stop = axes.at(axes.x_low, limit), axes.at(axes.x_high, limit)
    canvas.dashes(start, stop, ACCENT)
    for curve, colour in zip(curves, SERIES, strict=False):
        for run in curve.runs:
            canvas.line([axes.at(*point) for point in run], colour, 1.5)
            for step, value in run:
                if step in curve.computed or len(run) == 1:
                    canvas.dot(*axes.at(step, value), 3 if step in curve.computed else 1.5, colour)
    words = f"threshold {limit:.4g}" if len(limits) == 1 else "each chunk's threshold; values are shares of it"
    left = x + width - 20 - text_width(words, 11)
    canvas.text(left, y + 24, words, 11, ACCENT)
    canvas.dashes((left - 34, y + 24), (left - 6, y + 24), ACCENT, dash=4)
    entries: list[tuple[Colour, str]] = [(colour, c.label) for c, colour in zip(curves, SERIES, strict=False)]
    draw_legend(canvas, x + width - 20, y + height - 16, entries, LABEL)


def draw_tokens(canvas: Canvas, x: float, y: float, width: float, height: float, trace: Trace) -> None:
    """Resident tokens after every pass, the peak marked; a sentence where nothing was cached."""
    tokens = [p.kv_tokens for p in trace.passes]
    peak = max(tokens, default=0)
    if not peak:
        canvas.text(x + width / 2, y + height / 2, "this run kept no keys and values", 12, MUTED, "center")
        return
    axes = Axes(x + 66, y + HEADING, width - 90, height - HEADING - FOOT, 0, max(1, len(tokens)), 1.2 * peak)
    axes.draw(canvas, "pass")
    steps = [point for n, value in enumerate(tokens) for point in (axes.at(n, value), axes.at(n + 1, value))]
    canvas.polygon([axes.at(0, 0), *steps, axes.at(len(tokens), 0)], blend(DECISIONS["compute"], CARD, 0.75))
    canvas.line(steps, DECISIONS["compute"], 1.5)
    where = tokens.index(peak)
    dot_x, dot_y = axes.at(where + 0.5, peak)
    canvas.dot(dot_x, dot_y, 4, ACCENT)
    size = max(p.kv_bytes for p in trace.passes)
    label = f"peak {peak:,} tokens, {byte_words(size)}"
    fits = dot_x + 10 + text_width(label, LABEL) <= axes.x + axes.width
    canvas.text(dot_x + (10 if fits else -10), dot_y - 11, label, LABEL, ACCENT, "left" if fits else "right")
