"""Which head feeds which: composition scores from the weights, calibrated, and tested by cutting links.

    python experiment.py                 the run that expected.json describes
    python experiment.py --seed 1        another seed: other heads, same story
    python experiment.py --layers 2      fewer pairs, less doubt about who feeds whom

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Composition, read from the weights
#
# Head A writes into the residual stream through W_V W_O; a later head B reads it through its query, key or
# value matrix. The composition score compares the size of the product with the sizes of its factors (Elhage
# et al. 2021, A Mathematical Framework for Transformer Circuits). It needs no input at all. But what is a
# large score? Here each is set against what the same two heads would score by accident, and then tested:
# cut the link, and see whether the model gets worse.

# %%
import math

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
LAYERS = 3  # attention layers
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
VOCABULARY = 32  # random tokens to draw blocks from
SHORTEST = 6  # shortest period, in tokens
LONGEST = 15  # longest period, in tokens
LENGTH = 32  # tokens in a row
BATCH = 64  # rows in a step
STEPS = 350  # training steps
LR = 5e-3  # AdamW, cosine down to zero
ROTATIONS = 60  # random rotations for the null distribution

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Data and model: repeated random blocks
#
# A task whose circuit is known: a previous-token head feeds the keys of an induction head (Olsson et al.
# 2022, arXiv:2209.11895). So there is one link at least that a good score has to find.


# %%
def sample(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [row, position] and the mask of determined next tokens [row, position - 1]."""
    periods = torch.randint(SHORTEST, LONGEST + 1, (rows, 1), generator=generator)
    block = torch.rand(rows, VOCABULARY, generator=generator).argsort(-1)  # distinct tokens
    position = torch.arange(LENGTH)
    tokens = block.gather(1, position % periods)
    return tokens.to(device), (position[1:] >= periods).to(device)


def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH,
        d_vocab=VOCABULARY, attn_only=True, normalization_type="LN",
        positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def repeat_loss(logits: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in nats on the held-out rows, where the next token is determined."""
    return F.cross_entropy(logits[:, :-1][determined], held_out[:, 1:][determined])


held_out, determined = sample(128, torch.Generator().manual_seed(10_000 + SEED))
model = build()
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    tokens, mask = sample(BATCH, generator)
    return F.cross_entropy(model(tokens)[:, :-1][mask], tokens[:, 1:][mask])


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True,
    evaluate=lambda: {"held_out": repeat_loss(model(held_out)).item()}, every=max(1, STEPS // 40),
)  # fmt: skip

# %% [markdown]
# ### Ground truth: name the heads by what they attend to

# %%
with torch.no_grad():
    _, cache = model.run_with_cache(held_out)
patterns = [cache["pattern", layer] for layer in range(LAYERS)]
previous = torch.stack([heads.previous_token_score(p, held_out) for p in patterns])  # [layer, head]
induction = torch.stack([heads.induction_score(p, held_out) for p in patterns])
induction_head = divmod(int(induction.argmax()), HEADS)
previous_head = divmod(int(previous[: max(1, induction_head[0])].argmax()), HEADS)
print(f"previous-token head {previous_head}, induction head {induction_head}  (layer, head)")

# %% [markdown]
# ### Cut every link
#
# For each pair of heads and each of B's three inputs: take A's write (as far as it differs from its mean) out
# of that input alone, and measure the loss. Native bridges have no split inputs, so the query, key or value
# is recomputed from the residual stream and written into `hook_q`, `hook_k` or `hook_v`.

# %%
pairs = [
    (la, ha, lb, hb)
    for la in range(LAYERS) for lb in range(la + 1, LAYERS)
    for ha in range(HEADS) for hb in range(HEADS)
]  # fmt: skip


def head_write(layer: int, head: int) -> torch.Tensor:
    """What a head adds to the residual stream, less its mean: [row, position, d_model]."""
    write = cache["z", layer][:, :, head] @ model.W_O[layer, head]
    return write - write.mean(dim=(0, 1))


@torch.no_grad()
def loss_without(write: torch.Tensor, kind: str, layer: int, head: int) -> float:
    """The loss when ``write`` is missing from one input (Q, K or V) of one head."""
    attn = model.blocks[layer].attn
    weight, bias = {"Q": (attn.W_Q, attn.b_Q), "K": (attn.W_K, attn.b_K), "V": (attn.W_V, attn.b_V)}[kind]
    weight, bias = weight[head], bias.view(HEADS, -1)[head]
    value = model.blocks[layer].ln1(cache["resid_pre", layer] - write) @ weight + bias

    def replace(activation: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        activation = activation.clone()
        activation.view(*activation.shape[:2], HEADS, -1)[:, :, head] = value
        return activation

    name = f"blocks.{layer}.attn.hook_{kind.lower()}"
    return repeat_loss(model.run_with_hooks(held_out, fwd_hooks=[(name, replace)])).item()


with torch.no_grad():
    baseline = repeat_loss(model(held_out)).item()
la, ha = previous_head
lb, hb = induction_head if induction_head[0] > 0 else (1, 0)
no_write = torch.zeros_like(cache["resid_pre", lb])
noop = loss_without(no_write, "K", lb, hb)
all_below = sum(head_write(l, h) for l in range(lb) for h in range(HEADS))
all_cut = loss_without(all_below, "K", lb, hb)
effect = {
    kind: torch.tensor([loss_without(head_write(a, b), kind, c, d) for a, b, c, d in pairs]) - baseline
    for kind in "QKV"
}

# %% [markdown]
# ### Score every link from the weights, and calibrate
#
# Fold LayerNorm into the matrices first (`enable_compatibility_mode`, once only), then let
# TransformerLens score all pairs. The null: turn A's write by a random rotation of the residual stream.
# That keeps the spectra of both heads and breaks only their alignment. z = standard deviations above that
# null.

# %%
model.enable_compatibility_mode()
scores = {kind: model.all_composition_scores(kind).scores.detach() for kind in "QKV"}
raw = {kind: torch.stack([scores[kind][pair] for pair in pairs]) for kind in "QKV"}
random_rotations = torch.linalg.qr(
    torch.randn(ROTATIONS, D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(SEED + 1))
)[0].to(device)


@torch.no_grad()
def own_scores(net: TransformerBridge, kind: str, rotations: torch.Tensor) -> torch.Tensor:
    """Composition scores [pair, rotation] with A's write rotated; with the identity, the usual score."""
    W_Q, W_K, W_V, W_O = net.W_Q, net.W_K, net.W_V, net.W_O  # [layer, head, ...]
    result = []
    for a, b, c, d in pairs:
        left = W_V[a, b] @ W_O[a, b]
        right = {
            "Q": W_Q[c, d] @ W_K[c, d].T, "K": W_K[c, d] @ W_Q[c, d].T, "V": W_V[c, d] @ W_O[c, d]
        }[kind]  # fmt: skip
        result.append((left @ rotations @ right).norm(dim=(-2, -1)) / left.norm() / right.norm())
    return torch.stack(result)


identity = torch.eye(D_MODEL, device=device)[None]
formula_error = (own_scores(model, "K", identity)[:, 0] - raw["K"]).abs().max().item()
null = {kind: own_scores(model, kind, random_rotations) for kind in "QKV"}
z = {kind: (raw[kind] - null[kind].mean(1)) / null[kind].std(1) for kind in "QKV"}
untrained = build()
untrained.enable_compatibility_mode()
untrained_null = own_scores(untrained, "K", random_rotations)
untrained_z = own_scores(untrained, "K", identity)[:, 0] - untrained_null.mean(1)
untrained_z = untrained_z / untrained_null.std(1)

# %% [markdown]
# ### Does the ranking find what the cuts find?


# %%
def rank_correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    """Spearman's: Pearson's correlation of the ranks."""
    ranks = torch.stack([x.argsort().argsort(), y.argsort().argsort()]).float()
    return torch.corrcoef(ranks)[0, 1].item()


known = pairs.index((la, ha, lb, hb)) if (la, ha, lb, hb) in pairs else 0
order = z["K"].argsort(descending=True)
top, rest = order[:5], order[len(order) // 4 :]  # five best links, and the lower three quarters
chosen = torch.randperm(len(rest), generator=torch.Generator().manual_seed(SEED + 2))[:10]
agreement = {kind: rank_correlation(z[kind], effect[kind]) for kind in "QKV"}
metrics = {
    "loss": baseline,
    "formula_error": formula_error,
    "known_pair_rank": float((z["K"] > z["K"][known]).sum() + 1),
    "known_pair_z": z["K"][known].item(),
    "untrained_top_z": untrained_z.max().item(),
    "cut_top_five": effect["K"][top].max().item(),
    "damage_share": (effect["K"][top].sum() / effect["K"].abs().sum().clamp_min(1e-9)).item(),
    "cut_random": effect["K"][rest[chosen]].mean().item(),
    "cut_all_keys": all_cut - baseline,
    "k_agreement": agreement["K"],
    "q_agreement": agreement["Q"],
    "v_agreement": agreement["V"],
    "noop_change": abs(noop - baseline),
}

# %% [markdown]
# ### Look

# %%
names = [f"{a}.{b}→{c}.{d}" for a, b, c, d in pairs]
fig, axes = plots.figure(2, 3, f"Composition scores against cuts, {LAYERS} layers of {HEADS} heads")
plots.loss_curves(axes[0], history, ["held_out"], title="Loss where the next token is determined",
                  marks={"guessing": math.log(VOCABULARY)})  # fmt: skip
grid = torch.full((LAYERS * HEADS, LAYERS * HEADS), float("nan"))
for value, (a, b, c, d) in zip(z["K"].cpu(), pairs, strict=True):
    grid[a * HEADS + b, c * HEADS + d] = value
ticks = [f"{l}.{h}" for l in range(LAYERS) for h in range(HEADS)]
limit = z["K"].abs().max().item()
plots.heatmap(
    axes[1], grid[:-HEADS, HEADS:], "Key composition, standard deviations above rotation",
    x="reading head B", y="writing head A", x_ticks=ticks[HEADS:], y_ticks=ticks[:-HEADS],
    signed=True, limits=(-limit, limit),
)  # fmt: skip
axes[1].plot(lb * HEADS + hb - HEADS, la * HEADS + ha, "s", mfc="none", mec="black", ms=15, mew=2)
bins = torch.linspace(min(-4, float(z["K"].min())), float(z["K"].max()) + 1, 40).numpy()
axes[2].hist(untrained_z.cpu().numpy(), bins, color="0.6", label="untrained model")
axes[2].hist(z["K"].cpu().numpy(), bins, color=plots.COLOURS[0], alpha=0.7, label="trained model")
axes[2].axvline(
    z["K"][known].item(), color=plots.COLOURS[1], linestyle="--", label=f"known pair {names[known]}"
)
axes[2].legend(fontsize=8, loc="upper center")
axes[2].margins(y=0.3)
plots.label(axes[2], "All head pairs, key composition", "standard deviations above rotation", "pairs")
for colour, marker, kind in zip(plots.COLOURS, "ox^", "QKV", strict=False):
    axes[3].scatter(raw[kind].cpu(), z[kind].cpu(), s=14, color=colour, marker=marker, label=kind)
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], "Raw score against calibrated score", "raw composition score", "standard deviations")
for colour, marker, kind in zip(plots.COLOURS, "ox^", "QKV", strict=False):
    axes[4].scatter(z[kind].cpu(), effect[kind].cpu(), s=14, color=colour, marker=marker,
                    label=f"{kind}: rank correlation {agreement[kind]:.2f}")  # fmt: skip
axes[4].set_yscale("symlog", linthresh=0.01)
axes[4].legend(fontsize=8, frameon=False, loc="upper left")
plots.label(
    axes[4],
    "Score against the damage of a cut",
    "standard deviations above rotation",
    "loss added by the cut (nats)",
)
cuts = {names[i]: effect["K"][i].item() for i in top.tolist()}
cuts["10 random"] = metrics["cut_random"]
cuts["no-op"] = metrics["noop_change"]
cuts["all keys"] = metrics["cut_all_keys"]
plots.bars(
    axes[5],
    cuts,
    f"The five best key links cut, one by one\n(all keys: head {lb}.{hb} loses every earlier head)",
    y="loss added (nats)",
    highlight=names,
)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
