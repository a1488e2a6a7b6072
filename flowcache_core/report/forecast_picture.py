"""A run that has not begun: its schedule, and under it what will be computed and skipped where that is known."""

from collections import Counter

import numpy as np

from ..forecast import Forecast
from ..video_forecast import VideoForecast
from .canvas import Canvas
from .decision_map import FORCED_REASONS, Decisions, draw_map, legend_entries
from .grid import card, draw_legend, fit_grid, label_grid
from .header import byte_words, flop_words, seconds_words
from .plan_picture import INNER, MARGIN, WIDTH, plan_picture, plan_sentence
from .tables import decision_text
from .window_table import window_sentence, window_table

MAP_X, MAP_TOP, MAP_FOOT = 64, 68, 44
LARGEST_CELL, MOST_HEIGHT = (72, 30), 600


def foreseen_marks(told: Forecast) -> Decisions:
    """The decisions of a forecast as cells of a map. Empty where they depend on content."""
    marks: dict[tuple[int, int], tuple[str, ...]] = {}
    for p in told.plan.passes():
        for chunk, step in p.moves if p.kind == "denoise" and told.decisions is not None else ():
            decision = told.decisions[chunk, step]
            forced = (chunk, step) in told.forced or decision.computes and decision.reason in FORCED_REASONS
            marks[chunk, step] = ("forced" if forced else decision.kind.value,)
    return Decisions(marks, (("cond#0", 0),), Counter(mark for (mark,) in marks.values()))


def forecast_picture(told: VideoForecast) -> np.ndarray:
    """RGB uint8 `(H, 1280, 3)`: every different window's plan, and the map of what will be skipped in it."""
    return np.concatenate([_window_picture(told.parts[n]) for n in told.different()])


def _window_picture(told: Forecast) -> np.ndarray:
    schedule, decisions = plan_picture(told.plan), foreseen_marks(told)
    if not decisions.marks:
        return schedule
    grid = fit_grid(MARGIN + MAP_X, MAP_TOP, len(told.plan.chunks), told.plan.num_steps, INNER - MAP_X - 24,
                    MOST_HEIGHT, LARGEST_CELL)
    canvas = Canvas(WIDTH, grid.bottom + MAP_FOOT + MARGIN)
    card(canvas, MARGIN, 0, INNER, grid.bottom + MAP_FOOT,
         f"What {told.policy} will do: {100 * told.computed_share:.0f} % of the chunk steps computed")
    draw_legend(canvas, WIDTH - MARGIN - 20, 46, legend_entries(decisions))
    label_grid(canvas, grid, "chunk", "step")
    draw_map(canvas, grid, decisions)
    return np.concatenate([schedule, canvas.image()])


def forecast_text(told: VideoForecast) -> str:
    """The same in words, estimates named as such."""
    lines, firsts, several = [], told.firsts, len(told.parts) > 1
    if several:
        plans, calls = [part.plan for part in told.parts], [part.calls for part in told.parts]
        lines += [window_sentence(told.windows, firsts[-1]), "", window_table(told.windows, plans, calls), ""]
    for n in told.different():
        plan = told.parts[n].plan
        name = f"window {n + 1}, from chunk {firsts[n] + plan.prefix_chunks}: " if several else ""
        lines += [name + plan_sentence(plan), *([] if several else [""]), *_skips(told.parts[n], firsts[n]), ""]
    lines += [f"model calls: {told.calls:,} of {told.whole_calls:,}",
              f"FLOPs (counted): {flop_words(told.flops)} of {flop_words(told.whole_flops)}",
              f"KV cache: {byte_words(told.kv_bytes)}{', freed after every window' if several else ''}"]
    if told.seconds is not None:
        lines.append(f"time (estimated, network alone): {seconds_words(told.seconds)}, "
                     f"{seconds_words(told.whole_seconds)} without skips")
    return "\n".join(lines)


def _skips(told: Forecast, first: int) -> list[str]:
    """first: the number of the plan's first chunk in the video."""
    if told.decisions is None:
        return [f"skips: {told.unforeseen}"]
    if told.computed_share == 1:
        return [f"skips: none, policy {told.policy} computes every step"]
    plan = told.plan
    chunks = [[told.decisions[c, s] for s in range(plan.steps_of(c))]
              for c in range(plan.prefix_chunks, len(plan.chunks) - plan.end_chunks)]
    return [decision_text(chunks, first + plan.prefix_chunks), "(# computed, - skipped)"]
