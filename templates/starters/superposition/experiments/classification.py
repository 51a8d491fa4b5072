"""A bottleneck in front of a softmax: how many features fit when interference need only lose?

    python experiment.py                      the run that expected.json describes
    python experiment.py --on 4               four features on at once
    python experiment.py --features 200       more of them

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## To lose, not to vanish
#
# Under squared error (Elhage et al. 2022, arXiv:2209.10652) a little interference costs a little
# everywhere. Under cross-entropy an unwanted logit does no harm until it comes near the right one. Task: k
# of n features are on with values on [0, 1]; the label is the largest. The model is a linear bottleneck, h
# = W x, logits U h + b. The score is accuracy where the largest leads by 0.3 or more: without that split
# one counts ties. Beside it the same bottleneck under squared error, and one whose W is random and stays
# so.

# %%
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lab import plots, superposition
from lab.many import Many, train_many
from lab.results import start_run

# %% knobs
SEED = 0  # weights and data
FEATURES = 64
ON = 3  # features on at once
COPIES = 2  # seeds for each setting
BATCH = 512  # inputs in a step
STEPS = 1200  # training steps
LR = 1e-2  # AdamW, cosine down to zero
DECAY = 1e-3  # penalty on squared weights, in the arm that has one

# %%
run = start_run(globals())
device = run.device

# %%
WIDTHS = [2, 4, 8, 16]
ARMS = ["cross-entropy", "with decay", "random W", "squared error", "shuffled labels"]
HIDDEN = max(WIDTHS)
settings = [(arm, width) for arm in ARMS for width in WIDTHS if arm != "shuffled labels" or width == HIDDEN]
copies = [setting for setting in settings for _ in range(COPIES)]
mask = torch.stack([(torch.arange(HIDDEN) < width).float() for _, width in copies]).to(device)


def flag(arm: str) -> torch.Tensor:
    return torch.tensor([float(name == arm) for name, _ in copies], device=device)


frozen, squared, decays, wrong = (
    flag("random W"),
    flag("squared error"),
    flag("with decay"),
    flag("shuffled labels"),
)


def exactly(rows: int, generator: torch.Generator) -> torch.Tensor:
    """[row, feature]: ON features on, uniform on [0, 1]."""
    place = torch.rand(rows, FEATURES, generator=generator).argsort(-1)
    return torch.where(place < ON, torch.rand(rows, FEATURES, generator=generator), 0.0).to(device)


class Toy(nn.Module):
    """U (mask * W x) + b; under squared error relu of that, tied."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(HIDDEN, FEATURES, generator=generator) / 2)
        self.U = nn.Parameter(torch.randn(HIDDEN, FEATURES, generator=generator) / 2)
        self.b = nn.Parameter(torch.zeros(FEATURES))

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, frozen: torch.Tensor, tied: torch.Tensor
    ) -> torch.Tensor:
        W = mask[:, None] * (frozen * self.W.detach() + (1 - frozen) * self.W)
        return x @ W.T @ (tied * W + (1 - tied) * self.U) + self.b

    def size(self) -> torch.Tensor:
        return self.W.square().sum() + self.U.square().sum()


class Sized(Toy):
    """The same, and with its squared length, so that one call gives both."""

    def forward(self, x: torch.Tensor, *settings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore
        return super().forward(x, *settings), self.size()


def loss(model: Any, batch: Any) -> torch.Tensor:
    x, label, mask, frozen, squared, decays = batch
    out, size = model(x, mask, frozen, squared)
    restored = (torch.relu(out) - x).square().sum(-1).mean()
    return squared * restored + (1 - squared) * F.cross_entropy(out, label) + decays * DECAY * size


generator = torch.Generator().manual_seed(SEED)
fake = torch.randint(FEATURES, (len(copies), BATCH), generator=generator).to(device)


def batch_at(step: int) -> Any:
    x = exactly(BATCH, generator)
    label = x.argmax(-1).expand(len(copies), -1)
    label = torch.where(wrong[:, None] > 0, fake, label)
    return x.expand(len(copies), -1, -1), label, mask, frozen, squared, decays


models = [Sized(1000 * SEED + n % COPIES).to(device) for n in range(len(copies))]
test = exactly(8000, torch.Generator().manual_seed(10_000 + SEED))
order = test.sort(-1, descending=True).values
clear = order[:, 0] - order[:, 1] > 0.3


@torch.no_grad()
def accuracies(models: list[nn.Module]) -> torch.Tensor:
    """Accuracy where the label is clear, and where it is not: [2, setting]."""
    each = lambda m, batch: m(*batch)[0]  # noqa: E731
    guess = Many(models).each(each, (test.expand(len(copies), -1, -1), mask, frozen, squared)).argmax(-1)
    right = (guess == test.argmax(-1)).float()
    return torch.stack([right[:, clear].mean(1), right[:, ~clear].mean(1)]).view(2, -1, COPIES).mean(-1)


untrained = accuracies(models)
history = train_many(models, loss, batch_at, steps=STEPS, lr=LR, decay=True, every=max(1, STEPS // 40))
found, close = accuracies(models)

# %% [markdown]
# ### Capacity, and what keeps vectors finite
#
# By width. Then the geometry: lengths and cosines of W's columns at width 8 for the two losses. Is there
# still a liking for antipodes? With one-hot inputs any number of points on a circle will do, so the limit
# comes from the ON features that are there at once.

# %%
score = dict(zip(settings, found.tolist(), strict=True))
ties = dict(zip(settings, close.tolist(), strict=True))
W = torch.stack([m.W.detach() for m in models]) * mask[:, :, None]
lengths = dict(zip(settings, W.norm(dim=1).view(-1, COPIES * FEATURES).mean(1).tolist(), strict=True))


def pairwise(arm: str, width: int) -> torch.Tensor:
    """All cosines between different features, of all copies."""
    at = settings.index((arm, width)) * COPIES
    off = ~torch.eye(FEATURES, dtype=torch.bool)
    return superposition.cosines(W[at : at + COPIES])[:, off].flatten().cpu()


with torch.no_grad():  # rotating the bottleneck must change nothing
    at = settings.index(("cross-entropy", HIDDEN)) * COPIES
    turn = superposition.rotations(1, HIDDEN, torch.Generator().manual_seed(SEED))[0].to(device)
    one = models[at]
    before = test @ one.W.T @ one.U + one.b
    after = test @ (turn @ one.W).T @ (turn @ one.U) + one.b
    noop = (before - after).abs().max().item()
    cut = (test @ (mask[0][:, None] * one.W).T @ one.U + one.b).argmax(-1)  # all but two dimensions removed
    removed = (cut == test.argmax(-1)).float()[clear].mean().item()
metrics = {f"ce_{width}": score["cross-entropy", width] for width in WIDTHS}
metrics |= {
    "squared_2": score["squared error", 2],
    "squared_8": score["squared error", 8],
    "random_8": score["random W", 8],
    "decay_8": score["with decay", 8],
    "ties_8": ties["cross-entropy", 8],
    "shuffled": score["shuffled labels", HIDDEN],
    "untrained": untrained[0, settings.index(("cross-entropy", 8))].item(),
    "chance": 1 / FEATURES,
    "length_free": lengths["cross-entropy", 8],
    "length_decay": lengths["with decay", 8],
    "opposed_ce": (pairwise("cross-entropy", 8) < -0.8).float().mean().item(),
    "opposed_squared": (pairwise("squared error", 8) < -0.8).float().mean().item(),
    "overlap_ce": pairwise("cross-entropy", 8).square().mean().item(),
    "overlap_squared": pairwise("squared error", 8).square().mean().item(),
    "removed": removed,
    "noop_change": noop,
}

# %%
fig, axes = plots.figure(2, 3, f"Which of {ON} features is largest? {FEATURES} features through a bottleneck")
for n, arm in enumerate(ARMS[:4]):
    axes[0].plot(WIDTHS, [score[arm, w] for w in WIDTHS], marker="os^x"[n], color=plots.COLOURS[n],
                 linestyle=plots.STYLES[n], label=arm)  # fmt: skip
axes[0].set_xscale("log", base=2)
axes[0].legend(fontsize=8, frameon=False)
plots.levels(axes[0], {"chance": 1 / FEATURES})
plots.label(axes[0], "Accuracy where one leads by 0.3", "dimensions of the bottleneck", "accuracy")
for n, arm in enumerate(("cross-entropy", "squared error", "random W")):
    axes[1].hist(pairwise(arm, 8), bins=50, range=(-1, 1), histtype="step", color=plots.COLOURS[n],
                 density=True, linestyle=plots.STYLES[n], linewidth=1.5, label=arm)  # fmt: skip
axes[1].legend(fontsize=8, frameon=False)
plots.label(axes[1], "Cosines between features, 8 dimensions", "cosine", "density")
plots.bars(axes[2], {arm: lengths[arm, 8] for arm in ARMS[:4]}, "Mean length of W's columns, 8 dimensions",
           y="length", highlight=["with decay"])  # fmt: skip
shown = {"leads by 0.3": score["cross-entropy", 8], "does not": ties["cross-entropy", 8],
         "2 of 16 left": removed, "shuffled labels": metrics["shuffled"]}  # fmt: skip
plots.bars(axes[3], shown, "Cross-entropy: where it fails", y="accuracy", marks={"chance": 1 / FEATURES})
for ax, arm in ((axes[4], "cross-entropy"), (axes[5], "squared error")):
    plots.arrows(ax, W[settings.index((arm, 2)) * COPIES][:2].mT, f"Columns of W in two dimensions, {arm}",
                 names=[""] * FEATURES)  # fmt: skip
run.save(fig, "capacity")

# %%
report = run.finish(metrics)
