"""Tables of results."""

import pytest

from flowcache_core.report import comparison_table

ROWS = [{"policy": "off", "seconds": 12.3456, "psnr_db": float("inf"), "calls": 1234},
        {"policy": "a|b", "seconds": 7.1, "psnr_db": None, "calls": 7, "note": "x"}]


def test_text_is_aligned() -> None:
    assert comparison_table(ROWS).splitlines() == [
        "policy  seconds  psnr_db  calls  note",
        "------  -------  -------  -----  ----",
        "off       12.35      inf  1,234  -",
        "a|b        7.10        -      7  x"]


def test_markdown() -> None:
    assert comparison_table(ROWS, columns=["policy", "calls"], markdown=True).splitlines() == [
        "| policy | calls |",
        "| ------ | ----: |",
        "| off    | 1,234 |",
        "| a\\|b   |     7 |"]


@pytest.mark.parametrize(("values", "shown"), [([123.456, 1.0], ["123.5", "1.0"]), ([1.5, 0.25], ["1.50", "0.25"]),
                                               ([0.4567, 0.1], ["0.457", "0.100"]), ([0.0001234], ["0.000123"])])
def test_decimals_follow_the_largest_number_of_a_column(values: list[float], shown: list[str]) -> None:
    assert [line.strip() for line in comparison_table([{"v": v} for v in values]).splitlines()[2:]] == shown


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        comparison_table([])
