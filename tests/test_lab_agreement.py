"""The report on how far an estimate goes with the exact effects: known answers, ties, and its text."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mihack.lab.agreement import agreement  # noqa: E402
from mihack.lab.attribution import Node  # noqa: E402

EXACT = torch.tensor([[5.0, -4.0, 3.0], [-2.0, 1.0, 0.5]])


class TestKnownAnswers:
    def test_a_map_with_itself(self) -> None:
        found = agreement(EXACT, EXACT, baseline=0, count=3)
        assert (found.pearson, found.spearman) == (pytest.approx(1), pytest.approx(1))
        assert (found.sign, found.overlap, found.cells, found.count) == (1, 1, 6, 3)
        assert all(exact == guess for _, exact, guess in found.worst)

    def test_the_opposite_map(self) -> None:
        found = agreement(EXACT, -EXACT, baseline=0, count=3)
        assert (found.pearson, found.spearman) == (pytest.approx(-1), pytest.approx(-1))
        assert (found.sign, found.overlap) == (0, 1)

    def test_one_wrong_cell_is_named(self) -> None:
        wrong = EXACT.clone()
        wrong[1, 2] = 9
        found = agreement(EXACT, wrong, baseline=0, count=2)
        assert found.worst[0] == ("1, 2", 0.5, 9.0)
        assert (found.overlap, found.sign) == (0.5, 1)

    def test_ranks_ignore_the_scale_and_the_shape_of_the_curve(self) -> None:
        found = agreement(EXACT, EXACT**3, baseline=0)
        assert found.spearman == pytest.approx(1)
        assert found.pearson < 0.99

    def test_the_baseline_decides_the_sign(self) -> None:
        """Maps hold the metric itself: above and below the unpatched value are opposite effects."""
        exact, guess = torch.tensor([7.0, 9.0]), torch.tensor([9.0, 7.0])
        assert agreement(exact, guess, baseline=8).sign == 0
        assert agreement(exact, guess, baseline=0).sign == 1

    def test_rounding_noise_where_nothing_happens_counts_as_a_tie(self) -> None:
        effects = torch.tensor([1.0, 2.0, 3.0] + [0.0] * 50)
        noise = 1e-7 * torch.randn(53, generator=torch.Generator().manual_seed(0))
        assert agreement(effects + noise, effects, baseline=0).spearman == pytest.approx(1)

    def test_tied_ranks_share_their_mean(self) -> None:
        found = agreement(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0]), baseline=0)
        assert found.spearman == pytest.approx(3**0.5 / 2)  # ranks 1.5 1.5 3 against 1 2 3

    def test_edges_are_matched_by_name(self) -> None:
        edge = [(Node(0, "head", 1), Node(2, "mlp")), (Node(-1, "embed"), Node(1, "attn"))]
        found = agreement({edge[0]: 1.0, edge[1]: 2.0}, {edge[1]: 5.0, edge[0]: 1.0}, baseline=0)
        assert found.worst[0] == ("embed -> attn 1", 2.0, 5.0)
        assert found.spearman == pytest.approx(1)


class TestTheReport:
    def test_reads_as_it_should(self) -> None:
        assert str(agreement(EXACT, -EXACT, baseline=0, count=3)).splitlines()[:4] == [
            "Estimate against exact effect, 6 cells",
            "  correlation       Pearson -1.00, Spearman -1.00",
            "  the 3 strongest   100% in both, 0% of one sign",
            "  furthest apart                                 exact    estimate",
        ]

    @settings(max_examples=50, deadline=None)
    @given(
        st.dictionaries(
            st.text(min_size=1, max_size=120),
            st.floats(-1e30, 1e30, allow_subnormal=False),
            min_size=2,
            max_size=30,
        )
    )
    def test_fits_into_80_columns_whatever_the_names(self, effects: dict[str, float]) -> None:
        names = {name.replace("\n", " ").replace("\r", " "): value for name, value in effects.items()}
        if len(names) < 2:
            return
        lines = str(agreement(names, dict.fromkeys(names, 1.0), baseline=0)).split("\n")
        assert all(len(line) <= 80 for line in lines)


class TestRefusals:
    def test_maps_of_unequal_shape(self) -> None:
        with pytest.raises(ValueError, match="unequal shape"):
            agreement(EXACT, EXACT[0], baseline=0)

    def test_edges_without_a_common_name(self) -> None:
        with pytest.raises(ValueError, match="in common"):
            agreement({"a": 1.0}, {"b": 1.0}, baseline=0)

    def test_a_map_against_edges(self) -> None:
        with pytest.raises(ValueError, match="not one of each"):
            agreement(EXACT, {"a": 1.0}, baseline=0)
