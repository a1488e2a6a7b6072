import numpy as np
import pytest

from flowcache_core.report.curve_picture import Plane, curve_picture, pareto, round_ticks

SERIES = {"a": [(1.0, 40.0), (2.0, 30.0), (3.0, 20.0)], "b": [(1.5, 30.0), (2.5, 31.0)]}


def test_the_front_is_what_no_other_point_dominates():
    points = [p for its in SERIES.values() for p in its]
    slow = [p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)]
    assert pareto(points) == sorted(slow) == [(1.0, 40.0), (2.5, 31.0), (3.0, 20.0)]
    assert pareto([(1.0, 1.0), (1.0, 1.0)]) == [(1.0, 1.0)]


@pytest.mark.parametrize(("low", "high"), [(0.94, 3.2), (19.0, 41.0), (-5.0, 5.0), (0.0, 0.001)])
def test_ticks_are_round_and_inside(low, high):
    found = round_ticks(low, high)
    assert 2 <= len(found) <= 8 and low - 1e-9 <= found[0] and found[-1] <= high + 1e-9


def test_points_are_drawn_where_they_lie():
    picture = curve_picture("speed against quality", "speed-up", "PSNR dB", SERIES)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    scale = picture.shape[1] / 860
    plane = Plane([p for its in SERIES.values() for p in its])
    x, y = (int(round(v * scale)) for v in plane.at((2.5, 31.0)))
    assert (np.abs(picture[y, x].astype(int) - (238, 119, 51)) < 30).all()
    one = curve_picture("one", "x", "y", {"a": [(1.0, 2.0)]})
    assert one.shape == picture.shape and not np.array_equal(one, picture)


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="0 points"):
        curve_picture("none", "x", "y", {"a": []})
