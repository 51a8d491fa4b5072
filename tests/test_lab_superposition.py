"""Measures of how features share dimensions: closed forms, and what must not matter to them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mihack.lab import superposition


def polygon(corners: int, length: float = 1.0) -> torch.Tensor:
    """Directions of a regular polygon, [2, corners]."""
    turn = torch.arange(corners) * 2 * math.pi / corners
    return length * torch.stack([turn.cos(), turn.sin()])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestDimensionality:
    def test_orthogonal_features_have_a_dimension_each(self) -> None:
        assert torch.allclose(superposition.dimensionality(3 * torch.eye(4)), torch.ones(4))

    def test_an_antipodal_pair_shares_one(self) -> None:
        assert torch.allclose(
            superposition.dimensionality(torch.tensor([[2.0, -2.0]])), torch.tensor([0.5, 0.5])
        )

    @pytest.mark.parametrize("corners", [3, 5, 6, 7])
    def test_a_regular_polygon_shares_two_evenly(self, corners: int) -> None:
        share = superposition.dimensionality(polygon(corners, 1.3))
        assert torch.allclose(share, torch.full((corners,), 2 / corners), atol=1e-5)

    def test_a_tetrahedron_shares_three_evenly(self) -> None:
        W = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
        assert torch.allclose(superposition.dimensionality(W), torch.full((4,), 0.75))

    def test_a_feature_that_is_not_there_has_none(self) -> None:
        W = torch.cat([torch.eye(3), torch.zeros(3, 1)], dim=1)
        assert torch.allclose(superposition.dimensionality(W), torch.tensor([1.0, 1, 1, 0]))

    @given(st.integers(0, 2**31), st.integers(2, 6), st.integers(2, 12))
    @settings(max_examples=40, deadline=None)
    def test_the_shares_add_up_to_no_more_than_the_dimensions(
        self, seed: int, hidden: int, many: int
    ) -> None:
        W = torch.randn(hidden, many, generator=generator(seed))
        assert superposition.dimensionality(W).sum() <= min(hidden, many) + 1e-3

    def test_leading_axes_are_copies(self) -> None:
        W = torch.randn(2, 3, 4, 7, generator=generator())
        together = superposition.dimensionality(W)
        assert together.shape == (2, 3, 7)
        assert torch.allclose(together[1, 2], superposition.dimensionality(W[1, 2]))


class TestRotation:
    def test_rotations_keep_lengths_and_angles(self) -> None:
        turns = superposition.rotations(5, 4, generator())
        assert torch.allclose(turns @ turns.mT, torch.eye(4).expand(5, 4, 4), atol=1e-5)

    def test_they_are_not_all_alike(self) -> None:
        one, two = superposition.rotations(2, 4, generator())
        assert (one - two).abs().max() > 0.1

    def test_cosines_and_shares_do_not_notice(self) -> None:
        W = torch.randn(4, 9, generator=generator(1))
        turned = superposition.rotations(1, 4, generator(2))[0] @ W
        for measure in (superposition.cosines, superposition.dimensionality):
            assert torch.allclose(measure(W), measure(turned), atol=1e-4)

    def test_alignment_with_the_axes_does(self) -> None:
        turned = superposition.rotations(1, 4, generator())[0] @ torch.eye(4)
        assert torch.allclose(superposition.on_axes(torch.eye(4)), torch.ones(4))
        assert superposition.on_axes(turned).mean() < 0.95


class TestPurity:
    def test_one_feature_to_a_unit_is_pure(self) -> None:
        assert torch.allclose(superposition.purity(torch.tensor([[0.0, -3, 0], [1, 0, 0]])), torch.ones(2))

    def test_evenly_shared_is_one_over_the_number(self) -> None:
        assert superposition.purity(torch.ones(1, 4)).item() == pytest.approx(0.25)

    def test_a_unit_without_weights_is_zero_and_not_nan(self) -> None:
        assert superposition.purity(torch.zeros(2, 3)).tolist() == [0, 0]


class TestFiguresInThePlane:
    @pytest.mark.parametrize(
        ("corners", "name"), [(2, "digon"), (3, "triangle"), (4, "square"), (5, "pentagon"), (6, "other")]
    )
    def test_regular_polygons_have_names(self, corners: int, name: str) -> None:
        assert superposition.figure_in_plane(polygon(corners)) == name

    def test_short_features_are_left_out(self) -> None:
        W = torch.cat([polygon(4), torch.tensor([[0.1], [0.2]])], dim=1)
        assert superposition.figure_in_plane(W) == "square"
        assert len(superposition.gaps(W)) == 4

    @given(st.floats(0, 360), st.integers(0, 2**31))
    @settings(max_examples=40, deadline=None)
    def test_neither_turning_nor_renaming_matters(self, degrees: float, seed: int) -> None:
        turn = math.radians(degrees)
        rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        W = (rotation @ polygon(5))[:, torch.randperm(5, generator=generator(seed))]
        assert superposition.figure_in_plane(W) == "pentagon"

    def test_a_bent_pentagon_is_other(self) -> None:
        W = polygon(5).clone()
        W[:, 0] = W[:, 1]
        assert superposition.figure_in_plane(W) == "other"

    def test_the_gaps_add_up_to_a_full_turn(self) -> None:
        assert sum(superposition.gaps(torch.randn(2, 6, generator=generator()), 0.0)) == pytest.approx(
            360, abs=1e-2
        )

    def test_one_feature_has_no_gaps(self) -> None:
        assert superposition.gaps(polygon(1)) == []
        assert superposition.figure_in_plane(polygon(1)) == "other"


class TestSparse:
    def test_rates_and_values(self) -> None:
        x = superposition.sparse(torch.tensor([1.0, 0.1]), 20_000, 3, generator())
        assert x.shape == (2, 20_000, 3)
        assert (x[0] > 0).float().mean() > 0.999
        assert (x[1] > 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
        assert x[1][x[1] > 0].mean().item() == pytest.approx(0.5, abs=0.02)

    def test_a_rate_for_each_feature(self) -> None:
        x = superposition.sparse(torch.tensor([[0.0, 0.5, 1.0]]), 5_000, 3, generator())
        there = (x > 0).float().mean((0, 1))
        assert there[0] == 0
        assert there[1].item() == pytest.approx(0.5, abs=0.04)
        assert there[2] > 0.999

    def test_what_is_there_at_a_low_rate_is_there_at_a_higher_one(self) -> None:
        low, high = superposition.sparse(torch.tensor([0.2, 0.6]), 1_000, 4, generator())
        assert torch.equal(low[low > 0], high[low > 0])


class TestCosines:
    def test_the_pentagon(self) -> None:
        found = superposition.cosines(polygon(5, 1.7))[0].sort(descending=True).values
        wanted = [1.0] + [math.cos(math.radians(72))] * 2 + [math.cos(math.radians(144))] * 2
        assert torch.allclose(found, torch.tensor(wanted), atol=1e-5)

    def test_a_feature_without_length_has_cosine_zero(self) -> None:
        W = torch.tensor([[1.0, 0], [0, 0]])
        assert superposition.cosines(W).tolist() == [[1, 0], [0, 0]]
