"""Does dropout turn features towards the hidden units? With rotations and isotropic noise as controls.

    python experiment.py                     the run that expected.json describes
    python experiment.py --activation relu   an activation on the hidden layer: a basis by other means
    python experiment.py --probability 0.3   denser features

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A basis made by deleting coordinates
#
# In x' = relu(W'Wx + b) nothing prefers one axis of the hidden space: rotate W and nothing changes. Dropout
# deletes coordinates, so it takes that symmetry away (Smith 2023 found a privileged basis, Pona 2023 less
# superposition). Two effects have to be told apart: it may pick one of the rotations of a solution, or
# change the solution. Gaussian noise of the same variance is alike in all directions, so it can do only the
# second.

# %%
from typing import Any

import torch
from torch import nn

from lab import plots, superposition
from lab.many import Many, train_many
from lab.results import start_run

# %% knobs
SEED = 0  # weights and data
FEATURES = 20
HIDDEN = 5  # dimensions that they must pass through
PROBABILITY = 0.1  # of a feature being there
ACTIVATION = "none"  # on the hidden layer: none or relu
COPIES = 12  # seeds for each setting
BATCH = 400  # inputs in a step
STEPS = 1200  # training steps
LR = 1e-2  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %%
RATES = [0.0, 0.1, 0.2, 0.35, 0.5]
settings = [(rate, "dropout") for rate in RATES] + [(rate, "noise") for rate in RATES[1:]]
rate = torch.tensor([r for r, _ in settings for _ in range(COPIES)], device=device)
drops = torch.tensor([float(kind == "dropout") for _, kind in settings for _ in range(COPIES)], device=device)
off = torch.zeros_like(rate)
hidden_act = torch.relu if ACTIVATION == "relu" else (lambda h: h)


class Toy(nn.Module):
    """x' = relu(W'(disturbed h) + b), h = W x; dropout and noise have the same mean and variance."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(HIDDEN, FEATURES, generator=generator) / HIDDEN**0.5)
        self.b = nn.Parameter(torch.zeros(FEATURES))

    def forward(
        self,
        x: torch.Tensor,
        chance: torch.Tensor,
        normal: torch.Tensor,
        rate: torch.Tensor,
        drops: torch.Tensor,
    ) -> torch.Tensor:
        h = hidden_act(x @ self.W.T)
        dropped = h * (chance >= rate) / (1 - rate)
        # a unit's dropout adds variance h^2 rate / (1 - rate); noise spreads the sum over all directions
        size = (h.detach().square().mean(-1, keepdim=True) * rate / (1 - rate)).sqrt()
        h = drops * dropped + (1 - drops) * (h + size * normal)
        return torch.relu(h @ self.W + self.b)


def loss(model: Any, batch: Any) -> torch.Tensor:
    x, *disturbance = batch
    return (model(x, *disturbance) - x).square().mean(0).sum()


generator = torch.Generator().manual_seed(SEED)
many = len(rate)


def disturbed(rows: int, generator: torch.Generator, rate: torch.Tensor) -> Any:
    """Inputs, and the draws for dropout and noise, shared by all copies."""
    x = superposition.sparse(torch.tensor([PROBABILITY]), rows, FEATURES, generator)
    chance = torch.rand(1, rows, HIDDEN, generator=generator)
    normal = torch.randn(1, rows, HIDDEN, generator=generator)
    return *(t.expand(many, -1, -1).to(device) for t in (x, chance, normal)), rate, drops


models = [Toy(1000 * SEED + n % COPIES).to(device) for n in range(many)]
initial = torch.stack([m.W.detach().clone() for m in models])
history = train_many(models, loss, lambda step: disturbed(BATCH, generator, rate), steps=STEPS, lr=LR,
                     decay=True, every=STEPS)  # fmt: skip

# %% [markdown]
# ### Alignment, against what random rotations of the same solution give
#
# For each stored feature the largest share of its squared length on one unit; as a second opinion the
# kurtosis of all entries. The null is the same number for Q W with random rotations Q: what is above it is
# due to the axes and not to the solution.

# %%
W = torch.stack([m.W.detach() for m in models])  # [copy, hidden, feature]
turns = superposition.rotations(100, HIDDEN, torch.Generator().manual_seed(SEED)).to(device)


def alignment(W: torch.Tensor) -> torch.Tensor:
    """Mean over features longer than 0.5 of the largest share on one axis: [copy]."""
    kept = W.norm(dim=-2) > 0.5
    return (superposition.on_axes(W) * kept).sum(-1) / kept.sum(-1).clamp_min(1)


def kurtosis(W: torch.Tensor) -> torch.Tensor:
    return W.pow(4).mean((-2, -1)) / W.square().mean((-2, -1)).square()


with torch.no_grad():
    found, tails = alignment(W), kurtosis(W)
    null = torch.stack([alignment(turn @ W) for turn in turns])  # [rotation, copy]
    null_tails = torch.stack([kurtosis(turn @ W) for turn in turns])
    test = disturbed(8000, torch.Generator().manual_seed(10_000 + SEED), off)
    clean = Many(models).each(loss, test)
    dropped_all = test[0][0].var(0, correction=0).sum()
    rotated = [Toy(0).to(device) for _ in models]
    for new, old in zip(rotated, models, strict=True):
        new.load_state_dict(old.state_dict())
        new.W.copy_(turns[0] @ old.W)
    turned = Many(rotated).each(loss, test)
    # with the disturbance of training on: a basis in use is one whose rotation costs something
    shaken = disturbed(8000, torch.Generator().manual_seed(20_000 + SEED), rate)
    worth = ((Many(rotated).each(loss, shaken) - Many(models).each(loss, shaken)) / dropped_all).view(
        -1, COPIES
    )
excess = (found - null.mean(0)).view(-1, COPIES)  # [setting, copy]
stored = (W.norm(dim=1) > 0.5).float().sum(-1).view(-1, COPIES)
tail_excess = (tails - null_tails.mean(0)).view(-1, COPIES)
clean = (clean / dropped_all).view(-1, COPIES)
NOISE = len(RATES) - 2  # settings[n + NOISE + 1] is the noise of RATES[n + 1]
strong = RATES.index(0.5)


def unit_damage(setting: int) -> float:
    """Loss added without one hidden unit: the largest over units against the mean, averaged over copies."""
    ratios = []
    with torch.no_grad():
        for model in models[setting * COPIES : (setting + 1) * COPIES]:
            x = test[0][0]
            h = hidden_act(x @ model.W.T)
            base = (torch.relu(h @ model.W + model.b) - x).square().mean(0).sum()
            added = []
            for unit in range(HIDDEN):
                keep = (torch.arange(HIDDEN, device=device) != unit).float()
                added.append(
                    ((torch.relu((h * keep) @ model.W + model.b) - x).square().mean(0).sum() - base).item()
                )
            ratios.append(max(added) / max(1e-9, sum(added) / HIDDEN))
    return sum(ratios) / COPIES


metrics = {
    "aligned_none": excess[0].mean().item(),
    "aligned_dropout": excess[strong].mean().item(),
    "aligned_noise": excess[-1].mean().item(),
    "null_spread": null.std(0).mean().item(),
    "kurtosis_none": tail_excess[0].mean().item(),
    "kurtosis_dropout": tail_excess[strong].mean().item(),
    "kurtosis_noise": tail_excess[-1].mean().item(),
    "untrained": (alignment(initial) - torch.stack([alignment(t @ initial) for t in turns]).mean(0))
    .mean()
    .item(),
    "stored_none": stored[0].mean().item(),
    "stored_dropout": stored[strong].mean().item(),
    "stored_noise": stored[-1].mean().item(),
    "loss_none": clean[0].mean().item(),
    "loss_dropout": clean[strong].mean().item(),
    "turned_dropout": worth[strong].mean().item(),
    "turned_noise": worth[-1].abs().mean().item(),
    "rotation_change": ((turned - clean.flatten() * dropped_all).abs() / dropped_all).max().item(),
    "unevenness_none": unit_damage(0),
    "unevenness_dropout": unit_damage(strong),
}

# %%
fig, axes = plots.figure(2, 3, "Dropout on the hidden layer of a toy model of superposition")
kinds = {"dropout": list(range(len(RATES))), "noise": [0, *range(len(RATES), len(settings))]}
for n, (kind, at) in enumerate(kinds.items()):
    style = {"color": plots.COLOURS[n], "linestyle": plots.STYLES[n], "marker": "o", "label": kind}
    for ax, values in ((axes[0], found.view(-1, COPIES)), (axes[1], stored), (axes[2], clean)):
        mean, spread = values[at].mean(1).cpu(), values[at].std(1).cpu()
        ax.errorbar(RATES, mean, yerr=spread, capsize=2, **style)
low, high = (
    null.view(100, -1, COPIES).mean(2).quantile(torch.tensor([0.025, 0.975], device=device), dim=0).cpu()
)
axes[0].fill_between(RATES, low[: len(RATES)], high[: len(RATES)], color="0.8", label="random rotations")
for ax, title, y in ((axes[0], "Alignment with the units", "largest share on one unit"),
                     (axes[1], "Features stored", "features"),
                     (axes[2], "Loss without dropout", "share of dropping all")):  # fmt: skip
    ax.legend(fontsize=8, frameon=False)
    plots.label(ax, title, "dropout rate, or noise of that variance", y)
for ax, setting in ((axes[3], 0), (axes[4], strong), (axes[5], len(settings) - 1)):
    example = W[setting * COPIES]
    plots.heatmap(ax, example, f"W: {settings[setting][1]} {settings[setting][0]:g}", x="feature",
                  y="hidden unit", signed=True)  # fmt: skip
run.save(fig, "dropout")

# %%
report = run.finish(metrics)
