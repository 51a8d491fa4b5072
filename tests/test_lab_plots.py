"""Pictures: every one is drawn, its axes are named, and no figure is left open."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402

from mihack.lab import plots, text_plots  # noqa: E402
from mihack.lab.examples import Example  # noqa: E402

HISTORY = {"step": [0, 1, 2, 3], "train_loss": [4.0, 2.0, 1.0, 0.5], "test_loss": [4.0, 5.0, 5.0, 0.6]}
RANDOM = torch.Generator().manual_seed(0)
MATRIX = torch.randn(4, 5, generator=RANDOM)
PATTERN = torch.rand(6, 6, generator=RANDOM).tril()

CHARTS: dict[str, Callable[[Any], None]] = {
    "loss_curves": lambda ax: plots.loss_curves(
        ax, HISTORY, ["train_loss", "test_loss"], marks={"chance": 4.1}, phases={"a": (0, 2), "b": (2, 3)}
    ),
    "heatmap": lambda ax: plots.heatmap(ax, MATRIX, "t", x="x", y="y", signed=True, numbers=True),
    "attention": lambda ax: plots.attention(ax, PATTERN, ["$", "$$", "a$b", "_", "^{", "\\"], "t"),
    "head_scores": lambda ax: plots.head_scores(ax, MATRIX, "t"),
    "bars": lambda ax: plots.bars(ax, {"a": 1.0, "b": -2.0}, "t", y="y", highlight=["b"], marks={"m": 0.5}),
    "spectrum": lambda ax: plots.spectrum(ax, [0.1, 0.7, 0.2], "t", key=[2]),
    "points": lambda ax: plots.points(ax, [0, 1], [1, 0], ["$", "b"], "t", x_name="x", y_name="y"),
    "arrows": lambda ax: plots.arrows(ax, MATRIX[:, :2], "t", names=["a", "$", "c", "d"]),
    "cosines": lambda ax: plots.cosines(ax, MATRIX, "t"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    plt.close("all")
    yield
    assert plt.get_fignums() == []


def drawn(figure: Any) -> Any:
    """The figure as pixels; drawing raises where a text cannot be parsed or a font lacks a letter."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.mark.filterwarnings("error::UserWarning")
class TestCharts:
    @pytest.mark.parametrize("name", CHARTS)
    def test_it_draws_and_says_what_its_axes_are(self, name: str) -> None:
        figure, axes = plots.figure(1, 1, "all")
        CHARTS[name](axes[0])
        assert drawn(figure).std() > 5  # something is to be seen
        assert axes[0].get_title()
        assert axes[0].get_xlabel() or name == "bars"  # bars are named one by one
        assert axes[0].get_ylabel()

    def test_the_list_above_is_complete(self) -> None:
        """Every public function that draws on Axes stands in CHARTS (``label`` and ``levels`` help them)."""
        public = {
            name
            for name, value in vars(plots).items()
            if callable(value)
            and getattr(value, "__module__", "") == plots.__name__
            and "ax" in value.__annotations__
        }
        assert {n for n in public if not n.startswith("_")} == set(CHARTS) | {"label", "levels"}

    def test_phases_are_named_and_every_other_one_is_shaded(self) -> None:
        _, axes = plots.figure(1, 1, "t")
        plots.loss_curves(axes[0], HISTORY, ["train_loss"], phases={"a": (0, 1), "b": (1, 2), "c": (2, 3)})
        assert [text.get_text() for text in axes[0].texts] == ["a", "b", "c"]
        assert len(axes[0].patches) == 2

    def test_a_grid_has_a_panel_for_every_head(self) -> None:
        figure = plots.pattern_grid(PATTERN.expand(3, 2, -1, -1), "all heads")
        panels = [ax for ax in figure.axes if ax.images]
        assert len(panels) == 6
        assert [ax.get_ylabel() for ax in panels[::2]] == ["layer 0", "layer 1", "layer 2"]
        assert figure.get_supxlabel()
        assert figure.get_supylabel()
        drawn(figure)

    def test_cosines_are_right_and_a_zero_vector_is_allowed(self) -> None:
        _, axes = plots.figure(1, 1, "t")
        plots.cosines(axes[0], [[1, 0], [3, 3], [0, 0]], "t")
        half = 0.5**0.5
        wanted = [[1, half, 0], [half, 1, 0], [0, 0, 0]]
        np.testing.assert_allclose(axes[0].images[0].get_array(), wanted, atol=1e-7)


@pytest.mark.filterwarnings("error::UserWarning")
class TestTokens:
    def test_every_token_and_its_value_can_be_read(self) -> None:
        figure = text_plots.tokens(["The", " cat", "\n"], [0.5, -1.25, 0], "t", what="logit (nats)")
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert texts == ["The", "0.5", " cat", "-1.2", "⏎", "0"]
        assert figure.axes[1].get_ylabel() == "logit (nats)"
        drawn(figure)

    def test_values_below_zero_are_blue_and_above_orange(self) -> None:
        figure = text_plots.tokens(["a", "b", "c"], [-1, 0, 1], "t")
        low, zero, high = (patch.get_facecolor()[:3] for patch in figure.axes[0].patches)
        assert low[2] > low[0]
        assert zero == pytest.approx((1, 1, 1), abs=0.01)
        assert high[0] > high[2]

    def test_values_of_one_sign_have_one_hue(self) -> None:
        figure = text_plots.tokens(["a", "b"], [0, 2], "t")
        none, full = (patch.get_facecolor()[:3] for patch in figure.axes[0].patches)
        assert none == pytest.approx((1, 1, 1), abs=0.01)
        assert full == pytest.approx(matplotlib.colors.to_rgb(plots.COLOURS[0]), abs=0.01)

    def test_long_text_goes_on_in_the_next_line(self) -> None:
        figure = text_plots.tokens(["word "] * 40, range(40), "t", columns=50)
        boxes = [patch.get_bbox() for patch in figure.axes[0].patches]
        assert len(boxes) == 40
        assert all(box.x1 <= 50 for box in boxes)
        assert len({box.y0 for box in boxes}) == 4

    def test_boxes_do_not_overlap(self) -> None:
        figure = text_plots.tokens(["a", "bb", " ", "dddd"], [-0.001234, 5, 1e-9, 3], "t")
        boxes = [patch.get_bbox() for patch in figure.axes[0].patches]
        assert all(one.x1 <= two.x0 + 1e-9 for one, two in itertools.pairwise(boxes))

    def test_as_many_values_as_tokens(self) -> None:
        with pytest.raises(ValueError, match="2 tokens and 1 values"):
            text_plots.tokens(["a", "b"], [1], "t")

    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.tuples(st.text(max_size=12), st.floats(width=32)), min_size=1, max_size=4))
    def test_any_text_and_any_number_is_drawn(self, pairs: list[tuple[str, float]]) -> None:
        names, values = zip(*pairs, strict=True)
        drawn(text_plots.tokens(names, values, "t"))


@pytest.mark.filterwarnings("error::UserWarning")
class TestExamples:
    def test_each_example_has_its_value_its_text_and_its_token_marked(self) -> None:
        strongest = [Example(3.5, ["the", " red", " fox"], 1), Example(2.0, ["a", "b"], 0)]
        figure = text_plots.examples(
            {"strongest": strongest, "sampled": [Example(0.0, ["x"], 0)]}, "Neuron 1.7"
        )
        texts = [text.get_text().strip() for text in figure.axes[0].texts]
        assert texts == ["strongest", "3.5", "the", "red", "fox", "2", "a", "b", "sampled", "0", "x"]
        outlined = [patch for patch in figure.axes[0].patches if patch.get_linewidth() > 1]
        assert len(outlined) == 3
        drawn(figure)

    def test_long_text_is_cut_but_the_token_stays(self) -> None:
        example = Example(1.0, ["before "] * 60 + ["HERE"] + [" after"] * 60, 60)
        figure = text_plots.examples({"strongest": [example]}, "t")
        assert "HERE" in [text.get_text() for text in figure.axes[0].texts]
        assert all(patch.get_bbox().x1 <= 100 for patch in figure.axes[0].patches)

    def test_no_example_at_all(self) -> None:
        drawn(text_plots.examples({"strongest": []}, "a dead neuron"))
