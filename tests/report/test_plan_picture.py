"""Schedules as pictures and as text."""

import pytest

from flowcache_core.plan import dense, pipelined, sequential
from flowcache_core.plan.diffusion_forcing import diffusion_forcing
from flowcache_core.report import plan_picture, plan_text
from flowcache_core.report.palette import EMPTY, FIRST_STEP, LAST_STEP, PASSES
from flowcache_core.report.plan_picture import plan_cells, plan_layout


def test_cells_darken_from_the_first_step_to_the_last() -> None:
    plan = diffusion_forcing(24, 1, 40, 3)   # cells too small for numbers
    grid, picture = plan_layout(plan)[1], plan_picture(plan)

    def colour(chunk: int, row: int) -> tuple[int, ...]:
        x, y = grid.middle(chunk, row)
        return tuple(picture[round(y), round(x)].tolist())

    assert colour(0, 0) == FIRST_STEP
    assert colour(0, 39) == LAST_STEP
    assert colour(1, 3) == FIRST_STEP
    assert colour(1, 0) == colour(0, 41) == EMPTY


def test_commit_and_prefix_passes_are_marked() -> None:
    plan = sequential(9, 3, 4, prefix_chunks=1)
    grid, picture = plan_layout(plan)[1], plan_picture(plan)
    cells = plan_cells(plan)
    for kind in ("prefix", "commit"):
        place = next(place for place, cell in cells.items() if cell.others == [kind])
        x, y = grid.middle(*place)
        assert tuple(picture[round(y), round(x)].tolist()) == PASSES[kind]


def test_a_commit_in_the_row_of_the_last_step_stands_at_the_end_of_the_cell() -> None:
    plan = diffusion_forcing(6, 3, 4, 2, commit=True)
    grid, picture = plan_layout(plan)[1], plan_picture(plan)
    x, y, width, height = grid.cell(0, 3)
    assert tuple(picture[round(y + 3), round(x + 3)].tolist()) == LAST_STEP
    assert tuple(picture[round(y + 3), round(x + width - 3)].tolist()) == PASSES["commit"]


@pytest.mark.parametrize("plan", [sequential(64, 1, 50), sequential(1, 1, 1), dense(9, 3, 2),
                                  pipelined(96, 6, 64, 4, commit=True, near_clean_from=60)], ids=lambda plan: plan.name)
def test_every_size_fits(plan: object) -> None:
    (_, grid), picture = plan_layout(plan), plan_picture(plan)
    assert grid.right <= picture.shape[1] - 28 and grid.bottom < picture.shape[0] - 28


def test_text_has_a_column_a_chunk() -> None:
    lines = plan_text(diffusion_forcing(8, 3, 3, 2, commit=True)).splitlines()
    assert lines[0] == "diffusion_forcing: 3 chunks of 3 latent frames, 3 steps, 7 rows, 12 passes"
    assert lines[2:10] == ["row  c0 c1 c2",
                           "  0   0  .  .",
                           "  1   1  .  .",
                           "  2  2C  0  .",
                           "  3   .  1  .",
                           "  4   . 2C  0",
                           "  5   .  .  1",
                           "  6   .  . 2C"]
    assert lines[-1] == "number: the step a chunk takes; C commit"


def test_long_text_leaves_out_the_middle_and_says_so() -> None:
    lines = plan_text(sequential(30, 3, 4), rows=6).splitlines()[3:-2]
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "...", "47", "48", "49"]
    assert "44 rows left out" in lines[3]


def test_text_lists_chunks_where_columns_do_not_fit() -> None:
    lines = plan_text(diffusion_forcing(64, 1, 4, 2), rows=200).splitlines()
    assert lines[3] == "  0   0:0" and lines[5] == "  2   0:2  1:0"
    assert max(map(len, lines)) <= 100
