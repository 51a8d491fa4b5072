"""Attribution patching gives TransformerLens's scores as maps, exact where the model is linear."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
warnings.filterwarnings("ignore")

from test_lab_paths import MAKERS, METRIC, native, pair  # noqa: E402
from transformer_lens.tools.analysis import attribution_patch  # noqa: E402

from mihack.lab.agreement import agreement  # noqa: E402
from mihack.lab.gradient_patching import gradient_maps  # noqa: E402
from mihack.lab.patching import Patcher, logit_difference  # noqa: E402


@pytest.fixture(params=list(MAKERS))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MAKERS[request.param](tmp_path)


@pytest.fixture
def prompts() -> tuple[Any, Any]:
    return pair()


class TestEqualToTransformerLens:
    def test_heads_and_mlps_are_its_nodes(self, model: Any, prompts: tuple[Any, Any]) -> None:
        one = [tokens[:1] for tokens in prompts]  # its metric sees one prompt at a time
        found = gradient_maps(model, *one, logit_difference(torch.tensor([3]), torch.tensor([5])))
        theirs = attribution_patch(model, *one, lambda logits: logits[0, -1, 3] - logits[0, -1, 5])
        assert max(map(abs, theirs.node_scores.values())) > 1e-2
        for node, score in theirs.node_scores.items():
            if node.kind == "attn_head_out":
                ours = found.heads_by_position[node.layer, node.position, node.head]
            elif node.kind == "mlp_out":
                ours = found.mlp_out[node.layer, node.position]
            else:  # the embedding: all that differs in the stream before the first block
                ours = found.resid_pre[0, node.position]
            assert ours.item() - found.baseline == pytest.approx(score, abs=1e-4)


class TestBesideExactMaps:
    def test_shapes_and_baseline_are_those_of_the_exact_maps(
        self,
        model: Any,
        prompts: tuple[Any, Any],
    ) -> None:
        estimate, exact = gradient_maps(model, *prompts, METRIC), Patcher(model, *prompts, METRIC)
        assert estimate.baseline == pytest.approx(exact.baseline()[1], abs=1e-5)
        for name in ("resid_pre", "attn_out", "mlp_out", "heads", "heads_by_position"):
            assert getattr(estimate, name).shape == getattr(exact, name)().shape

    def test_a_small_change_is_estimated_well(self, prompts: tuple[Any, Any]) -> None:
        """Two tokens whose embeddings hardly differ: all is linear."""
        made = native()
        clean, corrupted = (tokens[:1].clone() for tokens in prompts)
        corrupted[:] = clean
        corrupted[0, 2] = 39 - clean[0, 2]
        with torch.no_grad():
            weight = made.embed.weight
            weight[corrupted[0, 2]] = weight[clean[0, 2]] + 1e-2 * torch.randn(
                16, generator=torch.Generator().manual_seed(0)
            )
        metric = logit_difference(torch.tensor([3]), torch.tensor([5]))
        exact, estimate = (
            Patcher(made, clean, corrupted, metric),
            gradient_maps(made, clean, corrupted, metric),
        )
        for name in ("resid_pre", "heads", "mlp_out"):
            found = agreement(getattr(exact, name)(), getattr(estimate, name), baseline=estimate.baseline)
            assert found.pearson > 0.99

    def test_what_writes_last_is_exact_without_a_norm(self, prompts: tuple[Any, Any]) -> None:
        made = native(normalization_type=None)
        estimate, exact = gradient_maps(made, *prompts, METRIC), Patcher(made, *prompts, METRIC)
        torch.testing.assert_close(estimate.mlp_out[-1], exact.mlp_out()[-1], atol=1e-4, rtol=1e-4)

    def test_a_model_without_mlps_has_no_map_of_them(self, prompts: tuple[Any, Any]) -> None:
        assert gradient_maps(native(attn_only=True), *prompts, METRIC).mlp_out is None


class TestControls:
    def test_equal_prompts_change_nothing(self, model: Any, prompts: tuple[Any, Any]) -> None:
        found = gradient_maps(model, prompts[0], prompts[0], METRIC)
        assert (found.heads == found.baseline).all()
        assert (found.resid_pre == found.baseline).all()

    def test_no_gradient_is_left_on_the_weights(self, prompts: tuple[Any, Any]) -> None:
        made = native()
        with torch.no_grad():  # notebooks often switch gradients off for good
            gradient_maps(made, *prompts, METRIC)
        assert all(weight.grad is None for weight in made.parameters())

    def test_prompts_of_unequal_length_are_refused(self, prompts: tuple[Any, Any]) -> None:
        with pytest.raises(ValueError, match="align them"):
            gradient_maps(native(), prompts[0], prompts[1][:, 1:], METRIC)

    def test_training_mode_is_refused(self, prompts: tuple[Any, Any]) -> None:
        with pytest.raises(ValueError, match="eval"):
            gradient_maps(native().train(), *prompts, METRIC)
