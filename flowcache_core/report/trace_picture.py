"""One run at a glance: what was decided for every chunk step, by which number, and what it cost."""

from dataclasses import dataclass

import numpy as np

from ..trace import Trace
from .canvas import Canvas, shorten
from .decision_map import Decisions, draw_map, legend_entries, read_decisions
from .grid import Grid, card, draw_legend, fit_grid, label_grid
from .header import Header, byte_words, facts_of, flop_words, seconds_words
from .palette import MUTED
from .tables import not_finite_words
from .trace_charts import draw_distance, draw_seconds, draw_tokens, read_curves

WIDTH, MARGIN, GAP = 1280, 28, 18
INNER = WIDTH - 2 * MARGIN
MAP_X, MAP_TOP, MAP_FOOT = 64, 68, 44   # inside the card: left of the cells, above and below them
MAP_WIDTH, MAP_HEIGHT = 880, 600        # most room for the cells
LARGEST_CELL = (90, 30)
CHART_HEIGHT = 280


@dataclass(frozen=True)
class Layout:
    """Where the parts of the picture lie, in pixels. grid: row = chunk, column = step."""

    header: Header
    map_top: float
    grid: Grid
    charts_top: float

    @property
    def height(self) -> float:
        return self.charts_top + CHART_HEIGHT + MARGIN


def layout_of(trace: Trace) -> Layout:
    """The layout of `trace_picture(trace)`."""
    header = _header(trace)
    map_top = MARGIN + header.height + 4
    steps = max([trace.plan["num_steps"], *(lane.step + 1 for p in trace.passes for lane in p.lanes)])
    grid = fit_grid(MARGIN + MAP_X, map_top + MAP_TOP, len(trace.plan["chunks"]), steps, MAP_WIDTH, MAP_HEIGHT,
                    LARGEST_CELL)
    return Layout(header, map_top, grid, grid.bottom + MAP_FOOT + GAP)


def trace_picture(trace: Trace) -> np.ndarray:
    """The picture of one trace, RGB uint8 `(H, 1280, 3)`; good for 1 to 64 chunks of 1 to 100 steps."""
    layout = layout_of(trace)
    canvas = Canvas(WIDTH, layout.height)
    layout.header.draw(canvas, MARGIN, MARGIN)
    _map(canvas, trace, layout, read_decisions(trace))
    _charts(canvas, trace, layout.charts_top)
    return canvas.image()


def _header(trace: Trace) -> Header:
    s = trace.summary()
    title = (f"{trace.settings.get('policy', 'a run')} on {trace.plan['name']}:  {s['computed']:,} of "
             f"{s['chunk_steps']:,} chunk steps computed ({100 * trace.computed_share:.1f} %),  "
             f"{seconds_words(trace.seconds)} measured")
    costs = (("model calls", f"{s['model_calls']:,}"), ("time in hooks", seconds_words(s["hook_seconds"])),
             ("KV peak", f"{s['kv_peak_tokens']:,} tokens"), ("KV memory", byte_words(trace.kv_peak_bytes)))
    if trace.flops_share is not None:
        costs = (*costs, ("counted FLOPs", f"{flop_words(s['flops'])} of {flop_words(s['whole_flops'])} "
                                           f"({100 * trace.flops_share:.1f} %)"))
    if trace.not_finite():
        costs = (*costs, ("signal not finite", not_finite_words(trace)))
    rest = {key: value for key, value in trace.settings.items() if key not in ("policy", "policy_settings")}
    own = facts_of(trace.settings.get("policy_settings", {}))
    return Header(title, (costs, own + facts_of(rest)), INNER)


def _map(canvas: Canvas, trace: Trace, layout: Layout, decisions: Decisions) -> None:
    grid, right = layout.grid, WIDTH - MARGIN - 20
    card(canvas, MARGIN, layout.map_top, INNER, grid.bottom + MAP_FOOT - layout.map_top, "Decisions")
    draw_legend(canvas, right, layout.map_top + 24, legend_entries(decisions))
    label_grid(canvas, grid, "chunk", "step")
    draw_map(canvas, grid, decisions)
    draw_seconds(canvas, grid, grid.right + 36, right, trace)
    if decisions.split:
        names = ", ".join(f"{stream} item {item}" for stream, item in decisions.lanes)
        words = shorten(f"stripes in a cell, top to bottom: {names}", MAP_WIDTH - 60, 10)
        canvas.text(grid.x + 50, grid.bottom + 26, words, 10, MUTED)


def _charts(canvas: Canvas, trace: Trace, y: float) -> None:
    limits = read_curves(trace)[1]
    width = (INNER - GAP) / 2 if limits else INNER
    if limits:
        card(canvas, MARGIN, y, width, CHART_HEIGHT, "Distance since the last computed step")
        draw_distance(canvas, MARGIN, y, width, CHART_HEIGHT, trace)
    x = WIDTH - MARGIN - width
    card(canvas, x, y, width, CHART_HEIGHT, "Tokens in the KV cache, per layer and stream")
    draw_tokens(canvas, x, y, width, CHART_HEIGHT, trace)
