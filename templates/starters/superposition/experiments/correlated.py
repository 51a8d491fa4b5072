"""Features that occur together, and features that never do: who is put across from whom?

    python experiment.py                       the run that expected.json describes
    python experiment.py --pairs 4 --hidden 4  more pairs, more room
    python experiment.py --probability 0.2     denser features

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Company decides
#
# Two features of a pair are always on together, never, or something in between; how often each is on stays
# the same. In the published toy (Elhage et al. 2022, arXiv:2209.10652) a model puts features that occur
# together at right angles, so that they do not disturb each other, and features that exclude each other
# back to back. We sweep the correlation from -1 to 1 and measure the angle inside pairs, the angle to
# features of other pairs beside it, and what the arrangement is worth.

# %%
from typing import Any

import torch
from torch import nn

from lab import plots, superposition
from lab.many import Many, train_many
from lab.results import start_run

# %% knobs
SEED = 0  # weights and data
PAIRS = 2
HIDDEN = 2  # dimensions that all features must pass through
PROBABILITY = 0.2  # of a feature being on; at most 1/2
COPIES = 24  # seeds for each correlation
BATCH = 512  # inputs in a step
STEPS = 1500  # training steps
LR = 1e-2  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device
FEATURES = 2 * PAIRS

# %% [markdown]
# ### Data with a correlation and a fixed rate
#
# Features 2i and 2i+1 are a pair. With probability |c| its two switches are tied: both on or both off (c >
# 0), or never both on (c < 0); otherwise they are independent. Values are independent throughout.

# %%
LEVELS = [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0]
copies = [c for c in LEVELS for _ in range(COPIES)]


def sample(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Inputs [correlation, row, feature]; all correlations share their draws."""
    value = torch.rand(rows, PAIRS, 2, generator=generator)
    first, second, tie = torch.rand(3, rows, PAIRS, generator=generator)
    found = []
    for c in LEVELS:
        tied = first if c > 0 else (first + PROBABILITY) % 1.0  # apart: below where the first is not
        other = torch.where(tie < abs(c), tied, second)
        on = torch.stack([first < PROBABILITY, other < PROBABILITY], -1)
        found.append(torch.where(on, value, 0.0).flatten(1))
    return torch.stack(found).to(device)


class Toy(nn.Module):
    """x' = relu(W'Wx + b)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(HIDDEN, FEATURES, generator=generator) / HIDDEN**0.5)
        self.b = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.W.T @ self.W + self.b)


def loss(model: Any, x: torch.Tensor) -> torch.Tensor:
    return (model(x) - x).square().mean(0).sum()


generator = torch.Generator().manual_seed(SEED)
models = [Toy(1000 * SEED + n % COPIES).to(device) for n in range(len(copies))]
initial = torch.stack([m.W.detach().clone() for m in models]).view(len(LEVELS), COPIES, HIDDEN, FEATURES)
test = sample(20_000, torch.Generator().manual_seed(10_000 + SEED))
whole = test.var(1, correction=0).sum(-1, keepdim=True)  # [correlation, 1]
history = train_many(
    models, loss, lambda step: sample(BATCH, generator).repeat_interleave(COPIES, 0), steps=STEPS, lr=LR,
    decay=True, every=STEPS,
)  # fmt: skip

# %% [markdown]
# ### The angle inside pairs, and what it is worth
#
# *Within*: cosine between the two of a pair. *Between*: with features of other pairs. To see what the
# arrangement is worth, features change places in a trained model: swapping the second members of the pairs
# keeps the figure and breaks up the pairs. Swapping within a pair must change nothing.

# %%
W = torch.stack([m.W.detach() for m in models]).view(len(LEVELS), COPIES, HIDDEN, FEATURES)
pair = torch.arange(FEATURES) // 2
within = (pair[:, None] == pair) & ~torch.eye(FEATURES, dtype=torch.bool)
between = pair[:, None] != pair


def mean_cosine(W: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mean over chosen pairs of features, [correlation, copy]."""
    return superposition.cosines(W)[..., chosen].mean(-1)


def losses_with(order: torch.Tensor) -> torch.Tensor:
    """Loss when feature i is given the weights and bias of feature order[i]: [correlation, copy]."""
    changed = [Toy(0).to(device) for _ in models]
    with torch.no_grad():
        for new, old in zip(changed, models, strict=True):
            new.W.copy_(old.W[:, order])
            new.b.copy_(old.b[order])
        found = Many(changed).each(loss, test.repeat_interleave(COPIES, 0)).view(len(LEVELS), COPIES)
    return found / whole


same = torch.arange(FEATURES)
flipped = same ^ 1  # 0 1 2 3 becomes 1 0 3 2
broken = torch.where(same % 2 == 0, same, (same + 2) % FEATURES)  # the second members move on by a pair
relative, swapped, moved = losses_with(same), losses_with(flipped), losses_with(broken)
inside, outside = mean_cosine(W, within), mean_cosine(W, between)
APART, FREE, TOGETHER = 0, LEVELS.index(0.0), len(LEVELS) - 1
best = relative.argmin(1)
overlap_inside = superposition.cosines(W)[..., within].abs().mean(-1)
turn = superposition.rotations(1, HIDDEN, torch.Generator().manual_seed(SEED))[0].to(device)
metrics = {
    "within_apart": inside[APART].mean().item(),
    "best_apart": inside[APART, best[APART]].item(),
    "within_together": overlap_inside[TOGETHER].mean().item(),
    "opposite_together": superposition.cosines(W)[TOGETHER].min(-1).values.mean().item(),
    "within_free": inside[FREE].mean().item(),
    "within_untrained": mean_cosine(initial, within).mean().item(),
    "trend": torch.corrcoef(torch.stack([torch.tensor(LEVELS), inside.mean(1).cpu()]))[0, 1].item(),
    "broken_apart": (moved - relative)[APART].mean().item(),
    "broken_together": (moved - relative)[TOGETHER].mean().item(),
    "broken_free": (moved - relative)[FREE].abs().mean().item(),
    "swap_change": (swapped - relative).abs().mean().item(),
    "apart_loss": relative[APART].mean().item(),
    "free_loss": relative[FREE].mean().item(),
    "together_loss": relative[TOGETHER].mean().item(),
    "rotation_change": (mean_cosine(turn @ W, within) - inside).abs().max().item(),
}

# %%
fig, axes = plots.figure(2, 3, f"{PAIRS} pairs of features in {HIDDEN} dimensions")
for ax, c in ((axes[0], APART), (axes[1], FREE), (axes[2], TOGETHER)):
    plots.arrows(ax, W[c, best[c]][:2].mT, f"Correlation {LEVELS[c]:g}: pairs are 0-1, 2-3, ...")
for n, (name, values) in enumerate((("inside a pair", inside), ("between pairs", outside))):
    axes[3].errorbar(LEVELS, values.mean(1).cpu(), yerr=values.std(1).cpu(), capsize=2, marker="os"[n],
                     color=plots.COLOURS[n], linestyle=plots.STYLES[n], label=name)  # fmt: skip
plots.levels(axes[3], {"right angle": 0.0})
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], "Angles", "correlation inside a pair", "cosine, mean and spread of seeds")
for n, (name, values) in enumerate(
    (("trained", relative), ("pairs broken up", moved), ("swapped inside", swapped))
):
    axes[4].plot(LEVELS, values.mean(1).cpu(), marker="osx"[n], color=plots.COLOURS[n],
                 linestyle=plots.STYLES[n], label=name)  # fmt: skip
axes[4].legend(fontsize=8, frameon=False)
plots.label(
    axes[4], "What the arrangement is worth", "correlation inside a pair", "loss, share of dropping all"
)
plots.heatmap(axes[5], superposition.cosines(W[TOGETHER, best[TOGETHER]]), "Cosines, always together",
              x="feature", y="feature", limits=(-1, 1), signed=True, numbers=FEATURES <= 8)  # fmt: skip
run.save(fig, "angles")

# %%
report = run.finish(metrics)
