"""The head of a picture: a title, and lines of facts as `name value`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .canvas import Canvas, shorten, text_width
from .palette import INK, MUTED

SIZE, TITLE_SIZE = 12, 20
TITLE_HEIGHT, LINE_HEIGHT = 42, 20
NAME_GAP, FACT_GAP = 4, 22

Fact = tuple[str, str]


@dataclass(frozen=True)
class Header:
    """title: one line, cut where too long. facts: one paragraph each, wrapped. width: in logical pixels."""

    title: str
    facts: tuple[tuple[Fact, ...], ...]
    width: float

    def lines(self) -> list[list[Fact]]:
        """The facts of every line."""
        lines: list[list[Fact]] = []
        for paragraph in self.facts:
            used = self.width
            for fact in paragraph:
                need = _fact_width(fact)
                if used + FACT_GAP + need > self.width:
                    lines.append([])
                    used = -FACT_GAP
                lines[-1].append(fact)
                used += FACT_GAP + need
        return lines

    @property
    def height(self) -> float:
        return TITLE_HEIGHT + LINE_HEIGHT * len(self.lines())

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        """Draws it with its top left corner at x, y."""
        canvas.text(x, y + 14, shorten(self.title, self.width, TITLE_SIZE, bold=True), TITLE_SIZE, INK, bold=True)
        for n, line in enumerate(self.lines()):
            left, middle = x, y + TITLE_HEIGHT + n * LINE_HEIGHT
            for name, value in line:
                canvas.text(left, middle, name, SIZE, MUTED)
                at = left + text_width(name, SIZE) + NAME_GAP
                canvas.text(at, middle, shorten(value, self.width - at + x, SIZE), SIZE, INK)
                left += _fact_width((name, value)) + FACT_GAP


def _fact_width(fact: Fact) -> float:
    return text_width(fact[0], SIZE) + NAME_GAP + text_width(fact[1], SIZE)


def facts_of(settings: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Settings as facts: `{"warmup_steps": 5}` is `("warmup steps", "5")`."""
    return tuple((key.replace("_", " "), _words(value)) for key, value in settings.items())


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " x ".join(_words(v) for v in value)
    return "none" if value is None else str(value)


def seconds_words(value: float, scale: float | None = None) -> str:
    """Seconds for people, in ms where `scale` (default `value`) is below 0.1 s; as many digits as `scale` deserves."""
    scale = value if scale is None else scale
    number, unit, top = (1000 * value, "ms", 1000 * scale) if scale < 0.1 else (value, "s", scale)
    digits = 0 if top >= 100 else 1 if top >= 10 else 2
    return f"{number:,.{digits}f} {unit}"


def flop_words(count: float) -> str:
    """FLOPs in the unit that suits them."""
    for unit, factor in (("PF", 1e15), ("TF", 1e12), ("GF", 1e9)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e6:.3g} MF"


def byte_words(size: int) -> str:
    """Bytes in the unit that suits them."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
