"""The model that the lab's benchmarks measure: GPT-2 Small's shape, random weights, no download."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge


def gpt2_shaped() -> Any:
    """A TransformerBridge of GPT-2 Small's shape with random weights."""
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(attn_implementation="eager")).eval()
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="a", eos_token="b")
        fast.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model).eval()
