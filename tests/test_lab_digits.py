"""The digits are split cleanly, moved by at most a pixel, and drawn stimuli are what they are called."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
sklearn = pytest.importorskip("sklearn.datasets")

from mihack.lab import digits  # noqa: E402

CPU = torch.device("cpu")
LENGTH_AND_WIDTH = 9.7  # ink of a stroke of 7 pixels with its two round ends


class TestPictures:
    def test_a_quarter_is_held_out_and_nothing_is_lost(self) -> None:
        data = digits.load(0, CPU)
        assert (len(data.train), len(data.test)) == (1348, 449)
        assert data.train.shape[1:] == (1, 8, 8)
        ink = torch.cat([data.train, data.test]).sum((1, 2, 3)) * 16
        assert sorted(ink.tolist()) == sorted(sklearn.load_digits().images.sum((1, 2)).tolist())

    def test_values_lie_between_blank_and_ink(self) -> None:
        data = digits.load(0, CPU)
        assert (data.train.min().item(), data.train.max().item()) == (0.0, 1.0)

    def test_the_split_depends_on_the_seed_alone(self) -> None:
        first, again, other = (digits.load(seed, CPU) for seed in (3, 3, 4))
        assert torch.equal(first.test, again.test)
        assert not torch.equal(first.test, other.test)


class TestShifting:
    def test_a_dot_moves_by_at_most_one_pixel_each_way_and_everywhere(self) -> None:
        picture = torch.zeros(300, 1, 8, 8)
        picture[:, :, 4, 4] = 1
        moved = digits.shifted(picture, torch.Generator().manual_seed(0))
        assert moved.shape == picture.shape
        _, _, row, column = moved.nonzero().T
        assert set(zip(row.tolist(), column.tolist(), strict=True)) == {
            (r, c) for r in (3, 4, 5) for c in (3, 4, 5)
        }

    def test_what_leaves_the_paper_is_gone(self) -> None:
        picture = torch.zeros(100, 1, 8, 8)
        picture[:, :, 0, 0] = 1
        ink = digits.shifted(picture, torch.Generator().manual_seed(0)).sum((1, 2, 3))
        assert set(ink.tolist()) == {0.0, 1.0}


class TestStimuli:
    def test_horizontal_stripes_are_alike_along_rows(self) -> None:
        pictures, angle = digits.gratings(4, 3)
        assert angle.tolist() == pytest.approx([0, math.pi / 4, math.pi / 2, 3 * math.pi / 4])
        assert (pictures[0] - pictures[0][:, :, :1]).abs().max() < 1e-6
        assert (pictures[2] - pictures[2][:, :1]).abs().max() < 1e-6
        assert (pictures[0] - pictures[0][:, :1]).abs().max() > 0.5

    def test_stripes_come_again_after_one_period(self) -> None:
        picture = digits.gratings(1, 1, period=4.0)[0][0, 0]
        assert torch.allclose(picture[:4], picture[4:], atol=1e-5)

    def test_lines_and_arcs_have_the_same_ink(self) -> None:
        for pictures in (digits.lines(16, (0.0,)), digits.arcs(16)):
            assert pictures.sum((-1, -2)).mean().item() == pytest.approx(LENGTH_AND_WIDTH, abs=0.3)

    def test_a_horizontal_line_lies_on_its_row(self) -> None:
        line = digits.lines(1, (0.5,))[0, 0]
        assert line.sum(1).argmax() == 4
        assert line[4].min() == 1.0

    def test_an_angle_of_ninety_degrees_is_vertical(self) -> None:
        line = digits.lines(2, (0.5,))[1, 0]
        assert torch.allclose(line, digits.lines(1, (-0.5,))[0, 0].T, atol=1e-5)

    def test_arcs_are_centred(self) -> None:
        place = torch.arange(8) - 3.5
        pictures = digits.arcs(8)
        for across in (-1, -2):
            offset = (pictures.sum(across) * place).sum(-1) / pictures.sum((-1, -2))
            assert offset.abs().max() < 0.3  # pixels

    def test_the_first_arc_bulges_to_the_right_and_a_quarter_turn_later_down(self) -> None:
        right, down = digits.arcs(4, (2.25,))[:2, 0]
        assert right[3:5].sum(0).argmax() == 4  # beside the middle of the arc, and open to the left
        assert right[3:5, :3].max() == 0
        assert torch.allclose(down, right.T, atol=1e-5)


class TestSelectivity:
    angle = torch.arange(12) * math.pi / 12

    def test_a_flat_curve_has_none_and_a_single_peak_has_all(self) -> None:
        tuning = torch.stack([torch.ones(12), torch.eye(12)[3], torch.zeros(12)], dim=1)
        sharp, preferred = digits.selectivity(tuning, self.angle)
        assert sharp.tolist() == pytest.approx([0, 1, 0], abs=1e-6)
        assert preferred[1].item() == pytest.approx(math.pi / 4, abs=1e-5)

    def test_a_raised_cosine_has_half_its_depth(self) -> None:
        tuning = (1 + 0.6 * torch.cos(2 * (self.angle - 1.0)))[:, None]
        sharp, preferred = digits.selectivity(tuning, self.angle)
        assert sharp.item() == pytest.approx(0.3, abs=1e-5)
        assert preferred.item() == pytest.approx(1.0, abs=1e-5)
