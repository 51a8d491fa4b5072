"""Copies trained together end where they would have ended alone."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mihack.lab.many import Many, clipped, sparse_features, train_many  # noqa: E402
from mihack.lab.train import train  # noqa: E402

SEEDS, STEPS, BATCH, FEATURES, HIDDEN = 6, 60, 64, 5, 2


class Toy(nn.Module):
    """The ReLU output model of superposition."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(HIDDEN, FEATURES, generator=generator) / 2)
        self.bias = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: Any) -> Any:
        return torch.relu(x @ self.weight.T @ self.weight + self.bias)


def loss(model: Any, x: Any) -> Any:
    return ((model(x) - x) ** 2).mean()


def data(seeds: list[int], step: int) -> Any:
    return sparse_features(torch.tensor(seeds), step, BATCH, FEATURES, 0.3)


def together(**options: Any) -> tuple[list[Any], dict[str, Any]]:
    models = [Toy(seed) for seed in range(SEEDS)]
    settings = {"steps": STEPS, "lr": 1e-2, **options}
    return models, train_many(models, loss, lambda step: data(list(range(SEEDS)), step), **settings)


def alone(seed: int, **options: Any) -> tuple[Any, dict[str, Any]]:
    model = Toy(seed)
    settings = {"steps": STEPS, "lr": 1e-2, **options}
    return model, train(model, lambda step: loss(model, data([seed], step)[0]), **settings)


class TestTheSameAsAlone:
    @pytest.mark.parametrize(
        "options",
        [{}, {"weight_decay": 0.3}, {"decay": True, "warmup": 20}, {"clip": 0.01}, {"betas": (0.8, 0.9)}],
    )
    def test_parameters_and_losses(self, options: dict[str, Any]) -> None:
        models, history = together(**options)
        for seed in range(SEEDS):
            model, followed = alone(seed, **options)
            torch.testing.assert_close(models[seed].weight, model.weight, atol=1e-4, rtol=1e-3)
            assert history["step"] == followed["step"]
            assert [row[seed] for row in history["loss"]] == pytest.approx(followed["loss"], rel=1e-3)

    def test_they_learn(self) -> None:
        _, history = together(steps=400)
        first, last = history["loss"][0], history["loss"][-1]
        assert sum(last) < 0.8 * sum(first)

    def test_a_rate_for_each_copy(self) -> None:
        rates = torch.logspace(-4, -1, SEEDS)
        models, _ = together(lr=rates)
        model, _ = alone(3, lr=rates[3].item())
        torch.testing.assert_close(models[3].weight, model.weight, atol=1e-4, rtol=1e-3)

    def test_copies_do_not_touch_one_another(self) -> None:
        few = [Toy(seed) for seed in (0, 4)]
        train_many(few, loss, lambda step: data([0, 4], step), steps=STEPS, lr=1e-2)
        torch.testing.assert_close(few[1].weight, together()[0][4].weight, atol=1e-5, rtol=1e-4)


class TestErrors:
    def test_the_copy_whose_loss_is_not_finite_is_named(self) -> None:
        rates = torch.full((SEEDS,), 1e-3)
        rates[2] = float("inf")
        with pytest.raises(FloatingPointError, match="copy 2"):
            together(lr=rates)


class TestParts:
    def test_clipping_is_per_copy(self) -> None:
        gradients = [torch.randn(3, 4, 5), torch.randn(3, 7)]
        found = clipped(gradients, 1.0)
        for copy in range(3):
            ours = [nn.Parameter(torch.zeros_like(g[copy])) for g in gradients]
            for parameter, gradient in zip(ours, gradients, strict=True):
                parameter.grad = gradient[copy].clone()
            nn.utils.clip_grad_norm_(ours, 1.0)
            for parameter, gradient in zip(ours, found, strict=True):
                torch.testing.assert_close(parameter.grad, gradient[copy], atol=1e-6, rtol=1e-5)

    def test_unstack_gives_the_models_back(self) -> None:
        models = [Toy(seed) for seed in range(3)]
        before = [model.weight.clone() for model in models]
        many = Many(models)
        many.each(loss, data([0, 1, 2], 0)).sum().backward()
        for model, weight in zip(many.unstack(), before, strict=True):
            assert torch.equal(model.weight, weight)

    def test_sparse_features_are_as_often_and_as_large_as_they_say(self) -> None:
        x = sparse_features(torch.arange(20), 7, 2000, 6, 0.05)
        present = x > 0
        assert present.float().mean().item() == pytest.approx(0.05, abs=0.003)
        assert x[present].mean().item() == pytest.approx(0.5, abs=0.01)
        assert x[present].std().item() == pytest.approx(12**-0.5, abs=0.01)

    def test_sparse_features_are_independent(self) -> None:
        """Between neighbouring features, rows, steps and seeds alike."""
        x = (sparse_features(torch.arange(40), 0, 500, 4, 0.5) > 0).float() - 0.5
        later = (sparse_features(torch.arange(40), 1, 500, 4, 0.5) > 0).float() - 0.5
        pairs = [(x[..., 0], x[..., 1]), (x[:, :-1], x[:, 1:]), (x, later), (x[:-1], x[1:])]
        for one, two in pairs:
            assert abs((one * two).mean().item() * 4) < 0.02

    def test_a_batch_is_the_same_drawn_together_or_alone(self) -> None:
        whole = sparse_features(torch.tensor([3, 9]), 5, 8, 4, 0.5)
        assert torch.equal(whole[1:], sparse_features(torch.tensor([9]), 5, 8, 4, 0.5))
