"""Scores from OV circuits: equal to the dense circuit, right for hand-made weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
warnings.filterwarnings("ignore")

from test_lab_patching import gpt2, llama, native  # noqa: E402

from mihack.lab.heads import copying_score  # noqa: E402
from mihack.lab.ov_circuits import (  # noqa: E402
    copying,
    copying_eigenvalues,
    effective_embedding,
    ov_scores,
    successor,
)


def varied(model: Any) -> Any:
    """Random weights everywhere, the norms' too, so that forgetting one shows."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.4)
    return model


@pytest.fixture(params=["native", "rms", "bare", "gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    makers = {
        "native": native,
        "rms": lambda: native(normalization_type="RMS"),
        "bare": lambda: native(normalization_type=None, attn_only=True),
        "gpt2": lambda: gpt2(tmp_path),
        "llama": lambda: llama(tmp_path),
    }
    return varied(makers[request.param]())


def dense(model: Any, layer: int) -> Any:
    """[head, vocab, vocab], written out with the norms as matrices."""
    size = model.cfg.d_model
    eye = torch.eye(size)
    layer_norm = model.cfg.normalization_type == "LN"
    centre = eye - 1 / size if layer_norm else eye

    def gain(norm: Any) -> Any:
        return eye if model.cfg.normalization_type is None else norm.weight.detach().diag()

    reads = model.W_E @ centre @ gain(model.blocks[layer].ln1)
    writes = centre @ gain(model.ln_final) @ model.W_U
    per_key = model.W_V[layer]
    values = torch.stack([per_key[h * len(per_key) // model.cfg.n_heads] for h in range(model.cfg.n_heads)])
    circuit = reads @ values @ model.W_O[layer] @ writes
    return (circuit - circuit.mean(-1, keepdim=True)).detach()


class TestEqualToTheDenseCircuit:
    def test_copying(self, model: Any) -> None:
        found = copying(model)
        for layer in range(3):
            wanted = copying_score(dense(model, layer))
            torch.testing.assert_close(found[layer], wanted, atol=1e-4, rtol=1e-3)
        assert found.std() > 1e-3

    def test_copying_averaged_over_some_tokens(self, model: Any) -> None:
        some = torch.tensor([3, 9, 21])
        circuit = dense(model, 1)
        z = circuit / circuit.std(-1, keepdim=True)
        wanted = z[:, some, some].mean(-1)
        torch.testing.assert_close(copying(model, some)[1], wanted, atol=1e-4, rtol=1e-3)

    def test_eigenvalues(self, model: Any) -> None:
        found = copying_eigenvalues(model)
        for layer in range(3):
            eigenvalues = torch.linalg.eigvals(dense(model, layer).double())
            wanted = eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1)
            torch.testing.assert_close(found[layer].double(), wanted, atol=1e-3, rtol=1e-3)

    def test_successor(self, model: Any) -> None:
        days = torch.tensor([5, 7, 11, 30, 2])
        found = successor(model, days, embedding=model.W_E, cyclic=True)
        for layer in range(3):
            among = dense(model, layer)[:, days][:, :, days].argmax(-1)
            wanted = (among == torch.tensor([1, 2, 3, 4, 0])).float().mean(-1)
            torch.testing.assert_close(found[layer], wanted)

    def test_folding_the_weights_in_place_changes_nothing(self, tmp_path: Path) -> None:
        """``enable_compatibility_mode`` folds norms and centres: the scores had done so already."""
        model = varied(gpt2(tmp_path))
        before = ov_scores(model)
        model.enable_compatibility_mode()
        after = ov_scores(model)
        torch.testing.assert_close(before["copying"], after["copying"], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(before["OV eigenvalues"], after["OV eigenvalues"], atol=1e-3, rtol=1e-3)


class TestHandMadeHeads:
    @pytest.fixture
    def one_hot(self) -> Any:
        """Tokens are directions; head 0.0 writes back what it reads, 0.1 its negative, 0.2 the next one."""
        size = 12
        model = native(n_layers=1, n_heads=4, d_head=size, d_model=size, d_vocab=size,
                       normalization_type=None, attn_only=True)  # fmt: skip
        with torch.no_grad():
            model.embed.original_component.weight.copy_(torch.eye(size))
            model.unembed.original_component.weight.copy_(torch.eye(size))
            attn = model.blocks[0].attn
            attn.v.original_component.weight.copy_(torch.eye(size).repeat(4, 1))
            following = torch.eye(size).roll(1, 0)
            out = [torch.eye(size), -torch.eye(size), following, torch.randn(size, size)]
            attn.o.original_component.weight.copy_(torch.cat(out, 1))
        return model

    def test_a_copier(self, one_hot: Any) -> None:
        found = ov_scores(one_hot)
        assert found["OV eigenvalues"][0, 0] == pytest.approx(1, abs=1e-4)
        assert found["OV eigenvalues"][0, 1] == pytest.approx(-1, abs=1e-4)
        assert abs(found["OV eigenvalues"][0, 2]) < 0.1
        best = (12 - 1) / 12**0.5  # a one-hot row of 12, standardised
        assert found["copying"][0, 0] == pytest.approx(best, abs=1e-3)
        assert found["copying"][0, 1] == pytest.approx(-best, abs=1e-3)
        assert abs(found["copying"][0, 2]) < 0.5

    def test_a_successor(self, one_hot: Any) -> None:
        found = successor(one_hot, torch.arange(12), cyclic=True)
        assert found[0, 2] == 1
        assert found[0, 0] == found[0, 1] * 0 == 0
        assert successor(one_hot, torch.arange(11, -1, -1))[0, 2] == 0  # backwards

    def test_two_tokens_are_no_sequence(self, one_hot: Any) -> None:
        with pytest.raises(ValueError, match="three"):
            successor(one_hot, torch.tensor([1, 2]))


class TestLimits:
    def test_other_tokens_out_than_in_are_refused(self) -> None:
        model = native(d_vocab_out=7)
        with pytest.raises(ValueError, match="40 tokens in, 7 out"):
            copying(model)

    def test_a_vocabulary_squared_is_never_formed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """20,000 tokens: the full circuit of one head alone would be 1.6 GB; nothing here reaches 10 MB."""
        model = native(d_vocab=20_000, n_layers=1)
        largest = 0

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, call: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
                nonlocal largest
                out = call(*args, **(kwargs or {}))
                if isinstance(out, torch.Tensor):
                    largest = max(largest, out.numel() * out.element_size())
                return out

        with Watch():
            ov_scores(model)
        assert 0 < largest < 10e6

    def test_the_effective_embedding_adds_what_the_first_mlp_says(self, model: Any) -> None:
        found = effective_embedding(model)
        assert found.shape == model.W_E.shape
        if model.cfg.attn_only:
            assert torch.equal(found, model.W_E)
            return
        with torch.no_grad():
            wanted = model.W_E + model.blocks[0].mlp(model.blocks[0].ln2(model.W_E[None]))[0]
        torch.testing.assert_close(found, wanted)
        assert (found - model.W_E).abs().max() > 0.1
