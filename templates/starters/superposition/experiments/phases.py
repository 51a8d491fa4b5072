"""Two features, one dimension, a penalty on their overlap: the phase diagram, without sampling noise.

    python experiment.py                     the run that expected.json describes
    python experiment.py --penalty-most 0.2  stronger penalties
    python experiment.py --steps 2000        minimise for longer

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Drop one, or put them back to back?
#
# The smallest model that has to choose: h = w1 x1 + w2 x2, x' = relu(w h + b), the second feature of
# importance I, both there with probability p. Without penalty (Elhage et al. 2022, arXiv:2209.10652) it
# drops the less important one or stores both in opposite directions. We add penalty * 2 (w1 w2)^2 and ask
# which choice has the least loss. The expected loss is an integral over two values; we take it by
# Gauss-Legendre nodes and minimise thousands of models at once, so nothing is blurred by samples.

# %%
from typing import Any

import numpy as np
import torch
from torch import nn

from lab import plots
from lab.many import Many, train_many
from lab.results import start_run

# %% knobs
SEED = 0  # of the starts
NODES = 12  # quadrature nodes for each feature
STARTS = 4  # for each setting, of which the best is kept
STEPS = 500  # minimisation steps
LR = 2e-2  # AdamW, cosine down to zero
PENALTY_MOST = 0.08  # the largest penalty

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The expected loss, exactly enough
#
# Four cases: neither feature there, one of them, both. Each case is a set of nodes with weights; the case's
# probability depends on p alone.

# %%
CHANCES = [0.8, 0.6, 0.45, 0.33, 0.25, 0.18, 0.13, 0.09, 0.06, 0.04]
WORTHS = [0.1, 0.18, 0.32, 0.56, 1.0, 1.8, 3.2, 5.6, 10.0]  # importance of feature 2; feature 1 has 1
PENALTIES = [PENALTY_MOST * share for share in (0.0, 0.0625, 0.25, 1.0)]
place, weight = np.polynomial.legendre.leggauss(NODES)
u, w = torch.tensor((place + 1) / 2).float(), torch.tensor(weight / 2).float()
zero, both = torch.zeros(NODES), torch.cartesian_prod(u, u)
inputs = torch.cat([torch.zeros(1, 2), torch.stack([u, zero], 1), torch.stack([zero, u], 1), both]).to(device)


def node_weights(p: float) -> torch.Tensor:
    alone = p * (1 - p) * w
    return torch.cat([torch.tensor([(1 - p) ** 2]), alone, alone, p * p * torch.outer(w, w).flatten()])


grid = [(penalty, worth, p) for penalty in PENALTIES for worth in WORTHS for p in CHANCES]
weights = torch.stack([node_weights(p) for _, _, p in grid for _ in range(STARTS)]).to(device)
worth = torch.tensor([[1.0, i] for _, i, _ in grid for _ in range(STARTS)], device=device)
penalty = torch.tensor([value for value, _, _ in grid for _ in range(STARTS)], device=device)


class Toy(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(2, generator=generator))
        self.b = nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The reconstruction, and the overlap that is penalised."""
        overlap = 2 * (self.w[0] * self.w[1]).square()
        return torch.relu((x @ self.w)[:, None] * self.w + self.b), overlap


def scale(weights: torch.Tensor, worth: torch.Tensor) -> torch.Tensor:
    """What dropping both features costs."""
    mean = weights @ inputs
    return ((weights @ inputs.square() - mean.square()) * worth).sum(-1)


def loss(model: Any, batch: Any) -> torch.Tensor:
    """The expected loss with the penalty, in units of dropping both: so all settings learn at one pace."""
    weights, worth, penalty = batch
    out, overlap = model(inputs)
    task = ((out - inputs).square() * worth).sum(-1) @ weights
    return (task + penalty * overlap) / scale(weights, worth)


models = [Toy(1000 * SEED + n % STARTS).to(device) for n in range(len(penalty))]
batch = (weights, worth, penalty)
untrained = Many(models).each(loss, batch).detach()
history = train_many(models, loss, lambda step: batch, steps=STEPS, lr=LR, decay=True, every=STEPS)

# %% [markdown]
# ### Which phase is each setting in?
#
# By the signs and sizes of the two weights of the best start. Beside it the forecast on the back of an
# envelope: weights of 0 or 1 and no bias. Dropping feature i costs its worth times the variance p/3 -
# p^2/4; two features back to back go wrong only when both are there, and then each by min(x1, x2), whose
# mean square is 1/6; so together p^2 (1 + I)/6, and twice the penalty.

# %%
shape = (len(PENALTIES), len(WORTHS), len(CHANCES))
with torch.no_grad():
    found = Many(models).each(loss, batch).view(-1, STARTS)
    best = found.argmin(1)
    pairs = torch.stack([m.w.detach() for m in models]).view(-1, STARTS, 2)[torch.arange(len(grid)), best]
SMALL = 0.2
PHASES = ["second dropped", "first dropped", "antipodal", "other"]


def phase(one: float, two: float) -> int:
    if abs(one) > SMALL and abs(two) > SMALL:
        return 2 if one * two < 0 else 3
    return 3 if max(abs(one), abs(two)) <= SMALL else int(abs(one) <= SMALL)


def forecast(penalty: float, worth: float, p: float) -> int:
    cost = p / 3 - p * p / 4
    return int(np.argmin([worth * cost, cost, p * p * (1 + worth) / 6 + 2 * penalty]))


phases = torch.tensor([phase(*pair) for pair in pairs.tolist()]).view(shape)
envelope = torch.tensor([forecast(*setting) for setting in grid]).view(shape)
middle = WORTHS.index(1.0)
sampled = torch.rand(200_000, 2, generator=torch.Generator().manual_seed(SEED))
there = torch.rand(200_000, 2, generator=torch.Generator().manual_seed(SEED + 1)) < CHANCES[4]
sampled = torch.where(there, sampled, 0.0).to(device)
at = middle * len(CHANCES) + 4  # the model without penalty at worth 1 and the fifth probability
with torch.no_grad():
    chosen = models[at * STARTS + int(best[at])]
    by_sample = (chosen(sampled)[0] - sampled).square().sum(-1).mean() / scale(
        weights[at * STARTS], worth[at * STARTS]
    )
with torch.no_grad():  # of antipodal models: both signs changed must change nothing, one sign everything
    opposed = [n for n in range(len(WORTHS) * len(CHANCES)) if phases.flatten()[n] == 2]  # without penalty
    flipped: list[torch.Tensor] = []
    for signs in ([-1.0, -1.0], [-1.0, 1.0]):
        mirrored = [Toy(0).to(device) for _ in opposed]
        for new, n in zip(mirrored, opposed, strict=True):
            new.load_state_dict(models[n * STARTS + int(best[n])].state_dict())
            new.w.mul_(torch.tensor(signs, device=device))
        at_best = [n * STARTS for n in opposed]
        flipped.append(
            Many(mirrored).each(loss, tuple(part[at_best] for part in batch)) if opposed else torch.zeros(1)
        )
    before = found.min(1).values[opposed] if opposed else torch.zeros(1)
shuffled = envelope.flatten()[torch.randperm(envelope.numel(), generator=torch.Generator().manual_seed(SEED))]
metrics = {
    "antipodal_free": (phases[0] == 2).float().mean().item(),
    "antipodal_penalised": (phases[-1] == 2).float().mean().item(),
    "free_agreement": (phases[0] == envelope[0]).float().mean().item(),
    "agreement": (phases == envelope).float().mean().item(),
    "shuffled_agreement": (phases.flatten() == shuffled).float().mean().item(),
    "other": (phases == 3).float().mean().item(),
    "both_flipped": (flipped[0] - before).abs().max().item(),
    "one_flipped": (flipped[1] - before).mean().item(),
    "sample_error": abs(by_sample.item() - found[at, best[at]].item()),
    "untrained_loss": untrained.median().item(),
    "free_loss": found.min(1).values.view(shape)[0].mean().item(),
    "antipodal_dense": (phases[0, :, 0] == 2).float().mean().item(),
    "antipodal_sparse": (phases[0, :, -1] == 2).float().mean().item(),
    "starts_that_reach_it": (found < found.min(1, keepdim=True).values + 1e-3).float().mean().item(),
}

# %% [markdown]
# ### The critical penalty
#
# At equal worth: up to which penalty do both stay? The envelope says half of what superposition saves.

# %%
fig, axes = plots.figure(2, 3, "Two features in one dimension, with a penalty on overlap")
for ax, n in zip(axes[:4], range(4), strict=True):
    image = ax.imshow(phases[n], vmin=0, vmax=3, cmap="cividis", aspect="auto", interpolation="nearest")
    for y, x in np.ndindex(shape[1:]):
        ax.text(x, y, "21±?"[phases[n, y, x]], ha="center", va="center", fontsize=7,
                color="white" if phases[n, y, x] < 2 else "black")  # fmt: skip
        if phases[n, y, x] != envelope[n, y, x]:
            ax.plot([x - 0.4, x + 0.4], [y - 0.4, y - 0.4], color="white", linewidth=2)
    ax.set_xticks(range(len(CHANCES)), [f"{p:g}" for p in CHANCES])
    ax.set_yticks(range(len(WORTHS)), [f"{i:g}" for i in WORTHS])
    plots.label(ax, f"Penalty {PENALTIES[n]:g}", "probability of a feature", "importance of feature 2")
critical = [max(0.0, 0.5 * (p / 3 - p * p / 4 - p * p / 3)) for p in CHANCES]
kept = [max((PENALTIES[n] for n in range(4) if phases[n, middle, x] == 2), default=float("nan"))
        for x in range(len(CHANCES))]  # fmt: skip
axes[4].plot(CHANCES, critical, color=plots.COLOURS[0], label="envelope: half of what it saves")
axes[4].scatter(CHANCES, kept, color=plots.COLOURS[1], zorder=3, label="largest penalty tried that kept both")
axes[4].legend(fontsize=8, frameon=False)
plots.label(axes[4], "Critical penalty, equal worth", "probability of a feature", "penalty")
plots.bars(axes[5], {name: (phases == n).float().mean().item() for n, name in enumerate(PHASES)},
           "Phases over the whole grid", y="share of settings", highlight=["antipodal"])  # fmt: skip
run.save(fig, "phases")

# %%
report = run.finish(metrics)
