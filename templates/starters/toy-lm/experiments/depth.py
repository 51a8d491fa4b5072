"""A task that needs one more layer: looking a value up by its key.

    python experiment.py               the run that expected.json describes
    python experiment.py --pairs 8     a longer list to look up in
    python experiment.py --seed 1      another seed

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## One layer cannot, two can: is it really the depth?
#
# A row lists pairs "key value", then asks for the value of each key in another order. To answer, a head
# must find the place where the value stands by the key before it. An attention layer reads what stands at
# a place, not what stands beside it; so one layer must first carry the key over to the value's place, and
# only the next can look it up (K-composition: Elhage et al. 2021, A Mathematical Framework for Transformer
# Circuits; the same step makes induction heads). A claim about depth needs a rival: a one-layer model
# with as many heads and more width.

# %%
from functools import partial

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import heads, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
PAIRS = 4  # pairs in a list; as many questions follow
SYMBOLS = 20  # symbols for keys and values alike; with few of them training stalls
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
BATCH = 64  # rows in a step
STEPS = 400  # training steps
LR = 3e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data
#
# All symbols of a list are different, so that nothing but the list says which value belongs to which key.

# %%
LIST = 3 * PAIRS  # "key value ," each
LENGTH = LIST + 2 * PAIRS
COMMA = SYMBOLS


def sample(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [row, position] (list, then questions) and the place of each asked value [row, pair]."""
    symbols = torch.rand(rows, SYMBOLS, generator=generator).argsort(-1)[:, : 2 * PAIRS]
    order = torch.rand(rows, PAIRS, generator=generator).argsort(-1)
    asked = torch.stack([symbols.gather(1, 2 * order), symbols.gather(1, 2 * order + 1)], -1).flatten(1)
    listed = F.pad(symbols.view(rows, PAIRS, 2), (0, 1), value=COMMA).flatten(1)
    return torch.cat([listed, asked], 1).to(device), (3 * order + 1).to(device)


test, value_place = sample(512, torch.Generator().manual_seed(10_000 + SEED))
ASK = torch.arange(LIST, LENGTH, 2, device=device)  # positions of the asked keys


def build(layers: int, wider: int = 1) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=wider * D_MODEL, d_head=D_MODEL // HEADS, n_heads=wider * HEADS, n_layers=layers,
        n_ctx=LENGTH, d_vocab=SYMBOLS + 1, attn_only=True, normalization_type="LN",
        positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / (wider * D_MODEL) ** 0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def answer_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, ASK].flatten(0, 1), tokens[:, ASK + 1].flatten())


def accuracy(logits: torch.Tensor) -> float:
    """Share of asked values that are right."""
    return (logits[:, ASK].argmax(-1) == test[:, ASK + 1]).float().mean().item()


def fit(label: str, layers: int, wider: int = 1) -> tuple[TransformerBridge, dict]:
    model = build(layers, wider)
    generator = torch.Generator().manual_seed(SEED)

    def loss_at(step: int) -> torch.Tensor:
        tokens, _ = sample(BATCH, generator)
        return answer_loss(model(tokens), tokens)

    return model, train(
        model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True, label=label,
        evaluate=lambda: {"accuracy": accuracy(model(test))}, every=max(1, STEPS // 35),
    )  # fmt: skip


# %% [markdown]
# ### Depth against width

# %%
model, history = fit("2 layers", 2)
one, one_history = fit("1 layer", 1)
_, wide_history = fit("1 layer, twice as wide", 1, wider=2)
metrics = {
    "two_layers": history["accuracy"][-1],
    "one_layer": one_history["accuracy"][-1],
    "one_layer_wide": wide_history["accuracy"][-1],
}

# %% [markdown]
# ### The circuit: who carries the key, who looks up?

# %%
with torch.no_grad():
    logits, cache = model.run_with_cache(test)
    _, one_cache = one.run_with_cache(test)
keys = torch.zeros(len(test), LENGTH, LENGTH, dtype=torch.bool, device=device)
for part in (-1, 0, 1):  # the pair is three tokens wide; a comma can hold what was gathered
    keys[torch.arange(len(test))[:, None], ASK, value_place + part] = True  # [row, query, key]
previous = torch.zeros_like(keys)
starts = torch.arange(0, LIST, 3)
for place in (1, 2):  # from the value, or from the comma, back to the key
    previous[:, starts + place, starts] = True
lookup = torch.stack([heads.attention_to(cache["pattern", l], keys) for l in range(2)])  # [layer, head]
carry = torch.stack([heads.attention_to(cache["pattern", l], previous) for l in range(2)])
metrics["lookup_score"] = lookup[1].max().item()
metrics["lookup_score_one_layer"] = heads.attention_to(one_cache["pattern", 0], keys).max().item()
metrics["carry_score"] = carry[0].max().item()
finder, carrier = int(lookup[1].argmax()), int(carry[0].argmax())
print(f"look-up head 1.{finder}, carrying head 0.{carrier}")

# %% [markdown]
# ### Where must the first layer have written?
#
# Remove what layer 0 adds, but only at some places: behind the keys of the list (where they should have
# been carried: the values and commas), at the keys of the list, or at the questions.
# If the story is right, only the first hurts.


# %%
def drop(attn_out: torch.Tensor, hook: HookPoint, places: torch.Tensor) -> torch.Tensor:
    """attn_out: [row, position, d_model]; the mean over rows and positions at some places."""
    attn_out[:, places] = attn_out.mean((0, 1))
    return attn_out


@torch.no_grad()
def accuracy_without(places: torch.Tensor) -> float:
    hook = ("blocks.0.hook_attn_out", partial(drop, places=places))
    return accuracy(model.run_with_hooks(test, fwd_hooks=[hook]))


starts = torch.arange(0, LIST, 3, device=device)
after = torch.cat([starts + 1, starts + 2])
conditions = {
    "nowhere": accuracy_without(after[:0]),
    "value, comma": accuracy_without(after),
    "keys": accuracy_without(starts),
    "questions": accuracy_without(ASK),
}
metrics["dropped_at_values"] = conditions["value, comma"]
metrics["dropped_at_keys"] = conditions["keys"]
metrics["noop_change"] = abs(conditions["nowhere"] - metrics["two_layers"])

# %%
fig, axes = plots.figure(2, 3, "Looking a value up by its key: one layer or two")
curves = {"step": history["step"], "2 layers": history["accuracy"], "1 layer": one_history["accuracy"]}
curves["1 layer, wide"] = wide_history["accuracy"]
guess = {"guessing a value of the list": 1 / PAIRS}
plots.loss_curves(
    axes[0], curves, ["2 layers", "1 layer", "1 layer, wide"], title="Values found", y="accuracy",
    log=False, marks=guess,
)  # fmt: skip
rivals = {
    "2 layers": metrics["two_layers"], "1 layer": metrics["one_layer"],
    "1 layer, wide": metrics["one_layer_wide"],
}  # fmt: skip
plots.bars(axes[1], rivals, "Depth against width", y="accuracy", highlight=["2 layers"], marks=guess)
plots.heatmap(
    axes[2], torch.cat([carry, lookup]), "Head scores", x="head", numbers=True, limits=(0, 1),
    y_ticks=["carry 0", "carry 1", "look-up 0", "look-up 1"],
)  # fmt: skip
half = slice(0, LIST)
plots.attention(
    axes[3], cache["pattern", 0][0, carrier][half, half], test[0, half].tolist(),
    f"Head 0.{carrier}, the list",
)
plots.heatmap(
    axes[4], cache["pattern", 1][0, finder][LIST:, half], f"Head 1.{finder}, the questions", x="list",
    y="question", x_ticks=test[0, half].tolist(), y_ticks=test[0, LIST:].tolist(), limits=(0, 1),
)  # fmt: skip
axes[4].tick_params(labelsize=6)
plots.bars(
    axes[5], conditions, "Layer 0 dropped at ...", y="accuracy", highlight=["value, comma"], marks=guess
)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
