"""Path patching gives what running everything with hooks gives, and finds what was planted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
warnings.filterwarnings("ignore")

import transformers  # noqa: E402
from test_lab_patching import VOCABULARY, bridged, gpt2, llama, slow_metric  # noqa: E402
from test_lab_patching import native as small_native  # noqa: E402
from transformer_lens import patching  # noqa: E402

from mihack.lab.attribution import Node, edge_patching  # noqa: E402
from mihack.lab.patching import logit_difference  # noqa: E402
from mihack.lab.paths import PathPatcher  # noqa: E402

METRIC = logit_difference(torch.tensor([3, 4]), torch.tensor([5, 6]))
LAYERS = 3


def loud(made: Any) -> Any:
    """The same model with large weights, so that every path says something and errors show."""
    torch.manual_seed(1)
    for name, weight in made.named_parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.4)
        else:
            weight.data.fill_(0.0 if name.endswith("bias") else 0.8)
    return made


def neox(folder: Path) -> Any:
    """MLPs that stand beside attention and do not see what its heads write."""
    config = transformers.GPTNeoXConfig(
        num_hidden_layers=3, num_attention_heads=2, hidden_size=16, intermediate_size=32,
        vocab_size=VOCABULARY, max_position_embeddings=16, attn_implementation="eager",
    )  # fmt: skip
    return bridged(transformers.GPTNeoXForCausalLM(config), folder)


def native(**changes: Any) -> Any:
    return loud(small_native(**changes))


MAKERS = {
    "native": lambda _: native(),
    "rotary": lambda _: native(positional_embedding_type="rotary", rotary_dim=8),
    "native grouped": lambda _: native(n_heads=4, d_head=4, n_key_value_heads=2),
    "gpt2": lambda folder: loud(gpt2(folder)),
    "llama": lambda folder: loud(llama(folder)),
    "parallel": lambda folder: loud(neox(folder)),
}


@pytest.fixture(params=list(MAKERS))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MAKERS[request.param](tmp_path)


def pair() -> tuple[Any, Any]:
    """Two prompts and their corrupted versions, which differ from position 2 on."""
    clean = torch.randint(0, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
    corrupted = clean.clone()
    corrupted[:, 2] = (clean[:, 2] + 5) % VOCABULARY
    corrupted[1, 3] = (clean[1, 3] + 9) % VOCABULARY
    return clean, corrupted


@pytest.fixture
def prompts() -> tuple[Any, Any]:
    return pair()


def hook_of(receiver: Node) -> str:
    sites = {"mlp": "hook_mlp_out", "attn": "attn.hook_z", **{kind: f"attn.hook_{kind}" for kind in "qkv"}}
    return f"blocks.{receiver.layer}.{sites[receiver.kind]}"


@torch.no_grad()
def literal(
    model: Any, prompts: tuple[Any, Any], sender: tuple[int, int], receivers: list[Node], mlps: bool = False
) -> float:
    """Algorithm 1 of Wang et al.: four whole runs, everything frozen but the sender."""
    caches = [model.run_with_cache(tokens)[1] for tokens in prompts]
    seen = {}

    def freeze(name: str) -> Any:
        def hook(value: Any, hook: Any = None) -> Any:
            seen[name] = value.clone()
            kept = caches[1][name].clone()
            if name == f"blocks.{sender[0]}.attn.hook_z":
                kept[:, :, sender[1]] = caches[0][name][:, :, sender[1]]
            return kept

        return name, hook

    def look(name: str) -> Any:
        return name, lambda value, hook=None: seen.update({name: value.clone()})

    sites = ["attn.hook_z"] + ([] if mlps else ["hook_mlp_out"])
    frozen = [freeze(f"blocks.{layer}.{site}") for layer in range(LAYERS) for site in sites]
    wanted = [hook_of(node) for node in receivers if node.kind != "logits"]
    looks = [look(name) for name in dict.fromkeys(wanted) if name not in dict(frozen)]
    logits = model.run_with_hooks(prompts[1], fwd_hooks=looks + frozen)
    if receivers[0].kind == "logits":
        return slow_metric(logits).item()

    def give(value: Any, hook: Any) -> Any:
        value = value.clone()
        for node in receivers:
            if node.kind in "qkv" and node.layer == hook[1]:
                group = node.head // (model.cfg.n_heads // value.shape[2])
                value[:, :, group] = seen[hook[0]][:, :, group]
            elif node.layer == hook[1]:
                value = seen[hook[0]]
        return value

    def others_keep(value: Any, layer: int) -> Any:
        kept = caches[1][f"blocks.{layer}.attn.hook_z"].clone()
        for node in receivers:
            if node.layer == layer:
                kept[:, :, node.head] = value[:, :, node.head]
        return kept

    hooks = [
        (hook_of(node), lambda value, hook=None, node=node: give(value, (hook_of(node), node.layer)))
        for node in {node.layer: node for node in receivers}.values()
    ]
    if receivers[0].kind in "qkv" and len({node.layer for node in receivers}) == 1:
        layer = receivers[0].layer
        z = f"blocks.{layer}.attn.hook_z"
        hooks.append((z, lambda value, hook=None: others_keep(value, layer)))
    return slow_metric(model.run_with_hooks(prompts[1], fwd_hooks=hooks)).item()


def before(receiver: Node, model: Any) -> list[tuple[int, int]]:
    beside = bool(getattr(model.cfg, "parallel_attn_mlp", False))
    layers = receiver.layer + (receiver.kind == "mlp" and not beside)
    return [(layer, head) for layer in range(layers) for head in range(model.cfg.n_heads)]


class TestEqualToTheLiteralAlgorithm:
    @pytest.mark.parametrize("mlps", [False, True], ids=["one edge", "through MLPs"])
    @pytest.mark.parametrize(
        "receiver",
        [
            Node(2, "q", 1),
            Node(2, "k", 0),
            Node(1, "v", 1),
            Node(2, "mlp"),
            Node(2, "attn"),
            Node(3, "logits"),
        ],
        ids=str,
    )
    def test_every_receiver(self, model: Any, prompts: tuple[Any, Any], receiver: Node, mlps: bool) -> None:
        patcher = PathPatcher(model, *prompts, METRIC, through_mlps=mlps)
        found = patcher.into(receiver)
        wanted = torch.full_like(found, patcher.baseline())
        for layer, head in before(receiver, model):
            wanted[layer, head] = literal(model, prompts, (layer, head), [receiver], mlps)
        assert (wanted - patcher.baseline()).abs().max() > 1e-3  # there is something to get wrong
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)

    def test_several_heads_at_once(self, prompts: tuple[Any, Any]) -> None:
        """The second receiver gets what its own direct path carries, not what the first one then does."""
        made, receivers = native(), [Node(1, "q", 0), Node(2, "q", 1), Node(2, "q", 0)]
        patcher = PathPatcher(made, *prompts, METRIC)
        found = patcher.into(*receivers)
        for layer, head in before(receivers[1], made):
            wanted = literal(made, prompts, (layer, head), receivers)
            assert found[layer, head].item() == pytest.approx(wanted, abs=1e-4)
        assert (found[2] == patcher.baseline()).all()

    @pytest.mark.parametrize("tokens_at_once", [1, 30, 10_000])
    def test_however_the_senders_are_stacked(
        self, model: Any, prompts: tuple[Any, Any], tokens_at_once: int
    ) -> None:
        for mlps in (False, True):
            whole = PathPatcher(model, *prompts, METRIC, through_mlps=mlps).into(Node(2, "k", 1))
            parts = PathPatcher(model, *prompts, METRIC, through_mlps=mlps, tokens_at_once=tokens_at_once)
            torch.testing.assert_close(parts.into(Node(2, "k", 1)), whole, atol=1e-5, rtol=1e-4)


class TestEqualToTransformerLens:
    @pytest.mark.parametrize(("name", "kinds"), [("gpt2", "qkv"), ("llama", "q")])
    def test_direct_paths_into_heads(
        self, name: str, kinds: str, prompts: tuple[Any, Any], tmp_path: Path
    ) -> None:
        """Its map is of receivers, for one sender; keys that heads share it does not do."""
        model = MAKERS[name](tmp_path)
        caches = [model.run_with_cache(tokens)[1] for tokens in prompts]
        patcher = PathPatcher(model, *prompts, METRIC)
        for kind in kinds:
            with torch.no_grad():
                theirs = patching.get_act_patch_direct_path(
                    model, prompts[1], *caches, slow_metric, 0, 1, kind, verbose=False
                )
            for head in range(model.cfg.n_heads):
                found = patcher.into(Node(2, kind, head))[0, 1]
                assert found.item() == pytest.approx(theirs[2, head].item(), abs=1e-4)


class TestSums:
    def test_paths_to_the_logits_add_up_to_the_whole_change_without_a_norm(
        self, prompts: tuple[Any, Any]
    ) -> None:
        made = native(normalization_type=None)
        patcher = PathPatcher(made, *prompts, METRIC)
        heads = (patcher.into(Node(3, "logits")) - patcher.baseline()).sum().item()
        rest = [Node(-1, "embed"), *(Node(layer, "mlp") for layer in range(LAYERS))]
        edges = edge_patching(made, *prompts, METRIC, [(node, Node(3, "logits")) for node in rest])
        with torch.no_grad():
            clean, corrupted = (METRIC(made(tokens)[:, -1][None]).item() for tokens in prompts)
        assert heads + sum(edges.values()) == pytest.approx(clean - corrupted, rel=1e-3)

    def test_paths_to_a_value_add_up_to_patching_the_whole_value_where_all_is_linear(
        self, prompts: tuple[Any, Any]
    ) -> None:
        made = native(normalization_type=None, attn_only=True)
        patcher = PathPatcher(made, *prompts, METRIC)
        heads = (patcher.into(Node(2, "v", 1)) - patcher.baseline()).sum().item()
        caches = [made.run_with_cache(tokens)[1] for tokens in prompts]
        embedded = [cache["blocks.0.hook_resid_pre"] for cache in caches]
        from_embedding = (embedded[0] - embedded[1]) @ made.W_V[2, 1]

        def with_value(value: Any) -> float:
            def give(here: Any, hook: Any = None) -> Any:
                here = here.clone()
                here[:, :, 1] = value
                return here

            with torch.no_grad():
                logits = made.run_with_hooks(prompts[1], fwd_hooks=[("blocks.2.attn.hook_v", give)])
                return slow_metric(logits).item() - patcher.baseline()

        values = [cache["blocks.2.attn.hook_v"][:, :, 1] for cache in caches]
        assert heads + with_value(values[1] + from_embedding) == pytest.approx(
            with_value(values[0]), rel=1e-3
        )


def planted(kind: str) -> Any:
    """Head 0.1 writes where one input of head 1.0 reads, and nothing else reads; the rest is random.

    The stream has three parts: A holds the embeddings, B what head 0.1 writes, C what the others do.
    """
    made = native(n_layers=2, d_model=24, d_head=8, n_heads=2, attn_only=True, normalization_type=None)
    a, b, c = slice(0, 8), slice(8, 16), slice(16, 24)
    parameters = dict(made.named_parameters())
    with torch.no_grad():
        for name, weight in parameters.items():
            if "embed" in name and "unembed" not in name:
                weight[:, 8:] = 0
        for layer, block in enumerate(made.blocks):
            block.attn.o.original_component.bias.zero_()
            for head, rows in enumerate((slice(0, 8), slice(8, 16))):
                for site in "qkv":
                    weight = getattr(block.attn, site).original_component.weight  # [head, d_model]
                    is_planted = (layer, head, site) == (1, 0, kind)
                    weight[rows, c] = 0
                    weight[rows, a if is_planted else b] = 0
                out = block.attn.o.original_component.weight  # [d_model, head]
                kept = b if (layer, head) == (0, 1) else c
                out[:, rows] = torch.where(torch.arange(24)[:, None] // 8 == kept.start // 8, out[:, rows], 0)
    return made


class TestAPlantedComposition:
    @pytest.mark.parametrize("kind", ["q", "k", "v"])
    def test_is_found_at_its_input_and_only_there(self, kind: str, prompts: tuple[Any, Any]) -> None:
        patcher = PathPatcher(planted(kind), *prompts, METRIC)
        for site in "qkv":
            for head in (0, 1):
                effect = (patcher.into(Node(1, site, head)) - patcher.baseline()).abs()
                if (site, head) == (kind, 0):
                    assert effect[0, 1] > 1e-3
                    effect[0, 1] = 0
                assert effect.max() < 1e-5

    def test_the_other_head_does_reach_the_logits(self, prompts: tuple[Any, Any]) -> None:
        patcher = PathPatcher(planted("q"), *prompts, METRIC)
        assert (patcher.into(Node(2, "logits")) - patcher.baseline()).abs().min() > 1e-3


class TestControls:
    def test_a_prompt_against_itself_leaves_the_model_as_it_is(
        self, model: Any, prompts: tuple[Any, Any]
    ) -> None:
        patcher = PathPatcher(model, prompts[0], prompts[0], METRIC)
        with torch.no_grad():
            own = slow_metric(model(prompts[0])).item()
        for receiver in (Node(2, "q", 1), Node(1, "mlp"), Node(3, "logits")):
            found = patcher.into(receiver)
            torch.testing.assert_close(found, torch.full_like(found, own), atol=1e-4, rtol=1e-4)

    def test_heads_after_the_receiver_leave_the_baseline(self, prompts: tuple[Any, Any]) -> None:
        patcher = PathPatcher(native(), *prompts, METRIC)
        found = patcher.into(Node(1, "q", 0))
        assert (found[1:] == patcher.baseline()).all()
        assert (found[0] != patcher.baseline()).all()

    def test_the_metric_may_look_where_nothing_has_changed_yet(
        self, model: Any, prompts: tuple[Any, Any]
    ) -> None:
        patcher = PathPatcher(model, *prompts, METRIC, at=1)
        found = patcher.into(Node(2, "v", 0))
        torch.testing.assert_close(found, torch.full_like(found, patcher.baseline()), atol=1e-5, rtol=1e-5)

    def test_the_model_is_left_as_it_was(self, model: Any, prompts: tuple[Any, Any]) -> None:
        with torch.no_grad():
            was = model(prompts[0])
            PathPatcher(model, *prompts, METRIC).into(Node(2, "k", 0))
            assert torch.equal(was, model(prompts[0]))

    @pytest.mark.parametrize(
        "receivers",
        [
            [],
            [Node(3, "q", 0)],
            [Node(1, "q", 2)],
            [Node(1, "q")],
            [Node(0, "logits")],
            [Node(1, "head", 0)],
            [Node(1, "q", 0), Node(2, "k", 0)],
            [Node(1, "mlp"), Node(2, "mlp")],
        ],
        ids=str,
    )
    def test_receivers_that_are_not_there_are_refused(
        self, prompts: tuple[Any, Any], receivers: list[Node]
    ) -> None:
        with pytest.raises(ValueError, match="receiver"):
            PathPatcher(native(), *prompts, METRIC).into(*receivers)

    def test_prompts_of_unequal_length_are_refused(self, prompts: tuple[Any, Any]) -> None:
        with pytest.raises(ValueError, match="align them"):
            PathPatcher(native(), prompts[0], prompts[1][:, 1:], METRIC)

    def test_a_norm_between_heads_and_stream_is_refused(
        self, prompts: tuple[Any, Any], tmp_path: Path
    ) -> None:
        config = transformers.Gemma2Config(
            num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, hidden_size=16, head_dim=8,
            intermediate_size=32, vocab_size=VOCABULARY, attn_implementation="eager",
        )  # fmt: skip
        made = loud(bridged(transformers.Gemma2ForCausalLM(config), tmp_path))
        with pytest.raises(ValueError, match="not supported"):
            PathPatcher(made, *prompts, METRIC)
