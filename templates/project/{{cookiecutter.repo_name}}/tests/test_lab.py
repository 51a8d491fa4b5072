"""The building blocks in lab/ against cases that one can work out by hand."""

import math

import pytest
import torch

from lab import results


def test_a_row_is_met_inside_its_bound_and_missed_by_nan():
    assert results.meets(0.99, {"at_least": 0.99})
    assert not results.meets(0.98, {"at_least": 0.99})
    assert results.meets(0.5, {"between": [0.4, 0.6]})
    assert not results.meets(math.nan, {"at_most": 1.0})


def test_a_metric_that_was_not_measured_counts_as_missed():
    (row,) = results.compare({}, [{"metric": "accuracy", "label": "Accuracy", "at_least": 0.0}])
    assert not row["met"]


def test_training_finds_the_minimum_of_a_parabola():
    train = pytest.importorskip("lab.train").train
    model = torch.nn.Linear(1, 1, bias=False)
    history = train(model, lambda step: (model.weight - 3).square().sum(), steps=300, lr=0.1)
    assert model.weight.item() == pytest.approx(3, abs=0.05)
    assert history["loss"][-1] < history["loss"][0]


def test_one_wave_has_its_power_at_one_frequency():
    fourier = pytest.importorskip("lab.fourier")
    x = torch.arange(13)
    power = fourier.frequency_power(torch.cos(2 * math.pi * 4 * x / 13)[:, None])
    assert power.argmax().item() + 1 == 4
    assert power.max().item() == pytest.approx(1, abs=1e-5)


def test_induction_key_is_one_after_the_earlier_copy():
    heads = pytest.importorskip("lab.heads")
    tokens = torch.tensor([[5, 6, 7, 5, 6, 7]])
    keys = heads.induction_keys(tokens)[0]
    assert keys[3].nonzero().flatten().tolist() == [1]  # the second 5 looks at the 6 after the first 5


def test_a_head_that_always_looks_back_one_scores_one():
    heads = pytest.importorskip("lab.heads")
    pattern = torch.zeros(1, 1, 6, 6)
    pattern[0, 0, range(1, 6), range(5)] = 1
    score = heads.previous_token_score(pattern, torch.tensor([[5, 6, 7, 5, 6, 7]]))
    assert score.tolist() == [1.0]
