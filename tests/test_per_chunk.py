"""The small syntax for values and prompts per chunk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.per_chunk import PerChunk, parse_per_chunk, parse_prompts
from tests.reference import PROPERTY


@pytest.mark.parametrize(("text", "chunks", "values"), [
    ("0.1", 3, [0.1] * 3), (0.1, 2, [0.1] * 2), (1, 2, [1.0] * 2), (" 2e-1 ", 1, [0.2]), ("0", 2, [0.0] * 2),
    ("0:0.05, 1-3:0.1, 4+:0.15", 6, [0.05, 0.1, 0.1, 0.1, 0.15, 0.15]), ("0+:0.2", 3, [0.2] * 3),
    ("0:1,1:2,2:3", 3, [1, 2, 3]), (" 0 - 1 : 1 ,2 + : 2", 4, [1, 1, 2, 2]), ("0-0:5, 1+:6", 2, [5, 6]),
    ("0:0.05, 1-3:0.1, 4+:0.15", 2, [0.05, 0.1]),
    ("0.05->0.15", 3, [0.05, 0.1, 0.15]), ("0.05->0.15", 1, [0.05]), ("3 -> 1", 5, [3, 2.5, 2, 1.5, 1]),
    ("1->1", 2, [1, 1])])
def test_values(text, chunks, values):
    assert parse_per_chunk(text).values(chunks) == pytest.approx(values)


@pytest.mark.parametrize(("text", "bounds"), [
    ("0.1", (0.1, 0.1)), ("0:0.3, 1-3:0.1, 4+:0.2", (0.1, 0.3)), ("0.05->0.15", (0.05, 0.15)), ("3->1", (1, 3))])
def test_bounds(text, bounds):
    assert parse_per_chunk(text).bounds() == bounds


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0, 9)), min_size=1, max_size=6), st.booleans())
def test_ranges_tile_the_video(spans, is_open):
    """A written-out list of ranges gives back the values it was made of."""
    parts, values = [], []
    for number, (length, value) in enumerate(spans):
        first, last = len(values), len(values) + length - 1
        ends = is_open and number == len(spans) - 1
        where = f"{first}+" if ends else f"{first}" if first == last else f"{first}-{last}"
        parts.append(f"{where}:{value}")
        values += [value] * length
    parsed = parse_per_chunk(", ".join(parts))
    assert list(parsed.values(len(values))) == values
    if is_open:
        assert parsed.at(999, 1000) == values[-1]
    else:
        with pytest.raises(ValueError, match=rf"no value for chunk {len(values)} .*'{len(values)}\+:VALUE'"):
            parsed.at(len(values), len(values) + 1)


def test_what_is_parsed_stays_as_it_is_and_shows_what_was_written():
    parsed = parse_per_chunk("0:0.05, 1+:0.1")
    assert parse_per_chunk(parsed) is parsed
    assert str(parsed) == "0:0.05, 1+:0.1" and parse_per_chunk(str(parsed)) == parsed
    assert isinstance(hash(parsed), int) and isinstance(parsed, PerChunk)


@pytest.mark.parametrize(("text", "what", "place"), [
    ("", "not a number", 0), ("lots", "'lots' is not a number", 0), ("0.1, 0.2", "not a number", 0),
    ("0:0.1, 2:0.3", "gap: chunk 1 comes next, not 2", 7), ("1:0.1", "gap: chunk 0 comes next, not 1", 0),
    ("0-2:0.1, 2:0.3", "overlap: chunk 3 comes next, not 2", 9), ("0:0.1,0:0.2", "overlap", 6),
    ("0+:0.1, 1:0.2", "overlap: an open range must come last", 8), ("0:0.1, 1+:0.1, 2+:0.2", "must come last", 15),
    ("0:1, 1-0:2", "range 1-0 runs backwards", 5), ("0:1,", "expected 'i:VALUE'", 4),
    ("0:1,,1:2", "expected 'i:VALUE'", 4),
    ("0:x", "'x' is not a number", 2), ("0:1, 1+: y", "'y' is not a number", 9), ("-1:0.1", "expected 'i:VALUE'", 0),
    ("a:0.1", "expected 'i:VALUE'", 0), ("0:", "expected 'i:VALUE'", 0), ("0:1, 1:2:3", "expected 'i:VALUE'", 5),
    ("0.1->", "not a number", 5), ("->0.1", "not a number", 0), ("0.1-> z", "'z' is not a number", 6),
    ("nan", "'nan' is not a number", 0),
    ("0:1, 1:inf", "'inf' is not a number", 7),
    ("0.1->0.2->0.3", "not a number", 5)])
def test_errors_point_at_the_place(text, what, place):
    with pytest.raises(ValueError, match="threshold") as error:
        parse_per_chunk(text)
    message, shown, pointer = str(error.value).split("\n")
    assert what in message and repr(text) in message and f"position {place + 1}" in message
    assert shown == f"  {text}" and pointer == "  " + " " * place + "^"


@pytest.mark.parametrize(("text", "chunks", "prompts"), [
    ("a cat", 3, ["a cat"] * 3), ("", 2, [""] * 2), ("  a cat ", 1, ["a cat"]), ("0: a cat", 2, ["a cat"] * 2),
    ("0: a cat; 3: a dog", 5, ["a cat"] * 3 + ["a dog"] * 2), ("0:a;1:b; 2 : c ", 3, ["a", "b", "c"]),
    ("0: at 9:30, a cat\nsleeps; 1: it wakes", 2, ["at 9:30, a cat\nsleeps", "it wakes"])])
def test_prompts(text, chunks, prompts):
    assert parse_prompts(text, chunks) == tuple(prompts)


@pytest.mark.parametrize(("text", "value"), [
    ("a cat; a dog", "'a cat; a dog'"), ("1: a dog", "chunk 0"), ("0: a; 2: b; 1: c", "chunk 1"),
    ("0: a; 0: b", "chunk 0"),
    ("0: a; 4: b", "chunk 4"), ("0: a; b", "'b'"), ("0: ; 1: b", "CHUNK: text"), ("0: a;", "CHUNK: text")])
def test_prompts_that_cannot_be_read_say_why(text, value):
    with pytest.raises(ValueError, match="prompt") as error:
        parse_prompts(text, 4)
    assert value in str(error.value)
