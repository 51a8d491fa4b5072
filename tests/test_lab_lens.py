"""Reading the stream as logits: shares that add up to what the model says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
warnings.filterwarnings("ignore")

from test_lab_ov_circuits import varied  # noqa: E402
from test_lab_patching import gpt2, llama, native  # noqa: E402
from transformer_lens.tools.analysis import direct_logit_attribution, logit_lens  # noqa: E402

from mihack.lab.lens import (  # noqa: E402
    fit_translators,
    lens_difference,
    logit_attribution,
    source_attribution,
)

ANSWERS, OTHERS = torch.tensor([3, 4]), torch.tensor([5, 6])


@pytest.fixture(params=["LN", "RMS", "none", "attn_only", "rotary", "gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    makers = {
        "LN": native,
        "RMS": lambda: native(normalization_type="RMS"),
        "none": lambda: native(normalization_type=None),
        "attn_only": lambda: native(attn_only=True),
        "rotary": lambda: native(positional_embedding_type="rotary", rotary_dim=8),
        "gpt2": lambda: gpt2(tmp_path),
        "llama": lambda: llama(tmp_path),
    }
    return varied(makers[request.param]())


@pytest.fixture
def tokens() -> Any:
    return torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(2))


class TestAttribution:
    def test_the_shares_add_up_to_the_logit_difference_everywhere(self, model: Any, tokens: Any) -> None:
        found = logit_attribution(model, tokens, ANSWERS, OTHERS)
        with torch.no_grad():
            logits = model(tokens)
        rows = torch.arange(2)
        wanted = logits[rows, :, ANSWERS] - logits[rows, :, OTHERS]
        torch.testing.assert_close(found.values.sum(0), wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.total, wanted)
        assert found.values.shape == (len(found.labels), 2, 7)
        assert wanted.std() > 0.1

    def test_and_to_a_logit_alone_or_to_another_token_at_each_place(self, model: Any, tokens: Any) -> None:
        following = tokens.roll(-1, 1)
        found = logit_attribution(model, tokens, following)
        with torch.no_grad():
            wanted = model(tokens).gather(-1, following[..., None]).squeeze(-1)
        torch.testing.assert_close(found.values.sum(0), wanted, atol=1e-4, rtol=1e-4)

    def test_a_heads_share_is_what_its_output_adds(self, model: Any, tokens: Any) -> None:
        """With the final norm frozen, taking a head's output away takes its share away."""
        found = logit_attribution(model, tokens, ANSWERS, OTHERS)
        last = model.cfg.n_layers - 1
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
            out = cache[f"blocks.{last}.attn.hook_z"][:, :, 1] @ model.W_O[last, 1]
            stream = cache[f"blocks.{last}.hook_resid_post"]
            scale = cache["ln_final.hook_scale"] if model.cfg.normalization_type else 1

            def read(x: Any) -> Any:
                if model.cfg.normalization_type == "LN":
                    x = x - x.mean(-1, keepdim=True)
                if model.cfg.normalization_type is not None:
                    x = x / scale * model.ln_final.weight
                logits = x @ model.W_U
                return logits[torch.arange(2), :, ANSWERS] - logits[torch.arange(2), :, OTHERS]

        wanted = read(stream) - read(stream - out)
        torch.testing.assert_close(found.heads()[last, 1], wanted.detach(), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.values[found.labels.index(f"{last}.1")], found.heads()[last, 1])

    def test_a_heads_share_comes_from_the_places_that_it_attends_to(self, model: Any, tokens: Any) -> None:
        found = logit_attribution(model, tokens, ANSWERS, OTHERS).heads()
        for head in (0, model.cfg.n_heads - 1):
            sources = source_attribution(model, tokens, 1, head, ANSWERS, OTHERS)
            torch.testing.assert_close(sources.sum(-1), found[1, head], atol=1e-4, rtol=1e-4)
            assert (sources.triu(1) == 0).all()

    def test_equal_to_transformer_lens_where_it_may_fold_the_weights(
        self, tmp_path: Path, tokens: Any
    ) -> None:
        model = varied(gpt2(tmp_path))
        ours = logit_attribution(model, tokens, ANSWERS, OTHERS)
        model.enable_compatibility_mode()
        theirs = direct_logit_attribution(model, tokens, ANSWERS, OTHERS, unit="head")
        by_label = dict(zip(theirs.labels, theirs.attribution, strict=True))
        for layer in range(3):
            for head in range(2):
                wanted = by_label[f"L{layer}H{head}"]
                # folding moves the value biases out of the heads: what is left differs by a constant
                found = ours.heads()[layer, head, :, -1]
                bias = _value_bias(tmp_path / "again", layer, head)
                scale = _final_scale(tmp_path / "again", tokens)
                torch.testing.assert_close(found - bias / scale, wanted, atol=1e-3, rtol=1e-3)

    def test_the_weights_and_the_result_are_left_alone(self, model: Any, tokens: Any) -> None:
        with torch.no_grad():
            before = model(tokens)
            logit_attribution(model, tokens, ANSWERS, OTHERS)
            assert torch.equal(model(tokens), before)

    def test_a_model_that_does_more_after_the_unembedding_is_refused(self, tokens: Any) -> None:
        model = native()
        model.unembed.register_forward_hook(lambda _m, _a, out: 30 * torch.tanh(out / 0.3))
        with pytest.raises(ValueError, match="not supported"):
            logit_attribution(model, tokens, ANSWERS, OTHERS)

    def test_the_summary_names_the_largest(self, tokens: Any) -> None:
        found = logit_attribution(native(), tokens, ANSWERS, OTHERS)
        (name, value), *_ = found.top(3)
        assert value == max(found.mean().values(), key=abs)
        assert found.mean()[name] == value


def _value_bias(folder: Path, layer: int, head: int) -> Any:
    model = varied(gpt2(folder))
    bias = model.b_V[layer, head]
    # folding the norm adds what its bias reads through W_V
    bias = bias + model.blocks[layer].ln1.bias @ model.W_V[layer, head]
    unembedding = model.W_U * model.ln_final.weight[:, None]
    unembedding = unembedding - unembedding.mean(0)
    direction = unembedding[:, ANSWERS] - unembedding[:, OTHERS]
    return (bias @ model.W_O[layer, head] @ direction).detach()


def _final_scale(folder: Path, tokens: Any) -> Any:
    with torch.no_grad():
        _, cache = varied(gpt2(folder)).run_with_cache(tokens)
    return cache["ln_final.hook_scale"][:, -1, 0]


class TestLens:
    def test_the_last_entry_is_the_models_own_answer(self, model: Any, tokens: Any) -> None:
        found = lens_difference(model, tokens, ANSWERS, OTHERS)
        with torch.no_grad():
            logits = model(tokens)[:, -1]
        wanted = logits[torch.arange(2), ANSWERS] - logits[torch.arange(2), OTHERS]
        assert found.shape == (model.cfg.n_layers + 1, 2)
        torch.testing.assert_close(found[-1], wanted, atol=1e-4, rtol=1e-4)

    def test_an_earlier_entry_is_the_stream_through_norm_and_unembedding(
        self, model: Any, tokens: Any
    ) -> None:
        found = lens_difference(model, tokens, ANSWERS, OTHERS, at=3)
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
            logits = model.unembed(model.ln_final(cache["blocks.1.hook_resid_pre"]))[:, 3]
        wanted = logits[torch.arange(2), ANSWERS] - logits[torch.arange(2), OTHERS]
        torch.testing.assert_close(found[1], wanted, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def rows() -> Any:
    return torch.randint(0, 40, (150, 10), generator=torch.Generator().manual_seed(0))


class TestTranslators:
    def test_they_predict_the_final_stream_of_other_rows_better_than_the_bare_stream(self, rows: Any) -> None:
        model = native(initializer_range=0.5)
        translators = fit_translators(model, rows[:130])
        with torch.no_grad():
            _, cache = model.run_with_cache(rows[130:])
            final = model(rows[130:])[:, -1].log_softmax(-1)
        target = cache["blocks.2.hook_resid_post"]
        for entry in range(3):
            stream = cache[f"blocks.{entry}.hook_resid_pre"]
            bare = (stream - target).square().mean()
            assert (translators(stream, entry) - target).square().mean() < 0.7 * bare

        def divergence(lens: Any) -> Any:
            read = logit_lens(model, rows[130:], return_type="log_probs", lens=lens).readout.values
            return (final.exp() * (final - read)).sum(-1).mean(-1)

        assert (divergence(translators)[:-1] < divergence(None)[:-1]).all()

    def test_the_last_one_changes_nothing(self, rows: Any) -> None:
        model = native()
        translators = fit_translators(model, rows, ridge=1e-9)
        torch.testing.assert_close(translators.weight[-1], torch.eye(16), atol=1e-3, rtol=0)
        torch.testing.assert_close(translators.bias[-1], torch.zeros(16), atol=1e-3, rtol=0)

    def test_a_model_that_is_affine_is_found_exactly(self, rows: Any) -> None:
        """Blocks that write a constant: the final stream is the first one plus that."""
        model = native(normalization_type=None, attn_only=True)
        with torch.no_grad():
            for block in model.blocks:
                block.attn.o.original_component.weight.zero_()
                block.attn.o.original_component.bias.fill_(0.5)
        translators = fit_translators(model, rows, ridge=1e-10)
        torch.testing.assert_close(translators.weight[0], torch.eye(16), atol=1e-2, rtol=0)
        torch.testing.assert_close(translators.bias[0], torch.full((16,), 1.5), atol=1e-2, rtol=0)
