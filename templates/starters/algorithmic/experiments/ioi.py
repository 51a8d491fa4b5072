"""Toy indirect object identification: a tiny attention-only model, and the circuit that it finds.

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              another seed
    python experiment.py --layers 3 --heads 4  room for a circuit like GPT-2 Small's

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Indirect object identification, from scratch
#
# "When Mary and John went to the shop, John gave a drink to ..." The answer is the name that was said
# only once. Stripped to symbols: two names, one of them again, filler between, and the model must name
# the other one. GPT-2 Small does it with duplicate-token, S-inhibition and name-mover heads that build
# on one another (Wang et al. 2022, arXiv:2211.00593). A model trained on nothing else can do with much
# less: one layer of two heads (Adhikari 2025, arXiv:2510.25013). Which circuit do we get here?

# %%
from functools import partial

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
LAYERS = 1  # attention layers
HEADS = 2  # heads in each layer
D_MODEL = 64  # width of the residual stream
NAMES = 20  # names to choose from
FILLERS = 8  # meaningless tokens that stand between the names
LENGTH = 7  # tokens in a prompt: <start>, names among filler, <end>
SECOND = "fixed"  # where the second S stands: fixed (two before <end>) or anywhere after the names
BATCH = 256  # prompts in a step
STEPS = 1500  # training steps of one layer; a deeper model gets as many fewer, for equal compute
LR = 1e-2  # AdamW, cosine down to zero
WEIGHT_DECAY = 1.0  # with less the model sits on the plateau "IO or S, I cannot tell which" for long

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The prompts
#
# S is the repeated subject, IO the indirect object. The first two names stand anywhere in the first
# clause, in either order; the second S has its place in the second clause, as it has in English.


# %%
def sample(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Tokens [row, position]; the names IO and S; the positions of IO, S1, S2."""
    pair = torch.rand(rows, NAMES, generator=generator).argsort(-1)[:, :2]  # two different names
    tokens = NAMES + torch.randint(FILLERS, (rows, LENGTH), generator=generator)
    tokens[:, 0], tokens[:, -1] = NAMES + FILLERS, NAMES + FILLERS + 1  # <start>, <end>
    if SECOND == "fixed":
        slots = torch.rand(rows, LENGTH - 4, generator=generator).argsort(-1)[:, :2].sort(-1).values + 1
        slots = F.pad(slots, (0, 1), value=LENGTH - 3)
    else:
        slots = torch.rand(rows, LENGTH - 2, generator=generator).argsort(-1)[:, :3].sort(-1).values + 1
    first = torch.randint(2, (rows,), generator=generator)  # which of the first two names is S
    subject = pair.gather(1, first[:, None])
    tokens.scatter_(1, slots, torch.cat([pair, subject], dim=1))
    out = {
        "tokens": tokens,
        "io": pair.gather(1, 1 - first[:, None])[:, 0],
        "s": subject[:, 0],
        "io_pos": slots.gather(1, 1 - first[:, None])[:, 0],
        "s1_pos": slots.gather(1, first[:, None])[:, 0],
        "s2_pos": slots[:, 2],
    }
    return {name: value.to(device) for name, value in out.items()}


test = sample(2000, torch.Generator().manual_seed(10_000 + SEED))
rows = torch.arange(2000, device=device)

# %% [markdown]
# ### The model: no MLPs, no layer norm, so that every logit is a plain sum over heads


# %%
def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // 4, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH,
        d_vocab=NAMES + FILLERS + 2, d_vocab_out=NAMES, attn_only=True, normalization_type=None,
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model = build()
steps = max(1, STEPS // LAYERS)
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    prompts = sample(BATCH, generator)
    return F.cross_entropy(model(prompts["tokens"])[:, -1], prompts["io"])


def accuracy(logits: torch.Tensor) -> float:
    """Share of prompts whose top name is IO; logits [row, name]."""
    return (logits.argmax(-1) == test["io"]).float().mean().item()


def logit_difference(logits: torch.Tensor) -> torch.Tensor:
    """Logit of IO minus logit of S, [row]."""
    return logits[rows, test["io"]] - logits[rows, test["s"]]


def evaluate() -> dict[str, float]:
    logits = model(test["tokens"])[:, -1]
    return {
        "test_accuracy": accuracy(logits),
        "test_loss": F.cross_entropy(logits, test["io"]).item(),
    }


history = train(
    model, loss_at, steps=steps, lr=LR, weight_decay=WEIGHT_DECAY, decay=True, evaluate=evaluate,
    every=max(1, steps // 50),
)  # fmt: skip

# %% [markdown]
# ### Direct logit attribution: which head says what?
#
# Without layer norm the logit difference is *exactly* the sum of each head's `z @ W_O @ W_U` and of the
# embeddings' own contribution. Split each head further by the position it copies from.

# %%
with torch.no_grad():
    logits, cache = model.run_with_cache(test["tokens"])
    logits = logits[:, -1]
    direction = (model.W_U[:, test["io"]] - model.W_U[:, test["s"]]).T  # [row, d_model]
    heads = [(l, h) for l in range(LAYERS) for h in range(HEADS)]
    names = [f"{l}.{h}" for l, h in heads]
    dla = {
        f"{l}.{h}": ((cache[f"blocks.{l}.attn.hook_z"][:, -1, h] @ model.W_O[l, h]) * direction).sum(-1)
        for l, h in heads
    }  # each [row]
    rest = cache["blocks.0.hook_resid_pre"][:, -1] + sum(model.b_O[l] for l in range(LAYERS))
    total = sum(dla.values()) + (rest * direction).sum(-1)

places = {"IO": test["io_pos"], "S1": test["s1_pos"], "S2": test["s2_pos"]}
attention = torch.stack(
    [
        torch.stack([cache["pattern", l][rows, h, -1, where].mean() for where in places.values()])
        for l, h in heads
    ]
).detach()  # [layer.head, place]
metrics = {
    "test_accuracy": history["test_accuracy"][-1],
    "logit_difference": logit_difference(logits).mean().item(),
    "attribution_error": (total - logit_difference(logits)).abs().max().item(),
}

# %% [markdown]
# ### Do the heads copy the name they look at, or argue against it?
#
# The OV circuit `W_E W_V W_O W_U` says what a head writes when it attends to a token. Entry (name, name):
# positive, it copies; negative, it suppresses. The score is the diagonal in standard deviations.


# %%
def copying(layer: int, head: int) -> torch.Tensor:
    """Full OV circuit from name to name logit, [name, name]."""
    out = model.W_E[:NAMES] @ model.W_V[layer, head] @ model.W_O[layer, head] @ model.W_U
    return ((out - out.mean(-1, keepdim=True)) / out.std(-1, keepdim=True)).detach()


pairs = list(zip(names, heads, strict=True))
copy_scores = {name: copying(*head).diagonal().mean().item() for name, head in pairs}
metrics["strongest_copying"] = max(abs(score) for score in copy_scores.values())

# %% [markdown]
# ### Is anything built on anything?
#
# In GPT-2 Small heads read what earlier heads wrote. Cut that: let every layer see the embeddings only,
# and add up what it writes. If the accuracy survives, the circuit is a set of heads side by side.


# %%
@torch.no_grad()
def written_by(layer: int, resid_pre: torch.Tensor) -> torch.Tensor:
    """What a layer's attention writes when it is given another residual stream to read."""
    written = []
    model.run_with_hooks(
        test["tokens"],
        fwd_hooks=[
            (f"blocks.{layer}.hook_resid_pre", lambda value, hook: resid_pre),
            (f"blocks.{layer}.hook_attn_out", lambda value, hook: written.append(value)),
        ],
    )
    return written[0]


embeddings = cache["blocks.0.hook_resid_pre"]
side_by_side = embeddings + sum(written_by(l, embeddings) for l in range(LAYERS))
metrics["accuracy_without_composition"] = accuracy((side_by_side @ model.W_U)[:, -1])

# %% [markdown]
# ### Ablate: mean-ablate each head at the answer, with controls


# %%
def mean_ablate(z: torch.Tensor, hook: HookPoint, head: int) -> torch.Tensor:
    """z: [row, position, head, d_head]; the mean is over prompts, position by position."""
    z[:, :, head] = z[:, :, head].mean(0, keepdim=True)
    return z


@torch.no_grad()
def logits_without(group: list) -> torch.Tensor:
    hooks = [(f"blocks.{l}.attn.hook_z", partial(mean_ablate, head=h)) for l, h in group]
    return model.run_with_hooks(test["tokens"], fwd_hooks=hooks)[:, -1]


ablated = {name: accuracy(logits_without([head])) for name, head in pairs}
with torch.no_grad():
    noop = model.run_with_hooks(test["tokens"], fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z)])
    untrained = build()(test["tokens"])[:, -1]
metrics["noop_change"] = (noop[:, -1] - logits).abs().max().item()
metrics["worst_single_ablation"] = min(ablated.values())
metrics["all_heads_ablated"] = accuracy(logits_without(heads))
metrics["untrained_accuracy"] = accuracy(untrained)

# %% [markdown]
# ### Look

# %%
contribution = {name: dla[name].mean().item() for name in names}  # nats of logit difference
leader = max(contribution, key=contribution.get)
lead_layer, lead_head = heads[names.index(leader)]
shares = {
    "the model": metrics["test_accuracy"],
    "heads side by side": metrics["accuracy_without_composition"],
    "all heads ablated": metrics["all_heads_ablated"],
    "untrained": metrics["untrained_accuracy"],
}
fig, axes = plots.figure(2, 3, f"Toy indirect objects: {LAYERS} layer(s), {HEADS} heads each")
plots.loss_curves(
    axes[0], history, ["test_accuracy"], title="Learning", y="accuracy", log=False,
    marks={"guessing one of the two names": 0.5, "guessing any name": 1 / NAMES},
)  # fmt: skip
plots.heatmap(
    axes[1], attention, "Attention from <end> to", y="layer.head", x_ticks=list(places), y_ticks=names,
    limits=(0, 1), numbers=True,
)  # fmt: skip
plots.bars(
    axes[2], contribution, "Logit difference IO - S, by head", y="direct contribution (nats)",
    highlight=[leader],
)  # fmt: skip
plots.heatmap(
    axes[3], copying(lead_layer, lead_head), f"OV circuit of head {leader}, name to name", x="logit of name",
    y="attending to name", signed=True,
)  # fmt: skip
plots.bars(
    axes[4], ablated, "Accuracy with one head mean-ablated", y="accuracy",
    marks={"guessing one of the two names": 0.5},
)  # fmt: skip
plots.bars(
    axes[5], shares, "Does any head build on another?", y="accuracy", highlight=["heads side by side"],
    marks={"guessing one of the two names": 0.5},
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
