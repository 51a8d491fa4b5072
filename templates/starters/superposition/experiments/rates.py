"""Unequal sparsity: which features does a toy model store, and who interferes with whom?

    python experiment.py                  the run that expected.json describes
    python experiment.py --decades 2      rates spread over two decades
    python experiment.py --seed 1         other starts and data

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Rare features lose twice, and have one virtue
#
# In the published toy (Elhage et al. 2022, arXiv:2209.10652) all features of a model are equally rare. Here
# feature i has a rate p_i of its own. Ignoring a rare feature costs little; but a rare feature also seldom
# disturbs others. Three arms keep the two apart: *rate* (importance 1), *evened* (importance 1/p_i, so that
# ignoring any feature costs the same), and *importance* (one rate for all, importance chosen so that
# ignoring costs what it does in the first arm). The first and third differ in nothing but who disturbs
# whom.

# %%
from typing import Any

import torch
from torch import nn

from lab import plots, superposition
from lab.many import Many, train_many
from lab.results import start_run

# %% knobs
SEED = 0  # weights and data
FEATURES = 40
HIDDEN = 10  # dimensions that they must pass through
DECADES = 3.0  # the rates run from 0.3 down over so many powers of ten
COPIES = 3  # seeds for each arm
BATCH = 1024  # inputs in a step; the rarest feature must be among them now and then
STEPS = 1500  # training steps
LR = 1e-2  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %%
ARMS = ["even", "rate", "evened", "importance"]  # even: one rate, one importance, the baseline
rates = 0.3 * 10 ** (-DECADES * torch.arange(FEATURES) / (FEATURES - 1))
typical = rates.log().mean().exp().expand(FEATURES)


def cost(p: torch.Tensor) -> torch.Tensor:
    """What ignoring a feature costs: its variance."""
    return p / 3 - p * p / 4


chance = torch.stack([typical, rates, rates, typical])  # [arm, feature]
worth = torch.stack([torch.ones(FEATURES), torch.ones(FEATURES), cost(rates).mean() / cost(rates),
                     cost(rates) / cost(typical)])  # fmt: skip
importance = worth.repeat_interleave(COPIES, 0).to(device)
whole = (worth * cost(chance)).sum(-1).repeat_interleave(COPIES, 0).to(device)  # the cost of ignoring all


class Toy(nn.Module):
    """x' = relu(W'Wx + b)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(HIDDEN, FEATURES, generator=generator) / HIDDEN**0.5)
        self.b = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.W.T @ self.W + self.b)


def loss(model: Any, batch: Any) -> torch.Tensor:
    x, importance, whole = batch
    return ((model(x) - x).square().mean(0) * importance).sum() / whole


generator = torch.Generator().manual_seed(SEED)


def batch_at(step: int) -> Any:
    x = superposition.sparse(chance, BATCH, FEATURES, generator)
    return x.repeat_interleave(COPIES, 0).to(device), importance, whole


models = [Toy(1000 * SEED + n % COPIES).to(device) for n in range(len(ARMS) * COPIES)]
with torch.no_grad():
    test = superposition.sparse(chance, 10_000, FEATURES, torch.Generator().manual_seed(10_000 + SEED))
    test = (test.repeat_interleave(COPIES, 0).to(device), importance, whole)
    untrained = Many(models).each(loss, test).median().item()
history = train_many(models, loss, batch_at, steps=STEPS, lr=LR, decay=True, every=STEPS)
print(f"the rarest feature was seen about {rates[-1] * BATCH * STEPS:.0f} times")

# %% [markdown]
# ### Lengths, shares of a dimension, partners
#
# Stored means: alone on at 1, more than half of it comes back; a rare feature can be long and yet be
# silenced by its bias. The partner of a stored feature is the stored one that it points away from most.

# %%
with torch.no_grad():
    W = torch.stack([m.W for m in models]).view(len(ARMS), COPIES, HIDDEN, FEATURES)
    b = torch.stack([m.b for m in models]).view(len(ARMS), COPIES, FEATURES)
    relative = Many(models).each(loss, test).view(len(ARMS), COPIES)
squared = W.square().sum(2)
back = torch.relu(squared + b)  # [arm, copy, feature]
stored = back > 0.5
share = superposition.dimensionality(W)


def correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].nan_to_num().item()


def partner_correlation(arm: int, shuffle: torch.Generator | None = None) -> float:
    """Correlation of the places, in order of rate or worth, of a feature and the one it opposes most."""
    place, partner = [], []
    for copy in range(COPIES):
        kept = stored[arm, copy].nonzero().flatten().cpu()
        if len(kept) < 3:
            continue
        opposed = superposition.cosines(W[arm, copy][:, kept.to(device)]).argmin(-1).cpu()
        names = kept if shuffle is None else kept[torch.randperm(len(kept), generator=shuffle)]
        place.append(names.float())
        partner.append(names[opposed].float())
    return correlation(torch.cat(place), torch.cat(partner)) if place else float("nan")


def without(features: torch.Tensor) -> float:
    """Loss added in the rate arm if these features' columns are gone."""
    cut = [Toy(0).to(device) for _ in models]
    with torch.no_grad():
        for new, old in zip(cut, models, strict=True):
            new.load_state_dict(old.state_dict())
            new.W[:, features] = 0
        return (Many(cut).each(loss, test).view(len(ARMS), COPIES) - relative)[1].mean().item()


order = torch.arange(FEATURES).float()
ranks = order.expand(COPIES, -1)
half = FEATURES // 2
shuffle = torch.Generator().manual_seed(SEED)
null = sorted(partner_correlation(1, shuffle) for _ in range(100))
quarter = FEATURES // 4
chosen = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(SEED))[:quarter]
turn = superposition.rotations(1, HIDDEN, torch.Generator().manual_seed(SEED))[0].to(device)
metrics = {f"stored_{arm}": stored[n].float().sum(-1).mean().item() for n, arm in enumerate(ARMS)}
metrics |= {
    "frequent_stored": stored[1, :, :half].float().mean().item(),
    "rare_stored": stored[1, :, half:].float().mean().item(),
    "rare_stored_evened": stored[2, :, half:].float().mean().item(),
    "rate_against_importance": metrics["stored_rate"] - metrics["stored_importance"],
    "partners_rate": partner_correlation(1),
    "partners_evened": partner_correlation(2),
    "partners_importance": partner_correlation(3),
    "partners_null_high": null[97],
    "length_by_rate": correlation(ranks, squared[1].cpu()),
    "length_even": correlation(ranks, squared[0].cpu()),
    "bias_by_rate_evened": correlation(ranks, b[2].cpu()),
    "cut_frequent": without(torch.arange(quarter)),
    "cut_rare": without(torch.arange(FEATURES - quarter, FEATURES)),
    "cut_random": without(chosen),
    "even_loss": relative[0].mean().item(),
    "untrained_loss": untrained,
    "rotation_change": (superposition.dimensionality(turn @ W) - share).abs().max().item(),
}

# %%
fig, axes = plots.figure(2, 3, f"{FEATURES} features of unequal rate in {HIDDEN} dimensions")
for n, arm in enumerate(ARMS):
    style = {"color": plots.COLOURS[n], "linestyle": plots.STYLES[n], "label": arm}
    axes[0].plot(order, squared[n].mean(0).cpu(), **style)
    axes[1].plot(order, back[n].mean(0).cpu(), **style)
    axes[2].plot(order, b[n].mean(0).cpu(), **style)
ticks = [0, half, FEATURES - 1]
for ax, title, y in ((axes[0], "Squared length", "|W|^2"),
                     (axes[1], "Alone on at 1, comes back as", "output"),
                     (axes[2], "Bias", "b")):  # fmt: skip
    ax.set_xticks(ticks, [f"{i} ({rates[i]:.2g})" for i in ticks])
    ax.legend(fontsize=8, frameon=False)
    plots.label(ax, title, "feature (its rate)", y)
for ax, n in ((axes[3], 1), (axes[4], 2)):
    plots.heatmap(ax, (W[n, 0].T @ W[n, 0]).fill_diagonal_(0), f"Overlaps W'W, {ARMS[n]} (diagonal left out)",
                  x="feature", y="feature, frequent first", signed=True)  # fmt: skip
plots.bars(axes[5], {arm: metrics[f"stored_{arm}"] for arm in ARMS}, "Features stored", y="features",
           marks={"dimensions": HIDDEN})  # fmt: skip
run.save(fig, "rates")

# %%
report = run.finish(metrics)
