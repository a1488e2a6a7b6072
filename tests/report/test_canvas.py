"""The drawing helpers."""

import builtins

import numpy as np
import pytest

from flowcache_core.report.canvas import Canvas, opencv, shorten, text_width
from flowcache_core.report.grid import Axes, every, ticks
from flowcache_core.report.header import Header, byte_words, facts_of, seconds_words


def test_rect_covers_exactly_its_pixels() -> None:
    canvas = Canvas(20, 10, (255, 255, 255))
    canvas.rect(5, 2, 4, 3, (10, 20, 30))
    ys, xs = np.nonzero((canvas.image() == (10, 20, 30)).all(axis=-1))
    assert (xs.min(), xs.max(), ys.min(), ys.max(), len(xs)) == (5, 8, 2, 4, 12)


@pytest.mark.parametrize(("align", "columns"), [("left", (50, 90)), ("center", (30, 70)), ("right", (10, 50))])
def test_text_stands_where_it_should(align: str, columns: tuple[int, int]) -> None:
    canvas = Canvas(100, 40, (255, 255, 255))
    canvas.text(50, 20, "HHH", 14, (0, 0, 0), align)
    ys, xs = np.nonzero(canvas.image()[..., 0] < 128)
    assert columns[0] <= xs.min() and xs.max() <= columns[1]
    assert abs((ys.min() + ys.max()) / 2 - 20) <= 1 and 7 <= np.ptp(ys) <= 11


def test_pasted_pixels_are_kept() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    canvas = Canvas(30, 30)
    canvas.paste(10, 12, picture)
    assert np.array_equal(canvas.image()[12:19, 10:15], picture)


def test_shorten() -> None:
    assert shorten("short", 200) == "short"
    cut = shorten("a rather long sentence that cannot fit", 80)
    assert cut.endswith("...") and text_width(cut) <= 80


def test_header_wraps_and_draws_inside_its_width() -> None:
    header = Header("a title that is far too long " * 10, (facts_of({"a_key": 1.0, "other": None, "size": [4, 6]}),
                                                           tuple((f"name{n}", "value") for n in range(9))), 300)
    assert header.lines()[0] == [("a key", "1"), ("other", "none"), ("size", "4 x 6")]
    assert sum(len(line) for line in header.lines()) == 12 and len(header.lines()) > 2
    canvas = Canvas(400, header.height + 20, (255, 255, 255))
    header.draw(canvas, 20, 10)
    assert (canvas.image()[:, 325:] == 255).all()


def test_every_label_has_room() -> None:
    assert [every(12, cell) for cell in (30, 12, 8, 5, 2, 0.4)] == [1, 1, 2, 5, 10, 50]


def test_ticks_are_round() -> None:
    assert ticks(0.23, 4) == pytest.approx([0, 0.1, 0.2])
    assert ticks(1000, 4) == [0, 250, 500, 750, 1000]


def test_axes() -> None:
    axes = Axes(10, 20, 100, 50, 0, 4, 2.0)
    assert axes.at(0, 0) == (10, 70) and axes.at(4, 2) == (110, 20) and axes.at(2, 1) == (60, 45)


def test_words() -> None:
    assert [seconds_words(v) for v in (0.0123, 0.5, 12.34, 1234.5)] == ["12.3 ms", "0.50 s", "12.3 s", "1,234 s"]
    assert [byte_words(v) for v in (12, 1234, 5_600_000, 7_890_000_000)] == ["12 bytes", "1.23 kB", "5.6 MB", "7.89 GB"]


def test_missing_opencv_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **more: object) -> object:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"libGL.*pip install opencv-python-headless"):
        opencv()
