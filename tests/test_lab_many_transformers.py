"""One-layer transformers written out for many copies: the very models, only in fewer products."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402
from transformer_lens import TransformerBridgeConfig  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

from mihack.lab.many import Many, train_many  # noqa: E402
from mihack.lab.many_transformers import LastPosition  # noqa: E402
from mihack.lab.train import train  # noqa: E402

P, COPIES = 7, 3


def model(seed: int, **changes: Any) -> Any:
    settings = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "d_vocab": P + 1,
                "d_vocab_out": P, "n_ctx": 3, "act_fn": "relu", "normalization_type": None,
                "seed": seed, **changes}  # fmt: skip
    # rounding is blown up by Adam, whose steps are about as long for a tiny gradient as for a large one
    return TransformerBridge.boot_native(TransformerBridgeConfig(**settings)).double()


def problem() -> tuple[Any, Any]:
    """(a, b, =) for two thirds of all pairs, and a + b mod P."""
    a, b = torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)
    kept = torch.arange(P * P) % 3 > 0
    return torch.stack([a, b, torch.full_like(a, P)], 1)[kept], ((a + b) % P)[kept]


KINDS = [{}, {"act_fn": "gelu"}, {"attn_only": True}, {"d_vocab_out": P + 1}]


class TestTheSameModel:
    @pytest.mark.parametrize("changes", KINDS)
    def test_logits(self, changes: dict[str, Any]) -> None:
        tokens, _ = problem()
        models = [model(seed, **changes) for seed in range(COPIES)]
        found = LastPosition(models[0], tokens).logits(Many(models).parameters)
        for copy, each in zip(found, models, strict=True):
            assert torch.allclose(copy, each(tokens)[:, -1], atol=1e-12)
            assert copy.abs().max() > 1e-3

    def test_last_tokens_that_differ(self) -> None:
        tokens = torch.randint(0, P, (20, 3), generator=torch.Generator().manual_seed(0))
        models = [model(seed) for seed in range(COPIES)]
        found = LastPosition(models[0], tokens).logits(Many(models).parameters)
        for copy, each in zip(found, models, strict=True):
            assert torch.allclose(copy, each(tokens)[:, -1], atol=1e-12)

    @pytest.mark.parametrize("changes", KINDS)
    def test_training(self, changes: dict[str, Any]) -> None:
        tokens, answers = problem()
        together = [model(seed, **changes) for seed in range(COPIES)]
        last = LastPosition(together[0], tokens)

        def losses(parameters: Any, _batch: Any) -> Any:
            logits = last.logits(parameters)
            each = F.cross_entropy(logits.flatten(0, 1), answers.repeat(COPIES), reduction="none")
            return each.view(COPIES, -1).mean(1)

        settings = {"steps": 30, "lr": 1e-2, "weight_decay": 1.0}
        history = train_many(together, losses, lambda step: None, stacked=True, **settings)
        for seed, trained in enumerate(together):
            alone = model(seed, **changes)
            found = train(alone, lambda step, m=alone: F.cross_entropy(m(tokens)[:, -1], answers), **settings)
            assert history["loss"][-1][seed] == pytest.approx(found["loss"][-1], abs=1e-6)
            for one, two in zip(trained.parameters(), alone.parameters(), strict=True):
                assert torch.allclose(one, two, atol=1e-3)
        assert history["loss"][-1][0] < history["loss"][0][0] - 0.1  # and they learned something


class TestWhatIsNotCovered:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"n_layers": 2}, "n_layers=1"),
            ({"normalization_type": "LN"}, "normalization_type=None"),
            ({"positional_embedding_type": "rotary"}, "learned positions"),
            ({"act_fn": "silu"}, "ReLU or GELU"),
        ],
    )
    def test_is_refused_by_name(self, changes: dict[str, Any], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            LastPosition(model(0, **changes), problem()[0])
