"""Patching that runs only what a patch can change gives what running everything gives."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
warnings.filterwarnings("ignore")

import transformers  # noqa: E402
from transformer_lens import TransformerBridgeConfig, patching  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

from mihack.lab.patching import Patcher, Rerun, logit_difference  # noqa: E402

VOCABULARY, POSITIONS = 40, 7


def native(**changes: Any) -> Any:
    settings = {"n_layers": 3, "d_model": 16, "n_heads": 2, "d_head": 8, "d_vocab": VOCABULARY, "n_ctx": 12,
                "act_fn": "gelu", "seed": 0, **changes}  # fmt: skip
    torch.manual_seed(0)
    return TransformerBridge.boot_native(TransformerBridgeConfig(**settings)).eval()


def gpt2(folder: Path) -> Any:
    config = transformers.GPT2Config(n_layer=3, n_head=2, n_embd=16, vocab_size=VOCABULARY, n_positions=16,
                                     attn_implementation="eager")  # fmt: skip
    return bridged(transformers.GPT2LMHeadModel(config), folder)


def llama(folder: Path) -> Any:
    """Rotary positions, and two query heads to each key head."""
    config = transformers.LlamaConfig(
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_size=16,
        intermediate_size=32, vocab_size=VOCABULARY, max_position_embeddings=16, attn_implementation="eager",
    )  # fmt: skip
    return bridged(transformers.LlamaForCausalLM(config), folder)


def bridged(model: Any, folder: Path) -> Any:
    torch.manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # away from the tiny initial values, so that errors show
    model.eval().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), hf_model=model).eval()


def tokenizer() -> Any:
    """A tokenizer of one-letter words, since none can be fetched."""
    from tokenizers import Tokenizer, models

    words = {f"w{n}": n for n in range(VOCABULARY)}
    plain = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="w0", eos_token="w1")


@pytest.fixture(params=["native", "rotary", "gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    makers = {
        "native": native,
        "rotary": lambda: native(positional_embedding_type="rotary", rotary_dim=8),
        "gpt2": lambda: gpt2(tmp_path),
        "llama": lambda: llama(tmp_path),
    }
    return makers[request.param]()


@pytest.fixture
def prompts() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, VOCABULARY, (2, POSITIONS), generator=generator)
    corrupted = clean.clone()
    corrupted[:, 2] = (clean[:, 2] + 5) % VOCABULARY
    corrupted[1, 4] = (clean[1, 4] + 9) % VOCABULARY
    return clean, corrupted


ANSWERS, OTHERS = torch.tensor([3, 4]), torch.tensor([5, 6])
METRIC = logit_difference(ANSWERS, OTHERS)


def slow_metric(logits: Any) -> Any:
    rows = torch.arange(2)
    return (logits[rows, -1, ANSWERS] - logits[rows, -1, OTHERS]).mean()


def slow(name: str, model: Any, prompts: tuple[Any, Any]) -> Any:
    """What TransformerLens's own sweep finds."""
    clean, corrupted = prompts
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        return getattr(patching, f"get_act_patch_{name}")(model, corrupted, cache, slow_metric)


class TestEqualToTransformerLens:
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("resid_pre", "resid_pre"),
            ("attn_out", "attn_out"),
            ("mlp_out", "mlp_out"),
            ("heads", "attn_head_out_all_pos"),
            ("heads_by_position", "attn_head_out_by_pos"),
        ],
    )
    def test_every_map(self, model: Any, prompts: tuple[Any, Any], ours: str, theirs: str) -> None:
        found = getattr(Patcher(model, *prompts, METRIC), ours)()
        wanted = slow(theirs, model, prompts)
        assert found.shape == wanted.shape
        assert wanted.std() > 1e-3  # there is something to get wrong
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("tokens_at_once", [1, 30, 10_000])
    def test_however_the_cells_are_stacked(
        self, model: Any, prompts: tuple[Any, Any], tokens_at_once: int
    ) -> None:
        one = Patcher(model, *prompts, METRIC, tokens_at_once=tokens_at_once)
        torch.testing.assert_close(
            one.heads(), Patcher(model, *prompts, METRIC).heads(), atol=1e-5, rtol=1e-4
        )

    def test_the_baselines_are_the_models_own(self, model: Any, prompts: tuple[Any, Any]) -> None:
        clean, corrupted = Patcher(model, *prompts, METRIC).baseline()
        with torch.no_grad():
            assert clean == pytest.approx(slow_metric(model(prompts[0])).item(), abs=1e-4)
            assert corrupted == pytest.approx(slow_metric(model(prompts[1])).item(), abs=1e-4)

    def test_the_metric_may_look_at_another_position(self, model: Any, prompts: tuple[Any, Any]) -> None:
        at = 3

        def metric(logits: Any) -> Any:
            rows = torch.arange(2)
            return (logits[rows, at, ANSWERS] - logits[rows, at, OTHERS]).mean()

        clean, corrupted = prompts
        with torch.no_grad():
            _, cache = model.run_with_cache(clean)
            wanted = patching.get_act_patch_attn_head_out_by_pos(model, corrupted, cache, metric)
        found = Patcher(model, *prompts, METRIC, at=at).heads_by_position()
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        assert (found[:, at + 1 :] == found[0, -1, 0]).all()  # what comes later changes nothing


class TestControls:
    def test_a_prompt_patched_into_itself_changes_nothing(self, model: Any, prompts: tuple[Any, Any]) -> None:
        clean, _ = prompts
        same = Patcher(model, clean, clean, METRIC)
        for cells in (same.resid_pre(), same.heads(), same.heads_by_position()):
            torch.testing.assert_close(
                cells, torch.full_like(cells, same.baseline()[0]), atol=1e-4, rtol=1e-4
            )

    def test_the_whole_stream_at_the_last_position_before_the_end_is_the_clean_answer_there(
        self, model: Any
    ) -> None:
        """With prompts that differ at the last position only, its stream is all there is to restore."""
        clean = torch.randint(0, VOCABULARY, (2, POSITIONS), generator=torch.Generator().manual_seed(3))
        corrupted = clean.clone()
        corrupted[:, -1] = (clean[:, -1] + 1) % VOCABULARY
        patcher = Patcher(model, clean, corrupted, METRIC)
        restored = patcher.resid_pre()
        torch.testing.assert_close(
            restored[:, -1], torch.full_like(restored[:, -1], patcher.baseline()[0]), atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            restored[:, :-1], torch.full_like(restored[:, :-1], patcher.baseline()[1]), atol=1e-4, rtol=1e-4
        )

    def test_prompts_of_unequal_length_are_refused(self, model: Any, prompts: tuple[Any, Any]) -> None:
        with pytest.raises(ValueError, match="align them"):
            Patcher(model, prompts[0], prompts[1][:, 1:], METRIC)

    def test_the_model_is_left_as_it_was(self, model: Any, prompts: tuple[Any, Any]) -> None:
        with torch.no_grad():
            before = model(prompts[0])
            Patcher(model, *prompts, METRIC).heads()
            assert torch.equal(before, model(prompts[0]))

    def test_a_model_that_does_more_between_its_blocks_is_refused(self, prompts: tuple[Any, Any]) -> None:
        model = native()
        model.blocks[1].register_forward_hook(lambda _m, _a, out: (out[0] + torch.randn_like(out[0]),))
        with pytest.raises(ValueError, match="not supported"):
            Rerun.of(model, prompts[0])
