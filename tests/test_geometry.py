"""Blocks tile the sequence, pyramids end at the grid, impossible sizes are refused."""

from itertools import pairwise

import pytest
import torch

from modules.geometry import PUBLISHED, Clip, Layout, Pyramid


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (24, 42), (42, 24), (3, 17), (5, 4)])
def test_pyramid_grows_from_coarse_to_the_grid(grid: tuple[int, int]) -> None:
    sizes = Pyramid.of(*grid).sizes
    assert sizes[0] == (1, 1) and sizes[-1] == grid
    assert all(a != b and a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(sizes))


def test_ucf_clip_has_the_papers_thirty_steps_and_the_open_domain_frame_2628_tokens() -> None:
    assert 5 * Pyramid.of(8, 8).scales == 30
    assert Pyramid.of(24, 42).tokens == 2628


def test_published_schedules_have_their_published_numbers_of_tokens() -> None:
    squares, tall = [(16, 16), (32, 32), (48, 48), (64, 64)], [(21, 12), (42, 24), (70, 40), (84, 48)]
    assert [Pyramid.of(*grid).tokens for grid in squares] == [521, 2521, 6425, 10521]
    assert [Pyramid.of(*grid).tokens for grid in tall] == [Pyramid.of(*reversed(grid)).tokens for grid in tall] == [472, 2628, 7220, 11252]


def test_published_schedules_are_used_for_their_grids() -> None:
    for grid, sizes in PUBLISHED.items():
        assert Pyramid.of(*grid).sizes == sizes and sizes[0] == (1, 1)


def test_places_agree_with_nested_loops() -> None:
    layout = Layout(Pyramid(((1, 1), (2, 3), (4, 5))), 3)
    expected = [
        (frame, scale, row, column)
        for frame in range(3)
        for scale, (height, width) in enumerate(layout.pyramid.sizes)
        for row in range(height)
        for column in range(width)
    ]
    assert layout.coordinates().tolist() == [list(place) for place in expected]


def test_blocks_tile_the_sequence() -> None:
    layout = Layout(Pyramid.of(4, 4), 3)
    covered = torch.cat([torch.arange(layout.tokens)[layout.block(f, s)] for f in range(3) for s in range(4)])
    assert torch.equal(covered, torch.arange(layout.tokens))


@pytest.mark.parametrize("sizes", [(), ((2, 2), (1, 1)), ((1, 1), (1, 1)), ((0, 1), (2, 2))])
def test_impossible_pyramids_are_refused(sizes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="scale"):
        Pyramid(sizes)


def test_impossible_clip_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"clip\.height must be positive, got 0"):
        Clip(height=0)
