import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.plan import outer_windows
from tests.reference import PROPERTY


@st.composite
def layouts(draw):
    chunk = draw(st.integers(1, 5))
    base = draw(st.integers(chunk + 1, 6 * chunk + 2))
    return draw(st.integers(1, 90)), base, draw(st.integers(chunk, base - 1)), chunk


@PROPERTY
@given(layouts())
def test_windows_cover_the_video_and_overlap_by_whole_chunks(layout):
    frames, base, overlap, chunk = layout
    windows = outer_windows(*layout)
    assert (windows[0].start, windows[0].prefix, windows[-1].stop) == (0, 0, frames)
    for before, after in zip(windows[:-1], windows[1:], strict=True):
        assert before.frames == base
        assert after.start + after.prefix == before.stop, "every frame is made once"
        assert after.prefix % chunk == 0 and 0 < after.prefix <= overlap
        assert after.prefix < after.frames <= base, "a window must make something"


@pytest.mark.parametrize(("pixels", "sizes"), [(97, [25]), (177, [25, 25]), (237, [25, 25, 20]), (257, [25] * 3),
                                               (377, [25] * 4 + [15]), (737, [25] * 9), (1457, [25] * 18)])
def test_the_lengths_of_the_skyreels_page(pixels, sizes):
    assert [w.frames for w in outer_windows((pixels - 1) // 4 + 1, 25, 5, 5)] == sizes


@pytest.mark.parametrize(("layout", "value"), [
    ((0, 25, 5, 5), "0 frames"), ((30, 0, 5, 5), "windows of 0"), ((30, 25, 4, 5), "overlap of 4"),
    ((30, 25, 25, 5), "overlap of 25"), ((30, 25, -5, 5), "overlap of -5"), ((30, 25, 5, 0), "0")])
def test_windows_that_cannot_be_made_say_why(layout, value):
    with pytest.raises(ValueError, match=r"\w") as error:
        outer_windows(*layout)
    assert value in str(error.value)
