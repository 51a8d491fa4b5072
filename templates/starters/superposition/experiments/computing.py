"""Computing in superposition: absolute values with fewer neurons than they need.

    python experiment.py                                        the run that expected.json describes
    python experiment.py --function square --hidden-bias true   a curve that two neurons cannot fit
    python experiment.py --neurons 40                           room for all: two neurons a feature

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A basis that means something, and neurons that must be shared
#
# The second toy of the superposition paper computes instead of storing (Elhage et al. 2022,
# arXiv:2209.10652): inputs in [-1, 1], targets |x|, the network relu(W2 relu(W1 x) + b). Each feature wants
# two neurons, one for each sign. With too few, dense data give neurons to the important features and drop
# the rest; sparse data mix. And who shares with whom, once features come in pairs that are always on
# together, or never?

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
NEURONS = 20  # a feature needs two to be exact
FUNCTION = "abs"  # of each feature: abs, relu or square
HIDDEN_BIAS = False  # whether neurons have biases; without them every kink is at zero
IMPORTANCE = 0.95  # weight of feature i in the loss is this to the power i
COPIES = 4  # seeds for each setting
BATCH = 512  # inputs in a step
STEPS = 2500  # training steps
LR = 5e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Data: five sparsities, and pairs
#
# Features 2i and 2i+1 are a pair. *Together*: both are on or both are off. *Apart*: they are never both on.
# How often each of them is on stays the same, or we would only have changed the sparsity.

# %%
CHANCES = [1.0, 0.5, 0.2, 0.1, 0.03]
PAIRED = 0.1  # probability at which pairs are studied
settings = [(p, "independent") for p in CHANCES] + [(PAIRED, "together"), (PAIRED, "apart")]
importance = (IMPORTANCE ** torch.arange(FEATURES)).to(device)
compute = {"abs": torch.abs, "relu": torch.relu, "square": torch.square}[FUNCTION]


def sample(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Inputs [copy, row, feature] in [-1, 1]."""
    value = 2 * torch.rand(rows, FEATURES, generator=generator) - 1
    chance = torch.rand(rows, FEATURES, generator=generator)
    first = chance[:, ::2]
    other = (first + PAIRED) % 1.0  # below PAIRED where the first is not
    tied = {"together": first, "apart": other}
    found = []
    for p, kind in settings:
        on = chance < p
        if kind != "independent":
            on = torch.stack([first < p, tied[kind] < p], -1).flatten(1)
        found.append(torch.where(on, value, 0.0))
    return torch.stack(found).repeat_interleave(COPIES, 0).to(device)


class Toy(nn.Module):
    """relu(W2 relu(W1 x + a) + b)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W1 = nn.Parameter(torch.randn(NEURONS, FEATURES, generator=generator) / FEATURES**0.5)
        # every feature starts from the neurons that read it: an output whose ReLU is shut learns nothing
        self.W2 = nn.Parameter(self.W1.detach().abs().T.clone())
        self.a = nn.Parameter(torch.zeros(NEURONS)) if HIDDEN_BIAS else None
        self.b = nn.Parameter(torch.zeros(FEATURES))

    def neurons(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.W1.T + (0 if self.a is None else self.a))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.neurons(x) @ self.W2.T + self.b)


def loss(model: Any, x: torch.Tensor) -> torch.Tensor:
    """As a share of what the best constant answer costs."""
    target = compute(x)
    cost = (target.var(0, correction=0) * importance).sum()
    return ((model(x) - target).square().mean(0) * importance).sum() / cost


generator = torch.Generator().manual_seed(SEED)
many = len(settings) * COPIES
models = [Toy(1000 * SEED + n % COPIES).to(device) for n in range(many)]
test = sample(4000, torch.Generator().manual_seed(10_000 + SEED))
with torch.no_grad():
    untrained = Many(models).each(loss, test).median().item()
    start_purity = torch.stack([superposition.purity(m.W1) for m in models]).mean().item()
history = train_many(
    models, loss, lambda step: sample(BATCH, generator), steps=STEPS, lr=LR, decay=True, every=STEPS
)

# %% [markdown]
# ### Which features are computed, which neurons are mixed?
#
# Computed: alone on, the error is below a tenth of that of answering nothing. Mixed: the largest input
# weight of a neuron has less than 0.9 of its squared sum. Neurons that do nothing are left out.

# %%
grid = torch.linspace(-1, 1, 41, device=device)
alone = grid[None, :, None] * torch.eye(FEATURES, device=device)[:, None]  # [feature, value, feature]


@torch.no_grad()
def computed(model: nn.Module) -> torch.Tensor:
    """Which features come out right when they are alone: [feature]."""
    out = torch.stack([model(alone[i])[:, i] for i in range(FEATURES)])
    target = compute(grid)
    return (out - target).square().mean(1) < 0.1 * target.square().mean()


def shape(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).view(len(settings), COPIES, *values[0].shape)


W1, W2 = shape([m.W1.detach() for m in models]), shape([m.W2.detach() for m in models])
works = W1.norm(dim=-1) * W2.norm(dim=-2) > 0.1  # [setting, copy, neuron]
pure = superposition.purity(W1)
mixed = works & (pure < 0.9)
mixed_share = mixed.sum((1, 2)) / works.sum((1, 2)).clamp_min(1)  # [setting]
right = shape([computed(m) for m in models]).float().sum(-1).mean(1)
top = W1.abs().topk(2, dim=-1).indices  # [..., neuron, 2]
together_on = superposition.cosines(W1.abs())  # how far two features use the same neurons, signs aside
different = ~torch.eye(FEATURES, dtype=torch.bool, device=device)


def within_pairs(setting: int, pairing: torch.Tensor) -> float:
    """Neurons shared inside pairs (places 2i and 2i + 1 of the pairing), in units of any two features."""
    first, second = pairing[::2].to(device), pairing[1::2].to(device)
    usual = together_on[setting][:, different].mean()
    return (together_on[setting][:, first, second].mean() / usual).item()


true_pairs = torch.arange(FEATURES)
shuffled = [torch.randperm(FEATURES, generator=torch.Generator().manual_seed(n)) for n in range(50)]
TOGETHER, APART, ALONE = len(CHANCES), len(CHANCES) + 1, CHANCES.index(PAIRED)
with torch.no_grad():
    relative = Many(models).each(loss, test).view(len(settings), COPIES).mean(1)
    # without mixing: each neuron keeps its largest weight alone; control: as many weights go, at random
    draw = torch.Generator().manual_seed(SEED)
    pruned, thinned = ([Toy(0).to(device) for _ in models] for _ in range(2))
    for new, other, old in zip(pruned, thinned, models, strict=True):
        new.load_state_dict(old.state_dict())
        other.load_state_dict(old.state_dict())
        new.W1.copy_(old.W1 * (old.W1.abs() >= old.W1.abs().amax(-1, keepdim=True)))
        chance = torch.rand(NEURONS, FEATURES, generator=draw).to(device)
        other.W1.copy_(old.W1 * (chance >= chance.amax(-1, keepdim=True)))
    order = torch.randperm(NEURONS, generator=torch.Generator().manual_seed(SEED)).to(device)
    permuted = [Toy(0).to(device) for _ in models]
    for new, old in zip(permuted, models, strict=True):
        new.load_state_dict(old.state_dict())
        new.W1.copy_(old.W1[order])
        new.W2.copy_(old.W2[:, order])
        if new.a is not None:
            new.a.copy_(old.a[order])
    without = Many(pruned).each(loss, test).view(len(settings), COPIES).mean(1)
    at_random = Many(thinned).each(loss, test).view(len(settings), COPIES).mean(1)
    noop = Many(permuted).each(loss, test).view(len(settings), COPIES).mean(1)
# the asymmetric motif: large input and small output weight for one feature, the reverse for the other
out_weights = W2.mT.gather(-1, top).abs()
in_weights = W1.gather(-1, top).abs()
lopsided = (in_weights[..., 0] > 1.5 * in_weights[..., 1]) & (out_weights[..., 0] * 1.5 < out_weights[..., 1])
rarest = len(CHANCES) - 1
metrics = {
    "dense_computed": right[0].item(),
    "sparse_computed": right[rarest].item(),
    "dense_mixed": mixed_share[0].item(),
    "middle_mixed": mixed_share[ALONE].item(),
    "sparse_mixed": mixed_share[rarest].item(),
    "untrained_purity": start_purity,
    "dense_loss": relative[0].item(),
    "sparse_loss": relative[rarest].item(),
    "untrained_loss": untrained,
    "dense_cut": (without - relative)[0].item(),
    "dense_cut_random": (at_random - relative)[0].item(),
    "sparse_cut": (without - relative)[rarest].item(),
    "noop_change": (noop - relative).abs().max().item(),
    "within_independent": within_pairs(ALONE, true_pairs),
    "within_together": within_pairs(TOGETHER, true_pairs),
    "within_apart": within_pairs(APART, true_pairs),
    "within_shuffled": sum(within_pairs(APART, p) for p in shuffled) / len(shuffled),
    "lopsided": (lopsided & mixed)[rarest].sum().item() / max(1, mixed[rarest].sum().item()),
}

# %%
fig, axes = plots.figure(2, 3, f"{FEATURES} features, {NEURONS} neurons, {FUNCTION} of each")
names = [f"{p:g}" for p in CHANCES]
for ax, setting in ((axes[0], 0), (axes[1], ALONE), (axes[2], rarest)):
    weights = W1[setting, 0][W1[setting, 0].abs().argmax(-1).argsort()].cpu()  # sorted by main feature
    up, down = torch.zeros(NEURONS), torch.zeros(NEURONS)
    for feature in range(FEATURES):
        height = weights[:, feature]
        floor = torch.where(height > 0, up, down)
        ax.bar(range(NEURONS), height, bottom=floor, color=plots.COLOURS[feature % 7], edgecolor="white",
               linewidth=0.4, width=0.9)  # fmt: skip
        up, down = up + height.clamp_min(0), down + height.clamp_max(0)
    ax.axhline(0, color="0.2", linewidth=0.6)
    plots.label(
        ax, f"Input weights, stacked by feature; probability {CHANCES[setting]:g}", "neuron", "weight"
    )
axes[3].plot(range(len(CHANCES)), mixed_share[: len(CHANCES)].cpu(), marker="o", color=plots.COLOURS[0],
             label="neurons mixed")  # fmt: skip
axes[3].plot(range(len(CHANCES)), right[: len(CHANCES)].cpu() / FEATURES, marker="s", linestyle="--",
             color=plots.COLOURS[1], label="features computed")  # fmt: skip
axes[3].set_xticks(range(len(CHANCES)), names)
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], "Dropping, then sharing", "probability of a feature", "share")
pairs = {"together": metrics["within_together"], "independent": metrics["within_independent"],
         "apart": metrics["within_apart"]}  # fmt: skip
plots.bars(axes[4], pairs, "Neurons shared inside a pair", y="in units of any two features",
           marks={"random pairing": metrics["within_shuffled"]})  # fmt: skip
model = models[rarest * COPIES]
for feature, colour in ((0, 0), (FEATURES // 2, 1), (FEATURES - 1, 2)):
    with torch.no_grad():
        curve = model(alone[feature])[:, feature].cpu()
    axes[5].plot(grid.cpu(), curve, color=plots.COLOURS[colour], linestyle=plots.STYLES[colour],
                 label=f"feature {feature}")  # fmt: skip
axes[5].plot(grid.cpu(), compute(grid).cpu(), color="0.6", linewidth=0.8, label="target")
axes[5].legend(fontsize=8, frameon=False)
plots.label(axes[5], f"Alone on, at {CHANCES[-1]:g}", "x", "output")
run.save(fig, "neurons")

# %%
report = run.finish(metrics)
