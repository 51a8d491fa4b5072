"""Which figure does training pick? Five features in two dimensions, many starts, two optimisers.

    python experiment.py                      the run that expected.json describes
    python experiment.py --probability 0.1    less sparse features
    python experiment.py --copies 100         narrower intervals

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Equal features, unequal luck
#
# Five equally important sparse features in two dimensions can end as a regular pentagon, as a square (two
# antipodal pairs) with the fifth left out, or as something else. Which is best can be computed; which is
# reached depends on start and optimiser. We train every start three times: with Adam, with Adam on other
# data, and by plain gradient descent, from weights of four sizes, and count.

# %%
from collections import Counter
from typing import Any

import torch
from torch import nn

from lab import plots, superposition
from lab.many import Many, train_many
from lab.results import start_run

# %% knobs
SEED = 0  # weights and data
FEATURES = 5
PROBABILITY = 0.05  # of a feature being there
COPIES = 16  # starts of each size
BATCH = 256  # inputs in a step
STEPS = 1500  # training steps
LR = 1e-2  # of Adam, cosine down to zero
DESCENT_LR = 0.7  # of plain gradient descent, which takes three times the steps

# %%
run = start_run(globals())
device = run.device


# %%
class Toy(nn.Module):
    """x' = relu(W'Wx + b), two hidden dimensions."""

    def __init__(self, seed: int, size: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(size * torch.randn(2, FEATURES, generator=generator))
        self.b = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.W.T @ self.W + self.b)


def loss(model: Any, x: torch.Tensor) -> torch.Tensor:
    return (model(x) - x).square().mean(0).sum()


SIZES = [0.03, 0.1, 0.3, 1.0]


def starts() -> list[nn.Module]:
    return [Toy(1000 * SEED + n, size).to(device) for size in SIZES for n in range(COPIES)]


def stream(data_seed: int, copies: int) -> Any:
    """One batch a step, shared by all copies."""
    generator = torch.Generator().manual_seed(data_seed)
    chance = torch.tensor([PROBABILITY])
    draw = superposition.sparse
    return lambda step: draw(chance, BATCH, FEATURES, generator).expand(copies, -1, -1).to(device)


# %% [markdown]
# ### Train: Adam, Adam on other data, plain gradient descent

# %%
untrained, adam, again, descent = starts(), starts(), starts(), starts()
many = len(adam)
followed = max(1, STEPS // 40)
history = train_many(
    adam, loss, stream(SEED, many), steps=STEPS, lr=LR, decay=True, every=followed, label="Adam"
)
train_many(again, loss, stream(SEED + 500, many), steps=STEPS, lr=LR, decay=True, label="other data")

stack, batch_at = Many(descent), stream(SEED, many)
for step in range(3 * STEPS):  # the same, without Adam
    losses = stack.each(loss, batch_at(step))
    gradients = torch.autograd.grad(losses.sum(), list(stack.parameters.values()))
    with torch.no_grad():
        for parameter, gradient in zip(stack.parameters.values(), gradients, strict=True):
            parameter -= DESCENT_LR * (1 - step / (3 * STEPS)) * gradient
stack.unstack()

# %% [markdown]
# ### Name each outcome by the angles between neighbours, and give it its loss

# %%
test = superposition.sparse(torch.tensor([PROBABILITY]), 50_000, FEATURES, torch.Generator().manual_seed(99))
test = test.to(device)
dropped = test.var(1, correction=0).sum().item()  # the loss of a model that drops everything


def name(model: nn.Module) -> str:
    return superposition.figure_in_plane(model.W.detach())


@torch.no_grad()
def loss_of(model: nn.Module) -> float:
    return loss(model, test[0]).item() / dropped


runs = {"Adam": adam, "other data": again, "descent": descent}
names = {arm: [name(m) for m in models] for arm, models in runs.items()}
prices: dict[str, list[float]] = {}
for model, figure in zip([*adam, *descent], names["Adam"] + names["descent"], strict=True):
    prices.setdefault(figure, []).append(loss_of(model))
price = {figure: sum(found) / len(found) for figure, found in prices.items()}


def share(arm: str, figure: str, size: int | None = None) -> float:
    """Share of an arm's copies that end so; of one size of start, or of all."""
    part = names[arm] if size is None else names[arm][size * COPIES : (size + 1) * COPIES]
    return part.count(figure) / len(part)


def agreement(one: list[str], two: list[str]) -> float:
    return sum(a == b for a, b in zip(one, two, strict=True)) / len(one)


shuffled = torch.randperm(many, generator=torch.Generator().manual_seed(SEED)).tolist()
with torch.no_grad():
    bad = [loss_of(model) for model in untrained[-COPIES:]]
    ideal = Toy(0, 1.0).to(device)
    turn = torch.arange(FEATURES) * 2 * torch.pi / FEATURES
    ring = torch.stack([turn.cos(), turn.sin()]).to(device)
    candidates = []
    picked = next((n for n, figure in enumerate(names["Adam"]) if figure == "pentagon"), 0)
    turned, scattered = Toy(0, 1.0).to(device), []
    turned.W.copy_(
        superposition.rotations(1, 2, torch.Generator().manual_seed(SEED))[0].to(device) @ adam[picked].W
    )
    turned.b.copy_(adam[picked].b)
    noop = abs(loss_of(turned) - loss_of(adam[picked]))
    for n in range(20):  # the same lengths and biases, every column turned by an angle of its own
        each = superposition.rotations(FEATURES, 2, torch.Generator().manual_seed(n)).to(device)
        turned.W.copy_((each @ adam[picked].W.T[:, :, None])[:, :, 0].T)
        scattered.append(loss_of(turned))
    for radius in torch.linspace(0.9, 1.4, 26):  # a regular polygon, its length and bias searched
        for bias in torch.linspace(-0.6, 0.0, 25):
            ideal.W.copy_(radius * ring)
            ideal.b.fill_(bias)
            candidates.append(loss_of(ideal))
metrics = {
    "pentagon_adam": share("Adam", "pentagon"),
    "pentagon_descent": share("descent", "pentagon"),
    "pentagon_untrained": [name(model) for model in untrained].count("pentagon") / many,
    "other_adam": share("Adam", "other"),
    "pentagon_loss": price.get("pentagon", float("nan")),
    "ideal_loss": min(candidates),
    "square_excess": price.get("square", 1.0) - price.get("pentagon", 1.0),
    "untrained_loss": sum(bad) / len(bad),
    "same_start": agreement(names["Adam"], names["other data"]),
    "shuffled_start": agreement(names["Adam"], [names["other data"][n] for n in shuffled]),
    "scattered_loss": sorted(scattered)[len(scattered) // 2],
    "noop_change": noop,
}
print("outcomes with Adam:", dict(Counter(names["Adam"])), " by descent:", dict(Counter(names["descent"])))

# %%
figures = sorted(set(names["Adam"]) | set(names["descent"]), key=lambda figure: price[figure])
fig, axes = plots.figure(2, 3, "Which figure does training pick?")
for ax, arm in zip(axes[:2], ("Adam", "descent"), strict=True):
    floor = [0.0] * len(SIZES)
    for n, figure in enumerate(figures):
        height = [share(arm, figure, size) for size in range(len(SIZES))]
        ax.bar(range(len(SIZES)), height, bottom=floor, label=figure, color=plots.COLOURS[n],
               hatch=["", "/", ".", "x", "-"][n % 5], edgecolor="white")  # fmt: skip
        floor = [a + b for a, b in zip(floor, height, strict=True)]
    ax.set_xticks(range(len(SIZES)), [f"{size:g}" for size in SIZES])
    ax.legend(fontsize=8, loc="lower left")
    plots.label(ax, f"Outcomes, {arm}", "size of the initial weights", "share of starts")
plots.bars(axes[2], {f: price[f] for f in figures} | {"ideal": min(candidates)}, "Loss of each outcome",
           y="share of dropping all", highlight=["ideal"])  # fmt: skip
for ax, figure in zip(axes[3:5], figures[:2], strict=False):
    model = next(
        m for arm in ("Adam", "descent") for m, f in zip(runs[arm], names[arm], strict=True) if f == figure
    )
    names_of = [str(i) if size > 0.2 else "" for i, size in enumerate(model.W.norm(dim=0))]
    plots.arrows(ax, model.W.mT, f"A {figure}", names=names_of)
spread = torch.tensor(history["loss"]) / dropped
for n, size in enumerate(SIZES):
    part = spread[:, n * COPIES : (n + 1) * COPIES].median(1).values
    axes[5].plot(history["step"], part, color=plots.COLOURS[n], linestyle=plots.STYLES[n], label=f"{size:g}")
axes[5].set_yscale("log")
axes[5].legend(fontsize=8, frameon=False, title="initial size", title_fontsize=8)
plots.label(axes[5], "Median loss with Adam, one batch", "step", "share of dropping all")
run.save(fig, "outcomes")

# %%
report = run.finish(metrics)
