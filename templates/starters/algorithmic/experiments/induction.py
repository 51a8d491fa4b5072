"""Repeated random subsequences: two attention layers form an induction head, one layer cannot.

    python experiment.py                 the run that expected.json describes
    python experiment.py --seed 1        another seed: other heads, same story
    python experiment.py --layers 3      does a third layer change which heads form?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Induction heads from repeated random tokens
#
# Each row is a block of random tokens, repeated. In the second copy every token can be foretold: find
# the last time the current token was seen, and copy what followed it. An induction head does that
# (Olsson et al. 2022, arXiv:2209.11895), with the help of a previous-token head one layer below: so two
# layers can, one layer cannot. Periods differ from row to row, so that no head can simply look a
# fixed distance back.

# %%
import math
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
LAYERS = 2  # layers of the main model; a one-layer model is always trained beside it
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
VOCABULARY = 32  # random tokens to draw blocks from
SHORTEST = 6  # shortest period, in tokens
LONGEST = 15  # longest period, in tokens
LENGTH = 32  # tokens in a row
BATCH = 64  # rows in a step
STEPS = 450  # training steps
LR = 5e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: one block per row, repeated to the end
#
# `second[row, position]` marks where the *next* token is determined, so where the loss is taken. The
# first copy is random: the best possible loss there is log(vocabulary), and nothing can be learnt.


# %%
def sample(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [row, position] and the mask of determined next tokens [row, position - 1]."""
    periods = torch.randint(SHORTEST, LONGEST + 1, (rows, 1), generator=generator)
    # distinct tokens within a block: a token says by itself where in the block it stands
    block = torch.rand(rows, VOCABULARY, generator=generator).argsort(-1)
    position = torch.arange(LENGTH)
    tokens = block.gather(1, position % periods)
    second = position[1:] >= periods
    return tokens.to(device), second.to(device)


held_out, determined = sample(256, torch.Generator().manual_seed(10_000 + SEED))

# %% [markdown]
# ### Train the model, and a one-layer model on the same data


# %%
def build(layers: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=layers, n_ctx=LENGTH,
        d_vocab=VOCABULARY, attn_only=True, normalization_type="LN",
        positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def masked_loss(logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in nats where ``mask`` is true."""
    return F.cross_entropy(logits[:, :-1][mask], tokens[:, 1:][mask])


def fit(layers: int) -> tuple[TransformerBridge, dict[str, list[float]]]:
    model = build(layers)
    generator = torch.Generator().manual_seed(SEED)

    def loss_at(step: int) -> torch.Tensor:
        tokens, mask = sample(BATCH, generator)
        return masked_loss(model(tokens), tokens, mask)

    def evaluate() -> dict[str, float]:
        return {"held_out_loss": masked_loss(model(held_out), held_out, determined).item()}

    label = f"{layers} layer{'s' if layers > 1 else ''}"
    return model, train(
        model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True, evaluate=evaluate,
        every=max(1, STEPS // 50), label=label,
    )  # fmt: skip


one, history_one = fit(1)
model, history = fit(LAYERS)

# %% [markdown]
# ### What does each head attend to?
#
# For a query in the second copy with period N, the induction key is N - 1 back: the token *after* the
# earlier copy. (N back is the earlier copy itself: a duplicate-token head. Mixing the two up is the
# classic mistake; `lab/heads.py` finds keys by the tokens, whatever the period.)


# %%
@torch.no_grad()
def head_scores(net: TransformerBridge) -> dict[str, torch.Tensor]:
    """Previous-token, duplicate-token and induction scores, each [layer, head]."""
    _, cache = net.run_with_cache(held_out, names_filter=lambda name: name.endswith("hook_pattern"))
    kinds = {
        "previous token": heads.previous_token_score,
        "duplicate token": heads.duplicate_token_score,
        "induction": heads.induction_score,
    }
    layers = range(net.cfg.n_layers)
    return {
        kind: torch.stack([score(cache["pattern", layer], held_out) for layer in layers])
        for kind, score in kinds.items()
    }


scores, scores_one = head_scores(model), head_scores(one)
scores_random = head_scores(build(LAYERS))


def strongest(grid: torch.Tensor) -> tuple[int, int]:
    """Layer and head of the largest entry."""
    return divmod(int(grid.argmax()), grid.shape[1])


induction_head = strongest(scores["induction"])
below = scores["previous token"][: max(1, induction_head[0])]
previous_head = strongest(below)
print(f"induction head {induction_head}, previous-token head {previous_head}  (layer, head)")
metrics = {
    "induction_score": scores["induction"].max().item(),
    "induction_score_one_layer": scores_one["induction"].max().item(),
    "induction_score_untrained": scores_random["induction"].max().item(),
    "previous_token_score": below.max().item(),
    "loss": history["held_out_loss"][-1],
    "loss_one_layer": history_one["held_out_loss"][-1],
}

# %% [markdown]
# ### Do the heads matter? Ablate them
#
# Replace a head's output `hook_z` by its mean over rows and positions (mean ablation), and look at the
# loss on the determined tokens. Controls: nothing replaced (no-op), and every head at once.


# %%
def mean_ablate(z: torch.Tensor, hook: HookPoint, head: int) -> torch.Tensor:
    """z: [row, position, head, d_head]."""
    z[:, :, head] = z[:, :, head].mean(dim=(0, 1), keepdim=True)
    return z


@torch.no_grad()
def loss_with(hooks: list) -> float:
    logits = model.run_with_hooks(held_out, fwd_hooks=hooks)
    return masked_loss(logits, held_out, determined).item()


baseline = loss_with([])
noop = loss_with([("blocks.0.attn.hook_z", lambda z, hook: z)])
everything = loss_with(
    [(f"blocks.{l}.attn.hook_z", partial(mean_ablate, head=h)) for l in range(LAYERS) for h in range(HEADS)]
)
metrics["noop_change"] = abs(noop - baseline)

# %% [markdown]
# Several heads often share the work, so ablate them together: every head of the last layers that scores
# as an induction head, against as many heads of the same layers picked at random among the others.

# %%
induction_group = [tuple(pair) for pair in (scores["induction"] > 0.3).nonzero().tolist()]
previous_group = [tuple(pair) for pair in (scores["previous token"] > 0.3).nonzero().tolist()]
others = [
    (l, h) for l in range(LAYERS) for h in range(HEADS)
    if (l, h) not in induction_group + previous_group
]  # fmt: skip
shuffled = torch.randperm(len(others), generator=torch.Generator().manual_seed(SEED)).tolist()
random_group = [others[i] for i in shuffled[: max(1, len(induction_group))]]


def loss_without(group: list) -> float:
    return loss_with([(f"blocks.{l}.attn.hook_z", partial(mean_ablate, head=h)) for l, h in group])


losses = {
    "none": baseline,
    "induction": loss_without(induction_group),
    "previous": loss_without(previous_group),
    "random others": loss_without(random_group),
    "all heads": everything,
}
metrics["loss_without_induction_heads"] = losses["induction"]
metrics["loss_without_previous_token_heads"] = losses["previous"]
metrics["loss_without_random_heads"] = losses["random others"]

# %% [markdown]
# ### How does the previous-token head feed the induction head?
#
# Through the key (K-composition): the first head writes "the token before me was X" into each position,
# and the second head's keys read it. `all_composition_scores` compares the weights alone
# (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits).

# %%
composition = model.all_composition_scores("K").detach()  # [layer, head, layer, head]
into_induction = composition[:, :, induction_head[0], induction_head[1]]  # [layer, head]
metrics["k_composition"] = into_induction[previous_head].item()
random_scores = build(LAYERS).all_composition_scores("K").detach()
metrics["k_composition_untrained"] = random_scores[:, :, induction_head[0]].max().item()

# %% [markdown]
# ### Look

# %%
_, cache = model.run_with_cache(held_out[:1])
row = held_out[0].tolist()
names = [f"{l}.{h}" for l in range(LAYERS) for h in range(HEADS)]
fig, axes = plots.figure(2, 3, f"Induction in a {LAYERS}-layer attention-only model")
curves = {
    "step": history["step"],
    f"{LAYERS} layers": history["held_out_loss"],
    "1 layer": history_one["held_out_loss"],
}
plots.loss_curves(
    axes[0], curves, [f"{LAYERS} layers", "1 layer"], title="Loss where the next token is determined",
    marks={"guessing": math.log(VOCABULARY)},
)  # fmt: skip
for ax, (layer, head), kind in (
    (axes[1], previous_head, "previous token"),
    (axes[2], induction_head, "induction"),
):
    pattern = cache["pattern", layer][0, head]
    value = scores[kind][layer, head]
    plots.attention(ax, pattern, row, f"Head {layer}.{head}: {kind} score {value:.2f}")
table = torch.stack([scores[kind].flatten() for kind in scores])
plots.heatmap(
    axes[3], table, "Head scores", x="layer.head", x_ticks=names,
    y_ticks=["previous", "duplicate", "induction"], limits=(0, 1), numbers=True,
)  # fmt: skip
plots.bars(
    axes[4], losses, "Loss with heads mean-ablated", y="loss (nats)", highlight=["induction", "previous"],
    marks={"guessing": math.log(VOCABULARY)},
)  # fmt: skip
plots.heatmap(
    axes[5], into_induction[: max(1, induction_head[0])],
    f"K-composition into head {induction_head[0]}.{induction_head[1]}", x="head", y="layer", numbers=True,
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
