"""Grokking through its progress measures: what grows while the test accuracy says nothing.

    python experiment.py                    the run that expected.json describes
    python experiment.py --seed 1           other weights, another split
    python experiment.py --weight-decay 0   does it still generalise?

Results, figures, checkpoints and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Sudden outside, gradual inside?
#
# A transformer that adds modulo 53 first memorises its training pairs; much later, and suddenly, it answers
# the others too. Nanda et al. 2023 (arXiv:2301.05217) took the final network apart, made measures of the
# mechanism that they found, and followed those back in time: the mechanism grows *before* the test accuracy
# moves, and the sudden part is the removal of what was memorised. Here is the same on a smaller modulus:
#
# - *restricted loss*: on all pairs, with only those waves of the logits that the final network uses;
# - *excluded loss*: on training pairs, with these waves taken out;
# - *Gini coefficient* of the embedding's power over frequencies: 0 spread evenly, 1 all in one;
# - *weight norm*.
#
# The measures are defined by the final network, so they cannot be computed while training runs: hence the
# checkpoints.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import fourier, plots
from lab.checkpoints import checkpoints, load_checkpoint
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and split
P = 53  # the modulus; odd
D_MODEL = 64  # width of the residual stream
D_MLP = 256  # hidden units
TRAIN_SHARE = 0.42  # share of all pairs that is trained on
STEPS = 900  # full-batch steps
LR = 1e-2  # AdamW
WEIGHT_DECAY = 1.0  # what makes it generalise
CHECKPOINTS = 45  # evenly spaced: the phases fill the run (log-spaced is better where all happens early)
KEY = 5  # at most so many key frequencies

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Train, and keep weights on the way

# %%
a, b = torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)
tokens = torch.stack([a, b, torch.full_like(a, P)], 1).to(device)  # [pair, 3]: a, b, "="
answers = ((a + b) % P).to(device)
order = torch.randperm(P * P, generator=torch.Generator().manual_seed(SEED)).to(device)
train_set, test_set = order[: int(TRAIN_SHARE * P * P)], order[int(TRAIN_SHARE * P * P) :]
config = TransformerBridgeConfig(
    d_model=D_MODEL, d_head=D_MODEL // 4, n_heads=4, n_layers=1, n_ctx=3,
    d_vocab=P + 1, d_vocab_out=P, d_mlp=D_MLP, act_fn="relu", normalization_type=None,
    init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
)  # fmt: skip
model = TransformerBridge.boot_native(config, device=device)


def loss_at(step: int) -> torch.Tensor:
    return F.cross_entropy(model(tokens[train_set])[:, -1], answers[train_set])


at = sorted({round(STEPS * i / CHECKPOINTS) for i in range(CHECKPOINTS + 1)})
train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=WEIGHT_DECAY, every=STEPS,
    checkpoints=run.folder / "checkpoints", checkpoint_at=at,
)  # fmt: skip

# %% [markdown]
# ### Which waves does the final network use?
#
# The logit of c, over all pairs (a, b), in waves of a + b: the share of the logits' variance at each
# frequency. Those with more than a fiftieth are the key frequencies. The closed form of the algorithm is
# a sum of cos(2 pi k (a + b - c) / p) over them.

# %%
sums = torch.arange(P, device=device)[:, None] * torch.arange(1, P // 2 + 1, device=device) % P
angle = 2 * torch.pi * sums / P  # [a + b, frequency]
# [pair, frequency, cos and sin]
waves = torch.stack([angle.cos(), angle.sin()], -1)[(a + b).to(device) % P] * (2**0.5 / P)


def components(logits: torch.Tensor) -> torch.Tensor:
    """The part of logits [pair, answer] in waves of a + b: [frequency, pair, answer]."""
    weights = torch.einsum("pfw,pc->fwc", waves, logits)
    return torch.einsum("pfw,fwc->fpc", waves, weights)


@torch.no_grad()
def measured() -> dict[str, float]:
    """All measures of the model as it stands, with the final network's key frequencies."""
    logits = model(tokens)[:, -1]
    parts = components(logits)[key_places].sum(0)
    mean = logits.mean(0, keepdim=True)

    def loss(of: torch.Tensor, where: torch.Tensor) -> float:
        return F.cross_entropy(of[where], answers[where]).item()

    power = fourier.frequency_power(model.W_E[:P])
    ranked = power.sort().values
    weighting = torch.arange(1, len(ranked) + 1, device=device)
    gini = (2 * (weighting * ranked).sum() / ranked.sum() - (len(ranked) + 1)) / len(ranked)
    right = (logits.argmax(-1) == answers).float()
    return {
        "train_loss": loss(logits, train_set),
        "test_loss": loss(logits, test_set),
        "train_accuracy": right[train_set].mean().item(),
        "test_accuracy": right[test_set].mean().item(),
        "restricted": loss(mean + parts, order),
        "excluded": loss(logits - parts, train_set),
        "gini": gini.item(),
        "norm": sum(p.pow(2).sum() for p in model.parameters()).sqrt().item(),
    }


with torch.no_grad():
    final = model(tokens)[:, -1]
    variance = (final - final.mean(0)).pow(2).sum()
    share = components(final).pow(2).sum((1, 2)) / variance  # [frequency]
ranked = share.topk(KEY).indices.tolist()
strongest = [f for f in ranked if share[f] > 0.02] or ranked[:1]
key_places = torch.tensor(strongest, device=device)
print("key frequencies:", sorted(f + 1 for f in strongest))
curve: dict[str, list[float]] = {"step": []}
for kept in checkpoints(run.folder / "checkpoints"):
    load_checkpoint(model, kept.path)
    curve["step"].append(kept.step)
    for name, value in measured().items():
        curve.setdefault(name, []).append(value)

# %% [markdown]
# ### When does what happen?
#
# A phase needs a definition that somebody else would date the same way. Ours: *memorised* when 99 % of the
# training pairs are right; *mechanism half grown* when the restricted loss has gone half of its way down;
# *generalised* when half of the test pairs are right; *cleaned up* when the weight norm
# has gone nine tenths of its way from its peak to its end.


# %%
def first(name: str, reached) -> float:
    """The first checkpoint's step at which ``reached`` holds (NaN if none)."""
    return next((s for s, v in zip(curve["step"], curve[name], strict=True) if reached(v)), float("nan"))


low, high = min(curve["restricted"]), curve["restricted"][0]
peak, end = max(curve["norm"]), curve["norm"][-1]
after_peak = curve["step"][curve["norm"].index(peak)]
phases = {
    "memorised": first("train_accuracy", lambda v: v > 0.99),
    "mechanism half grown": first("restricted", lambda v: v < (low + high) / 2),
    "generalised": first("test_accuracy", lambda v: v > 0.5),
    "cleaned up": next(
        (s for s, v in zip(curve["step"], curve["norm"], strict=True)
         if s > after_peak and v < peak - 0.9 * (peak - end)), float("nan")),
}  # fmt: skip
for name, step in phases.items():
    print(f"  {name:>22}: step {step:g}")

# the control: the same measures with as many frequencies that the network does not use
generator = torch.Generator().manual_seed(SEED)
others = [f for f in range(P // 2) if f not in strongest]
picked = [others[i] for i in torch.randperm(len(others), generator=generator)[: len(strongest)].tolist()]
key_places = torch.tensor(picked, device=device)
unused = measured()
key_places = torch.tensor(strongest, device=device)
metrics = {
    "test_accuracy": curve["test_accuracy"][-1],
    "key_frequencies": float(len(strongest)),
    "key_share": share[strongest].sum().item(),
    "memorised": phases["memorised"],
    "generalised": phases["generalised"],
    "gap": phases["generalised"] / max(1.0, phases["memorised"]),
    "grown_before": (phases["generalised"] - phases["mechanism half grown"]) / phases["generalised"],
    "cleaned_after": (phases["cleaned up"] - phases["generalised"]) / phases["generalised"],
    "gini_rise": curve["gini"][-1] - curve["gini"][0],
    "restricted_end": curve["restricted"][-1],
    "restricted_random": unused["restricted"],
    "excluded_end": curve["excluded"][-1],
    "excluded_random": unused["excluded"],
    "split_error": (components(final).sum(0) + (final - components(final).sum(0)) - final).abs().max().item(),
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 2, f"Grokking addition mod {P}, through its progress measures")
dated = {name: step for name, step in phases.items() if step == step}
ends = [*list(dated.values())[1:], STEPS]
plots.loss_curves(
    axes[0], curve, ["train_loss", "test_loss"], title="What one sees",
    phases=dict(zip(dated, zip(dated.values(), ends, strict=True), strict=True)),
)  # fmt: skip
plots.loss_curves(axes[1], curve, ["restricted", "excluded"], title="What grows: the mechanism's own losses")
plots.loss_curves(
    axes[2], curve, ["train_accuracy", "test_accuracy", "gini"], title="Accuracy, and how few frequencies",
    y="share", log=False,
)  # fmt: skip
plots.loss_curves(axes[3], curve, ["norm"], title="Weight norm: the clean-up", y="norm", log=False)
run.save(fig, "progress")

# %%
report = run.finish(metrics)
