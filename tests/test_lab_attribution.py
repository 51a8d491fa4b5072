"""Edge attribution with integrated gradients: right where the answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from test_lab_patching import gpt2, llama  # noqa: E402
from transformer_lens import TransformerBridgeConfig  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

from mihack.lab.agreement import agreement  # noqa: E402
from mihack.lab.attribution import (  # noqa: E402
    Node,
    edge_attribution,
    edge_patching,
    precedes,
    readers,
    strongest,
    writers,
)
from mihack.lab.patching import logit_difference  # noqa: E402

METRIC = logit_difference(torch.tensor([3, 4]), torch.tensor([5, 6]))


def model(**changes: Any) -> Any:
    torch.manual_seed(0)
    settings = {"n_layers": 3, "d_model": 16, "n_heads": 2, "d_head": 8, "d_vocab": 30, "n_ctx": 8,
                "act_fn": "gelu", "seed": 0, **changes}  # fmt: skip
    made = TransformerBridge.boot_native(TransformerBridgeConfig(**settings)).eval()
    with torch.no_grad():
        for weight in made.parameters():
            torch.nn.init.normal_(weight, std=0.4)
    return made


@pytest.fixture
def prompts() -> tuple[Any, Any]:
    clean = torch.randint(0, 30, (2, 6), generator=torch.Generator().manual_seed(1))
    corrupted = clean.clone()
    corrupted[:, 1] = (clean[:, 1] + 7) % 30
    return clean, corrupted


def silence(made: Any, *, heads: set[tuple[int, int]], mlps: set[int]) -> None:
    """Let only these components write."""
    with torch.no_grad():
        for layer, block in enumerate(made.blocks):
            out = block.attn.o.original_component.weight  # [d_model, head * d_head]
            for head in range(2):
                if (layer, head) not in heads:
                    out[:, head * 8 : (head + 1) * 8] = 0
            if block.attn.o.original_component.bias is not None:
                block.attn.o.original_component.bias.zero_()
            if layer not in mlps:
                for parameter in block.mlp.out.original_component.parameters():
                    parameter.zero_()


class TestTheGraph:
    def test_an_edge_runs_forward_only(self) -> None:
        head, mlp = Node(1, "head", 0), Node(1, "mlp")
        assert precedes(Node(-1, "embed"), Node(0, "attn"))
        assert precedes(head, mlp)
        assert not precedes(head, mlp, parallel=True)
        assert not precedes(mlp, Node(1, "attn"))
        assert not precedes(mlp, mlp)
        assert precedes(mlp, Node(3, "logits"))

    def test_every_writer_and_reader_is_there(self) -> None:
        made = model()
        assert len(list(writers(made))) == 1 + 3 * (2 + 1)
        assert len(list(readers(made))) == 3 * 2 + 1
        assert len(list(readers(model(attn_only=True)))) == 3 + 1


class TestPlantedCircuits:
    def test_edges_of_silent_components_score_nothing(self, prompts: tuple[Any, Any]) -> None:
        made = model()
        silence(made, heads={(0, 1), (2, 0)}, mlps={1})
        edges = edge_attribution(made, *prompts, METRIC)
        alive = {Node(-1, "embed"), Node(0, "head", 1), Node(2, "head", 0), Node(1, "mlp")}
        assert all(score == 0 for (writer, _), score in edges.items() if writer not in alive)
        assert {writer for writer, _ in strongest(edges, 6)} <= alive

    def test_a_chain_is_found(self, prompts: tuple[Any, Any]) -> None:
        """The prompts differ at position 1 and only two heads write: they alone reach the end."""
        made = model(attn_only=True, normalization_type=None)
        with torch.no_grad():
            for layer, block in enumerate(made.blocks):
                out = block.attn.o.original_component.weight
                for head in range(2):
                    if (layer, head) not in {(0, 1), (2, 0)}:
                        out[:, head * 8 : (head + 1) * 8] = 0
        edges = edge_attribution(made, *prompts, METRIC, steps=20)
        found = {(str(writer), str(reader)) for writer, reader in strongest(edges, 4)}
        assert ("2.0", "logits") in found
        assert edges[Node(-1, "embed"), Node(3, "logits")] == pytest.approx(0, abs=1e-5)  # other position

    def test_what_goes_straight_to_the_logits_is_exact_without_a_norm(self, prompts: tuple[Any, Any]) -> None:
        made = model(normalization_type=None)
        edges = edge_attribution(made, *prompts, METRIC, steps=3)
        with torch.no_grad():
            outs = [made.run_with_cache(tokens)[1]["blocks.2.hook_mlp_out"][:, -1] for tokens in prompts]
            direction = made.W_U[:, [3, 4]] - made.W_U[:, [5, 6]]
            wanted = ((outs[0] - outs[1]) * direction.T).sum(-1).mean().item()
        assert edges[Node(2, "mlp"), Node(3, "logits")] == pytest.approx(wanted, rel=1e-3)

    def test_scores_into_the_logits_add_up_to_the_whole_change_without_a_norm(
        self, prompts: tuple[Any, Any]
    ) -> None:
        made = model(normalization_type=None)
        edges = edge_attribution(made, *prompts, METRIC, steps=1)
        with torch.no_grad():
            clean, corrupted = (METRIC(made(tokens)[:, -1][None]).item() for tokens in prompts)
        total = sum(score for (_, reader), score in edges.items() if reader.kind == "logits")
        assert total == pytest.approx(clean - corrupted, rel=1e-3)


class TestControls:
    def test_equal_prompts_score_nothing(self, prompts: tuple[Any, Any]) -> None:
        edges = edge_attribution(model(), prompts[0], prompts[0], METRIC)
        assert set(edges.values()) == {0.0}

    def test_more_steps_come_closer_to_the_integral(self, prompts: tuple[Any, Any]) -> None:
        """Along the path from embedding to first reader the integral is what patching that input does."""
        made = model()
        fine = edge_attribution(made, *prompts, METRIC, steps=200)
        errors = [
            sum(
                abs(edge_attribution(made, *prompts, METRIC, steps=steps)[edge] - fine[edge]) for edge in fine
            )
            for steps in (1, 5, 25)
        ]
        assert errors[0] > errors[1] > errors[2]

    def test_prompts_of_unequal_length_are_refused(self, prompts: tuple[Any, Any]) -> None:
        with pytest.raises(ValueError, match="one shape"):
            edge_attribution(model(), prompts[0], prompts[1][:, 1:], METRIC)


class TestOnLanguageModels:
    @pytest.mark.parametrize("made", [gpt2, llama])
    def test_estimate_and_exact_agree_on_hub_architectures(
        self, made: Any, prompts: tuple[Any, Any], tmp_path: Path
    ) -> None:
        bridge = made(tmp_path)
        exact = edge_patching(bridge, *prompts, METRIC)
        found = agreement(exact, edge_attribution(bridge, *prompts, METRIC, steps=20), baseline=0)
        assert found.spearman > 0.8
        assert found.sign > 0.8


class TestExactEdges:
    @pytest.mark.parametrize("reader", [Node(1, "attn"), Node(2, "mlp"), Node(3, "logits")])
    def test_an_edge_is_what_a_whole_run_with_that_input_changed_gives(
        self, prompts: tuple[Any, Any], reader: Node
    ) -> None:
        made = model()
        _, corrupted = prompts
        names = {
            "attn": "blocks.{}.ln1.hook_in",
            "mlp": "blocks.{}.ln2.hook_in",
            "logits": "ln_final.hook_in",
        }
        exact = edge_patching(made, *prompts, METRIC)
        with torch.no_grad():
            before = METRIC(made(corrupted)[:, -1][None]).item()
            z = [made.run_with_cache(tokens)[1]["blocks.0.attn.hook_z"][:, :, 1] for tokens in prompts]
            added = (z[0] - z[1]) @ made.W_O[0, 1]
            site = names[reader.kind].format(reader.layer)
            logits = made.run_with_hooks(
                corrupted, fwd_hooks=[(site, lambda value, hook=None: value + added)]
            )
        wanted = METRIC(logits[:, -1][None]).item() - before
        assert wanted != 0
        assert exact[Node(0, "head", 1), reader] == pytest.approx(wanted, abs=1e-4)

    @pytest.mark.parametrize("tokens_at_once", [1, 40])
    def test_however_they_are_stacked(self, prompts: tuple[Any, Any], tokens_at_once: int) -> None:
        made = model()
        whole = edge_patching(made, *prompts, METRIC)
        parts = edge_patching(made, *prompts, METRIC, tokens_at_once=tokens_at_once)
        assert parts == pytest.approx(whole, abs=1e-4)

    def test_only_the_edges_asked_for_are_patched(self, prompts: tuple[Any, Any]) -> None:
        edge = (Node(0, "mlp"), Node(2, "attn"))
        assert list(edge_patching(model(), *prompts, METRIC, [edge])) == [edge]

    def test_the_estimate_goes_with_them(self, prompts: tuple[Any, Any]) -> None:
        made = model()
        exact = edge_patching(made, *prompts, METRIC)
        found = agreement(exact, edge_attribution(made, *prompts, METRIC, steps=10), baseline=0)
        shuffled = dict(zip(exact, sorted(exact.values(), key=lambda value: str(value)[::-1]), strict=True))
        assert found.spearman > 0.5 > abs(agreement(exact, shuffled, baseline=0).spearman)
