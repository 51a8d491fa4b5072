"""GELU in place of ReLU, as a function of the size of the features.

    python experiment.py                      the run that expected.json describes
    python experiment.py --activation silu    another smooth function
    python experiment.py --probability 0.1    denser features

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A ReLU has no scale, a GELU has one
#
# Others have found less superposition with GELU than with ReLU in the toy (Lad and Kostolansky 2023). But
# GELU bends within about one unit of zero, and features on [0, 1] live just there. So the question is not
# GELU or ReLU but how large the features are. We multiply them by c, divide the loss by c^2, and learn the
# bias in units of c: for ReLU nothing whatever may change then, which is the no-op.

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
PROBABILITY = 0.03  # of a feature being there
ACTIVATION = "gelu"  # to compare with ReLU: gelu, silu or softplus
COPIES = 4  # seeds for each size
BATCH = 512  # inputs in a step
STEPS = 1500  # training steps
LR = 1e-2  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %%
SIZES = [0.3, 1.0, 3.0, 10.0, 30.0]
settings = [(kind, c) for kind in ("relu", ACTIVATION) for c in SIZES]
size = torch.tensor([c for _, c in settings for _ in range(COPIES)], device=device)
smooth = torch.tensor([float(kind != "relu") for kind, _ in settings for _ in range(COPIES)], device=device)
bend = {"gelu": nn.functional.gelu, "silu": nn.functional.silu, "softplus": nn.functional.softplus}[
    ACTIVATION
]


class Toy(nn.Module):
    """x' = act(W'W x c + c b) / c: the model as it is for features of size c."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(HIDDEN, FEATURES, generator=generator) / HIDDEN**0.5)
        self.b = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: torch.Tensor, size: torch.Tensor, smooth: torch.Tensor) -> torch.Tensor:
        before = size * (x @ self.W.T @ self.W + self.b)
        return torch.where(smooth > 0, bend(before), torch.relu(before)) / size


def loss(model: Any, batch: Any) -> torch.Tensor:
    x, size, smooth = batch
    return (model(x, size, smooth) - x).square().mean(0).sum()


def inputs(rows: int, generator: torch.Generator) -> torch.Tensor:
    x = superposition.sparse(torch.tensor([PROBABILITY]), rows, FEATURES, generator)
    return x.expand(len(size), -1, -1).to(device)


generator = torch.Generator().manual_seed(SEED)
models = [Toy(1000 * SEED + n % COPIES).to(device) for n in range(len(size))]
test = inputs(10_000, torch.Generator().manual_seed(10_000 + SEED))
whole = test[0].var(0, correction=0).sum()
with torch.no_grad():
    untrained = (Many(models).each(loss, (test, size, smooth)) / whole).median().item()
history = train_many(
    models,
    loss,
    lambda step: (inputs(BATCH, generator), size, smooth),
    steps=STEPS,
    lr=LR,
    decay=True,
    every=STEPS,
)

# %% [markdown]
# ### Stored features, and what stands where nothing should
#
# Stored: alone on at its full size, more than half comes back above what stands there when nothing is on.
# Swap: the model trained with GELU, run with ReLU, and the reverse. Large features should not notice.

# %%
one = torch.eye(FEATURES, device=device).expand(len(size), -1, -1)
with torch.no_grad():
    many = Many(models)
    relative = many.each(loss, (test, size, smooth)) / whole
    swapped = many.each(loss, (test, size, 1 - smooth)) / whole
    each = lambda m, batch: m(*batch)  # noqa: E731
    rest = many.each(each, (torch.zeros_like(one[:, :1]), size, smooth))[:, 0]  # [copy, feature]
    back = many.each(each, (one, size, smooth)).diagonal(dim1=1, dim2=2) - rest
    out = many.each(each, (test[:, :2000], size, smooth))
    absent = test[:, :2000] == 0
W = torch.stack([m.W.detach() for m in models])
overlap = (
    superposition.cosines(W).square().sum(-1).mean(-1) - 1
)  # interference: squared cosines with all others


def table(values: torch.Tensor) -> dict[str, list[float]]:
    mean = values.view(2, len(SIZES), COPIES).mean(-1)
    return {"relu": mean[0].tolist(), ACTIVATION: mean[1].tolist()}


stored, price, swap = table((back > 0.5).float().sum(-1)), table(relative), table(swapped)
overlaps, resting = table(overlap), table(rest.mean(-1))
metrics = {
    "relu_change": max(price["relu"]) - min(price["relu"]),
    "relu_stored": stored["relu"][-1],
    "small_stored": stored[ACTIVATION][0],
    "unit_stored": stored[ACTIVATION][1],
    "large_stored": stored[ACTIVATION][-1],
    "relu_loss": price["relu"][-1],
    "small_loss": price[ACTIVATION][0],
    "unit_loss": price[ACTIVATION][1],
    "large_loss": price[ACTIVATION][-1],
    "linear_loss": 1 - HIDDEN / FEATURES,
    "untrained_loss": untrained,
    "swap_small": swap[ACTIVATION][1] - price[ACTIVATION][1],
    "swap_large": abs(swap[ACTIVATION][-1] - price[ACTIVATION][-1]),
    "overlap_relu": overlaps["relu"][-1],
    "overlap_small": overlaps[ACTIVATION][0],
}

# %%
fig, axes = plots.figure(2, 3, f"{ACTIVATION} against ReLU, by the size of the features")
for ax, values, title, y, marks in (
    (axes[0], stored, "Features stored", "features", {"dimensions": HIDDEN, "features": FEATURES}),
    (axes[1], price, "Loss", "share of dropping all", {"linear model": metrics["linear_loss"]}),
    (axes[2], overlaps, "Interference", "squared cosines with others, summed", {}),
    (axes[3], resting, "Output when nothing is on", "in sizes of a feature", {"nothing": 0.0}),
):
    for n, (kind, column) in enumerate(values.items()):
        ax.plot(SIZES, column, marker="os"[n], color=plots.COLOURS[n], linestyle=plots.STYLES[n], label=kind)
    ax.set_xscale("log")
    plots.levels(ax, marks)
    ax.legend(fontsize=8, frameon=False)
    plots.label(ax, title, "size c of the features", y)
for ax, n in ((axes[4], 1), (axes[5], len(SIZES) - 1)):
    for m, kind in enumerate(("relu", ACTIVATION)):
        at = (m * len(SIZES) + n) * COPIES
        ax.hist(out[at][absent[at]].cpu(), bins=60, range=(-0.3, 0.5), color=plots.COLOURS[m], label=kind,
                histtype="step", linestyle=plots.STYLES[m], linewidth=1.5)  # fmt: skip
    ax.set_yscale("log")
    ax.legend(fontsize=8, frameon=False)
    plots.label(ax, f"Outputs of absent features, c = {SIZES[n]:g}", "output, in sizes of a feature", "count")
run.save(fig, "scale")

# %%
report = run.finish(metrics)
