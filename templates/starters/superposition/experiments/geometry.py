"""More features than dimensions: when a toy model packs them, and into which figures.

    python experiment.py                     the run that expected.json describes
    python experiment.py --activation gelu   another activation at the output
    python experiment.py --tied false        a decoder with weights of its own

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Five features in two dimensions
#
# The model writes n features to m < n dimensions, h = W x, and reads them back as relu(W'h + b). A linear
# model of that shape does principal components: it keeps the m features that matter most. With the ReLU
# and sparse features the model keeps more and pays with interference; it lays them out as antipodal pairs,
# then as a pentagon (Elhage et al. 2022, arXiv:2209.10652). Here all sparsities are trained at once, several
# seeds each, beside the linear model and beside directions that are not learned.

# %%
import math
from typing import Any

import torch
from torch import nn

from lab import plots, superposition
from lab.many import Many, train_many
from lab.results import start_run

# %% knobs
SEED = 0  # weights and data
FEATURES = 5
HIDDEN = 2  # dimensions that they must pass through
IMPORTANCE = 0.9  # weight of feature i in the loss is this to the power i
ACTIVATION = "relu"  # at the output: relu, gelu or linear
TIED = True  # whether the decoder is the transpose of the encoder
COPIES = 6  # seeds for each setting
BATCH = 512  # inputs in a step
STEPS = 2500  # training steps
LR = 1e-2  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Settings
#
# How often a feature is there, from always to one time in a hundred. Then the linear model on sparse
# features, and a model whose directions are random and stay so (only their lengths and biases are learned).

# %%
CHANCES = [1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01]
SPARSE, MIDDLE = 0.02, 0.2  # where we look for pentagons, and for antipodal pairs
settings = [(chance, "trained") for chance in CHANCES] + [(SPARSE, "linear"), (SPARSE, "random")]
copies = [setting for setting in settings for _ in range(COPIES)]
chance = torch.tensor([c for c, _ in copies])
linear = torch.tensor([float(kind == "linear") for _, kind in copies], device=device)
frozen = torch.tensor([float(kind == "random") for _, kind in copies], device=device)
importance = (IMPORTANCE ** torch.arange(FEATURES)).to(device)
activate = {"relu": torch.relu, "gelu": nn.functional.gelu, "linear": lambda out: out}[ACTIVATION]


class Toy(nn.Module):
    """x' = act(W'Wx + b); with ``linear`` without act, with ``frozen`` only lengths are learned."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(HIDDEN, FEATURES, generator=generator) / HIDDEN**0.5)
        self.D = None if TIED else nn.Parameter(self.W.detach().clone())
        self.length = nn.Parameter(torch.ones(FEATURES))
        self.b = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: torch.Tensor, linear: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
        W = self.W + frozen * (superposition.unit(self.W.detach()) * self.length - self.W)
        out = x @ W.T @ (W if self.D is None else self.D) + self.b
        return linear * out + (1 - linear) * activate(out)


def loss(model: Any, batch: Any) -> torch.Tensor:
    x, linear, frozen = batch
    return ((model(x, linear, frozen) - x).square() * importance).mean(0).sum()


generator = torch.Generator().manual_seed(SEED)
each = [c for c, _ in settings]


def batch_at(step: int) -> Any:
    x = superposition.sparse(torch.tensor(each), BATCH, FEATURES, generator)
    return x.repeat_interleave(COPIES, 0).to(device), linear, frozen


models = [Toy(1000 * SEED + n % COPIES).to(device) for n in range(len(copies))]
history = train_many(models, loss, batch_at, steps=STEPS, lr=LR, decay=True, every=max(1, STEPS // 50))

# %% [markdown]
# ### What did each store?
#
# The yardstick for the loss is the answer of a model that has dropped everything: each feature's variance,
# weighted. A feature counts as stored if its column is longer than 0.5.

# %%
test = superposition.sparse(
    torch.tensor(each), 20_000, FEATURES, torch.Generator().manual_seed(10_000 + SEED)
)
test = test.to(device)
variance = (test.var(1, correction=0) * importance).sum(-1)  # [setting]


def losses_of(models: list[nn.Module]) -> torch.Tensor:
    """Loss on the test set, as a share of what dropping every feature costs: [setting, copy]."""
    with torch.no_grad():
        found = Many(models).each(loss, (test.repeat_interleave(COPIES, 0), linear, frozen))
    return found.view(len(settings), COPIES) / variance[:, None]


relative = losses_of(models)
weights = torch.stack([m.W.detach() for m in models]).view(len(settings), COPIES, HIDDEN, FEATURES)
length = weights.norm(dim=2)  # [setting, copy, feature]
stored = (length > 0.5).float().sum(-1)  # [setting, copy]
share = superposition.dimensionality(weights)
cosines = superposition.cosines(weights)
best = relative.argmin(1)  # the copy with the least loss, for each setting
SPARSE_AT, MIDDLE_AT = CHANCES.index(SPARSE), CHANCES.index(MIDDLE)


def of_best(values: torch.Tensor, setting: int) -> torch.Tensor:
    return values[setting, best[setting]]


neighbours = of_best(cosines, SPARSE_AT).sort(-1, descending=True).values[:, 1:]  # [feature, other]
kept = of_best(length, SPARSE_AT) > 0.5
metrics = {
    "dense_stored": stored[0].mean().item(),
    "middle_stored": stored[MIDDLE_AT].mean().item(),
    "sparse_stored": stored[SPARSE_AT].mean().item(),
    "linear_stored": stored[len(CHANCES)].mean().item(),
    "middle_opposite": of_best(cosines, MIDDLE_AT).min().item(),
    "middle_share": of_best(share, MIDDLE_AT)[of_best(length, MIDDLE_AT) > 0.5].mean().item(),
    "sparse_share": of_best(share, SPARSE_AT)[kept].mean().item(),
    "neighbour_cosine": neighbours[kept, :2].mean().item(),
    "far_cosine": neighbours[kept, 2:].mean().item(),
    "sparse_loss": of_best(relative, SPARSE_AT).item(),
    "linear_loss": relative[len(CHANCES)].min().item(),
    "random_loss": relative[len(CHANCES) + 1].median().item(),
}

# %% [markdown]
# ### Principal components, rotations, and the ReLU taken away
#
# The linear model's best loss is known: everything but the HIDDEN most important features. Rotating W must
# change nothing. Taking the ReLU from a trained model shows what it was for.

# %%
spent = test[SPARSE_AT].var(0, correction=0) * importance  # what dropping each feature costs
metrics["pca_loss"] = (spent[HIDDEN:].sum() / spent.sum()).item()
metrics["linear_excess"] = metrics["linear_loss"] - metrics["pca_loss"]
turn = superposition.rotations(1, HIDDEN, torch.Generator().manual_seed(SEED))[0].to(device)
turned = [Toy(0).to(device) for _ in models]
for new, old in zip(turned, models, strict=True):
    new.load_state_dict(old.state_dict())
    for matrix in (new.W, new.D)[: 1 if TIED else 2]:
        matrix.data = turn @ matrix.data
trained = slice(0, len(CHANCES))
metrics["rotation_change"] = (losses_of(turned) - relative)[trained].abs().max().item()
linear = torch.ones_like(linear)
metrics["without_relu"] = losses_of(models)[SPARSE_AT, best[SPARSE_AT]].item()

# %%
fig, axes = plots.figure(2, 4, f"{FEATURES} features in {HIDDEN} dimensions")
names = [f"{c:g}" for c in CHANCES]
plots.heatmap(axes[0], of_best(cosines, SPARSE_AT), f"Cosines, best copy at {SPARSE:g}", x="feature",
              y="feature", limits=(-1, 1), signed=True, numbers=FEATURES <= 8)  # fmt: skip
rows = torch.stack([of_best(length, n) for n in range(len(CHANCES))])
plots.heatmap(axes[1], rows, "Length of each feature", x="feature (important first)",
              y="probability of a feature", y_ticks=names, limits=(0, 1.25))  # fmt: skip
axes[2].plot(range(len(CHANCES)), stored[trained].mean(1).cpu(), marker="o", color=plots.COLOURS[0])
axes[2].set_xticks(range(len(CHANCES)), names)
plots.levels(axes[2], {"dimensions": HIDDEN, "features": FEATURES})
axes[2].set_ylim(0, FEATURES + 0.7)
plots.label(axes[2], "Features stored (mean of seeds)", "probability of a feature", "features")
compared = {"trained": metrics["sparse_loss"], "linear": metrics["linear_loss"], "PCA": metrics["pca_loss"],
            "random W": metrics["random_loss"], "no ReLU": metrics["without_relu"]}  # fmt: skip
plots.bars(axes[3], compared, f"Loss at {SPARSE:g}", y="share of dropping all", highlight=["trained"])
axes[3].set_yscale("log")
for ax, setting in zip(axes[4:7], (0, MIDDLE_AT, SPARSE_AT), strict=True):
    names = [str(i) if size > 0.2 else "" for i, size in enumerate(of_best(length, setting))]
    plots.arrows(ax, of_best(weights, setting)[:2].mT, f"Columns of W, probability {CHANCES[setting]:g}",
                 names=names)  # fmt: skip
spread = share[trained].flatten(1).cpu()
for n, row in enumerate(spread):
    axes[7].scatter([n] * len(row), row, s=8, alpha=0.4, color=plots.COLOURS[0])
axes[7].set_xticks(range(len(CHANCES)), [f"{c:g}" for c in CHANCES])
plots.levels(axes[7], {"1/2: antipodal pair": 0.5, "2/5: pentagon": 0.4} if HIDDEN == 2 else {"1/2": 0.5})
plots.label(axes[7], "Share of a dimension", "probability of a feature", "dimensionality of a feature")
run.save(fig, "geometry")
print(f"closed forms: cos 72 = {math.cos(math.radians(72)):.3f}, cos 144 = {math.cos(math.radians(144)):.3f}")

# %%
report = run.finish(metrics)
