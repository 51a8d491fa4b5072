"""Probes: what they find, what their controls say, and edits along what they found."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from transformer_lens import TransformerBridgeConfig  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

from mihack.lab.directions import add, project_out, random_like, reflect  # noqa: E402
from mihack.lab.probe_fits import fit_all, solve_ridge  # noqa: E402
from mihack.lab.probes import fit_probe, grouped_split, probe_map  # noqa: E402

KINDS = ("ridge", "logistic", "mass-mean")


def planted(
    examples: int = 800, d: int = 32, classes: int = 2, seed: int = 0, strength: float = 3.0
) -> tuple[Any, Any, Any]:
    """Activations of unequal scale and a centre off zero, their classes, and each class's direction."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (examples,), generator=generator)
    directions = torch.linalg.qr(torch.randn(d, classes, generator=generator)).Q.T
    noise = torch.randn(examples, d, generator=generator)
    return noise + 5 + strength * directions[y], y, directions


def cosine(one: Any, two: Any) -> float:
    return torch.nn.functional.cosine_similarity(one, two, dim=0).item()


@pytest.fixture(scope="module")
def model() -> Any:
    config = TransformerBridgeConfig(
        n_layers=2, d_model=16, n_heads=2, d_head=8, d_vocab=30, n_ctx=12, act_fn="gelu", seed=0
    )
    return TransformerBridge.boot_native(config).eval()


@pytest.fixture(scope="module")
def tokens() -> Any:
    return torch.randint(0, 30, (3, 9), generator=torch.Generator().manual_seed(0))


class TestWhatAProbeFinds:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_planted_direction_in_the_units_of_the_activations(self, kind: Any) -> None:
        x, y, directions = planted(4000)
        report = fit_probe(x, y, kind=kind, repeats=2)
        assert cosine(report.probe.weight[0], directions[1] - directions[0]) > 0.95
        assert report.held_out > 0.95
        assert report.faults == []

    def test_standardising_is_undone(self) -> None:
        """The scores are those of the raw activations, however unequal the scales of the dimensions."""
        x, y, _ = planted()
        scale = torch.logspace(-2, 2, x.shape[1])
        plain, scaled = (fit_probe(v, y, kind="ridge", repeats=1).probe for v in (x, x * scale))
        torch.testing.assert_close(plain.weight, scaled.weight * scale, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(plain.scores(x), scaled.scores(x * scale), atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize("kind", KINDS)
    def test_several_classes_with_any_names(self, kind: Any) -> None:
        x, y, directions = planted(2000, classes=4, strength=5.0)
        names = torch.tensor([-3, 7, 11, 40])
        report = fit_probe(x, names[y], kind=kind, repeats=2)
        assert report.probe.weight.shape == (4, x.shape[1])
        assert report.held_out > 0.95
        assert set(report.probe.predict(x).tolist()) == set(names.tolist())
        centred = directions - directions.mean(0)
        assert all(cosine(report.probe.weight[c], centred[c]) > 0.9 for c in range(4))

    def test_numbers_by_ridge(self) -> None:
        x, _, directions = planted()
        generator = torch.Generator().manual_seed(1)
        value = x @ directions[0] + 0.1 * torch.randn(len(x), generator=generator)
        report = fit_probe(x, value, kind="ridge", repeats=3)
        assert report.held_out > 0.95
        assert report.majority == 0
        assert cosine(report.probe.weight[0], directions[0]) > 0.99
        assert report.control.max() < 0.1

    def test_the_mass_mean_probe_is_the_difference_of_the_means(self) -> None:
        x, y, _ = planted()
        (probe,) = fit_all(x, [y], "mass-mean", 1.0)
        means = [x[y == name].double().mean(0) for name in (0, 1)]
        torch.testing.assert_close(probe.weight[0], (means[1] - means[0]).float())
        middle = ((means[0] + means[1]) / 2).float()
        assert abs(probe.scores(middle).item()) < 1e-3

    def test_constant_dimensions_do_no_harm(self) -> None:
        x, y, _ = planted()
        x[:, 3] = 7.0
        for kind in KINDS:
            report = fit_probe(x, y, kind=kind, repeats=1)
            assert torch.isfinite(report.probe.weight).all()
            assert report.probe.weight[0, 3] == pytest.approx(0, abs=1e-6)


class TestTheFits:
    @pytest.mark.parametrize("d", [10, 300])  # fewer and more dimensions than examples
    @pytest.mark.parametrize("penalty", [0.1, 50.0])
    def test_ridge_is_the_solution_of_its_normal_equations_and_scikit_learns(
        self, d: int, penalty: float
    ) -> None:
        from sklearn.linear_model import Ridge

        generator = torch.Generator().manual_seed(0)
        z = torch.randn(60, d, generator=generator, dtype=torch.float64)
        y = torch.randn(60, 3, generator=generator, dtype=torch.float64)
        found = solve_ridge(z, y, penalty)
        direct = torch.linalg.solve(z.T @ z + penalty * torch.eye(d, dtype=torch.float64), z.T @ y)
        torch.testing.assert_close(found, direct)
        theirs = Ridge(alpha=penalty, fit_intercept=False).fit(z.numpy(), y.numpy()).coef_
        np.testing.assert_allclose(found.T.numpy(), theirs, atol=1e-8)

    def test_label_sets_fitted_together_are_those_fitted_alone(self) -> None:
        x, y, _ = planted(classes=3)
        sets = [y, y.flip(0), (y > 0).long()]
        for one, alone in zip(
            fit_all(x, sets, "ridge", 1.0), (fit_all(x, [s], "ridge", 1.0)[0] for s in sets), strict=True
        ):
            torch.testing.assert_close(one.weight, alone.weight)
            torch.testing.assert_close(one.bias, alone.bias)

    def test_binary_ridge_is_scikit_learns_ridge_classifier(self) -> None:
        from sklearn.linear_model import RidgeClassifier

        x, y, _ = planted()
        z = (x - x.mean(0)) / x.std(0, correction=0)
        theirs = RidgeClassifier(alpha=2.0).fit(z.double().numpy(), y.numpy())
        (probe,) = fit_all(x, [y], "ridge", 2.0)
        np.testing.assert_allclose(
            probe.scores(x).squeeze(1).numpy(), theirs.decision_function(z.double().numpy()), atol=1e-4
        )

    @pytest.mark.parametrize(
        ("kind", "labels", "penalty", "says"),
        [
            ("tree", [0, 1, 0, 1], 1.0, "choose from ridge, logistic, mass-mean"),
            ("logistic", [0.5, 1.0, 2.0, 3.0], 1.0, "wants classes"),
            ("ridge", [0, 1, 0, 1], 0.0, "penalty is 0.0"),
            ("ridge", [4, 4, 4, 4], 1.0, "one class"),
        ],
    )
    def test_what_cannot_be_fitted_is_refused(
        self, kind: Any, labels: list[float], penalty: float, says: str
    ) -> None:
        with pytest.raises(ValueError, match=says):
            fit_all(torch.randn(4, 3), [torch.tensor(labels)], kind, penalty)

    def test_importing_the_module_does_not_import_scikit_learn(self) -> None:
        code = "import sys, mihack.lab.probes; sys.exit('sklearn' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestControls:
    @pytest.mark.parametrize("kind", KINDS)
    def test_labels_without_meaning_are_at_chance_within_their_own_spread(self, kind: Any) -> None:
        x, y, _ = planted()
        report = fit_probe(x, y, kind=kind, repeats=8)
        assert len(report.control) == 8
        assert abs(report.control.mean() - 0.5) < 3 * report.spread / 8**0.5 + 0.02
        assert report.selectivity > 0.4

    @pytest.mark.parametrize("kind", ["ridge", "logistic"])
    def test_random_labels_with_many_dimensions_are_fitted_but_not_held_out_and_it_says_so(
        self, kind: Any
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(120, 400, generator=generator)
        y = torch.randint(0, 2, (120,), generator=generator)
        report = fit_probe(x, y, kind=kind, repeats=5)
        assert report.train > 0.95
        assert report.held_out < 0.75
        text = str(report)
        assert "no better than labels without meaning" in text
        assert "overfits" in text
        assert "too many dimensions" in text

    def test_a_common_class_is_not_a_finding(self) -> None:
        """Nine in ten are of one class: an accuracy of 0.9 has found nothing."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(600, 8, generator=generator)
        y = (torch.rand(600, generator=generator) < 0.1).long()
        report = fit_probe(x, y)
        assert report.held_out > 0.85
        assert report.majority > 0.85
        assert any("majority class" in fault for fault in report.faults)

    def test_an_untrained_model_that_does_as_well_is_named(self) -> None:
        x, y, _ = planted()
        other, _, _ = planted(seed=5)
        same = fit_probe(x, y, untrained=x + 1.0, repeats=4)
        assert same.untrained == pytest.approx(same.held_out, abs=0.02)
        assert any("untrained" in fault for fault in same.faults)
        unrelated = fit_probe(x, y, untrained=other, repeats=4)
        assert unrelated.untrained is not None
        assert unrelated.untrained < 0.7
        assert unrelated.faults == []
        assert "untrained model" in str(unrelated)

    def test_with_types_the_control_is_a_label_for_each_type(self) -> None:
        """Hewitt & Liang: a probe that sees which word it is can learn the control task as well."""
        generator = torch.Generator().manual_seed(0)
        word = torch.randint(0, 10, (1000,), generator=generator)
        x = torch.eye(10)[word] + 0.05 * torch.randn(1000, 10, generator=generator)
        by_type = fit_probe(x, word % 2, types=word, kind="ridge", repeats=6)
        shuffled = fit_probe(x, word % 2, kind="ridge", repeats=6)
        assert by_type.held_out == shuffled.held_out == 1.0
        assert by_type.selectivity < 0.05
        assert shuffled.selectivity > 0.3
        assert by_type.faults

    def test_labels_that_belong_to_groups_are_shuffled_by_group(self) -> None:
        """Shuffled within groups, a control of labels that whole groups share would be too easy to beat."""
        generator = torch.Generator().manual_seed(0)
        groups = torch.arange(40).repeat_interleave(20)
        label = torch.randint(0, 2, (40,), generator=generator)[groups]
        mark = torch.randn(40, 60, generator=generator)[groups]  # each group is recognisable, and no more
        x = mark + 0.1 * torch.randn(800, 60, generator=generator)
        honest = fit_probe(x, label, groups=groups, kind="ridge")
        leaky = fit_probe(x, label, kind="ridge")
        assert leaky.held_out > 0.95
        assert honest.held_out < 0.8
        assert honest.control_train.mean() > 0.95  # the control could be fitted, as the label could
        assert honest.faults


class TestManySites:
    def test_a_stack_of_layers_finds_where_it_is(self) -> None:
        x, y, _ = planted()
        stack = torch.stack([torch.randn(x.shape, generator=torch.Generator().manual_seed(3)), x])
        reports = probe_map(stack, y, kind="ridge", repeats=4)
        assert list(reports) == [0, 1]
        assert reports[0].faults
        assert reports[1].faults == []

    def test_layers_by_positions_and_mappings_agree_with_single_probes(self) -> None:
        x, y, _ = planted(300, 8)
        stack = torch.stack([x, x.flip(1), x * 2, x + 1, x - 1, x]).view(3, 2, *x.shape)
        reports = probe_map(stack, y, kind="ridge", repeats=2)
        assert list(reports) == [(layer, position) for layer in range(3) for position in range(2)]
        named = probe_map({"one": x, "wider": torch.cat([x, x], 1)}, y, kind="ridge", repeats=2)
        alone = fit_probe(x, y, kind="ridge", repeats=2)
        for report in (reports[0, 0], named["one"]):
            assert report.held_out == alone.held_out
            assert torch.equal(report.control, alone.control)
            assert torch.equal(report.probe.weight, alone.probe.weight)

    def test_a_wrong_shape_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"site late: \[5, 3\] for 4 labels"):
            probe_map({"early": torch.randn(4, 3), "late": torch.randn(5, 3)}, torch.tensor([0, 1, 0, 1]))


class TestGroupedSplit:
    @given(
        st.lists(st.integers(-50, 50), min_size=2, max_size=200).filter(lambda g: len(set(g)) > 1),
        st.floats(0.05, 0.95),
        st.integers(0, 1000),
    )
    @settings(max_examples=200, deadline=None)
    def test_no_group_on_both_sides_and_the_share_is_as_near_as_groups_allow(
        self, groups: list[int], share: float, seed: int
    ) -> None:
        named = torch.tensor(groups)
        train, held_out = grouped_split(named, share, seed)
        assert not set(named[train].tolist()) & set(named[held_out].tolist())
        assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(len(groups)))
        assert len(train)
        assert len(held_out)
        largest = int(torch.unique(named, return_counts=True)[1].max())
        assert abs(len(held_out) - share * len(groups)) <= largest
        again = grouped_split(named, share, seed)
        assert torch.equal(again[0], train)
        assert torch.equal(again[1], held_out)

    def test_other_seeds_hold_out_other_groups(self) -> None:
        groups = torch.arange(50).repeat_interleave(2)
        sides = {tuple(grouped_split(groups, seed=seed)[1].tolist()) for seed in range(5)}
        assert len(sides) == 5

    @pytest.mark.parametrize(("groups", "share"), [([3, 3, 3], 0.5), ([1, 2], 0.0), ([1, 2], 1.0)])
    def test_what_cannot_be_split_is_refused(self, groups: list[int], share: float) -> None:
        with pytest.raises(ValueError, match="a split needs two"):
            grouped_split(torch.tensor(groups), share)


class TestEditing:
    def edited(self, model: Any, tokens: Any, hook: Any) -> tuple[Any, Any]:
        """The residual stream after block 0 as it was, and as the hook left it."""
        kept: list[Any] = []
        site = "blocks.0.hook_resid_post"
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
            seen = [(site, hook), ("blocks.1.hook_resid_pre", lambda v, hook: kept.append(v))]
            model.run_with_hooks(tokens, fwd_hooks=seen)
        return cache[site], kept[0]

    def test_add_adds_where_it_is_told(self, model: Any, tokens: Any) -> None:
        direction = torch.randn(16, generator=torch.Generator().manual_seed(1))
        before, after = self.edited(model, tokens, add(direction, 2.5, positions=[2, -1]))
        moved = after - before
        torch.testing.assert_close(moved[:, [2, -1]], (2.5 * direction).expand(3, 2, 16), atol=1e-5, rtol=0)
        assert moved[:, [0, 1, 3, 4, 5, 6, 7]].abs().max() < 1e-5

    def test_project_out_leaves_nothing_along_the_span_and_all_else(self, model: Any, tokens: Any) -> None:
        plane = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
        before, after = self.edited(model, tokens, project_out(plane))
        assert (after @ plane.T).abs().max() < 1e-4
        left = torch.linalg.qr(plane.T, mode="complete").Q[:, 2:]
        torch.testing.assert_close(after @ left, before @ left, atol=1e-5, rtol=1e-4)

    def test_project_out_towards_the_mean_gives_all_the_mean_there(self, model: Any, tokens: Any) -> None:
        direction = torch.randn(16, generator=torch.Generator().manual_seed(1))
        before, _ = self.edited(model, tokens, lambda v, hook: v)
        mean = before.flatten(0, 1).mean(0)
        _, after = self.edited(model, tokens, project_out(direction, towards=mean))
        torch.testing.assert_close(after @ direction, (mean @ direction).expand(3, 9), atol=1e-4, rtol=1e-4)

    def test_reflecting_in_a_probes_plane_gives_every_example_the_opposite_score(self) -> None:
        x, y, _ = planted()
        probe = fit_probe(x, y, kind="logistic", repeats=1).probe
        turned = reflect(probe.weight[0], about=probe.on_boundary())(x)
        torch.testing.assert_close(probe.scores(turned), -probe.scores(x), atol=1e-3, rtol=1e-3)
        assert (probe.predict(turned) != probe.predict(x)).all()
        torch.testing.assert_close(
            reflect(probe.weight[0], probe.on_boundary())(turned), x, atol=1e-4, rtol=0
        )

    def test_a_random_direction_of_the_same_length_changes_a_probes_mind_less(self) -> None:
        x, y, directions = planted()
        probe = fit_probe(x, y, repeats=1).probe
        push = 6 * (directions[1] - directions[0])
        moved, control = (
            (probe.predict(add(d)(x)) != probe.predict(x)).float().mean() for d in (push, random_like(push))
        )
        assert random_like(push).norm() == pytest.approx(push.norm().item(), rel=1e-5)
        assert moved > 0.4  # all of the first class
        assert control < moved - 0.15

    def test_directions_that_span_nothing_are_refused(self) -> None:
        for rows in (torch.zeros(4), torch.ones(2, 4), torch.eye(3)[:, :2]):
            with pytest.raises(ValueError, match="depend on one another"):
                project_out(rows)

    def test_a_probe_of_several_classes_has_no_single_plane(self) -> None:
        x, y, _ = planted(classes=3)
        with pytest.raises(ValueError, match="3 rows"):
            fit_probe(x, y, repeats=1).probe.on_boundary()
