"""Which values do features take? Graded, with a gap above zero, or in a few levels.

    python experiment.py                       the run that expected.json describes
    python experiment.py --question levels     a few levels instead of a gap
    python experiment.py --question bits       features that are off or exactly one

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## What a bias may cut away
#
# In the published toy (Elhage et al. 2022, arXiv:2209.10652) an active feature is uniform on [0, 1]. Alone
# on, it comes back as relu(|W_i|^2 x + b_i): a slope and an intercept. A feature of one value needs one
# point of that line right, so |W_i|^2 + b_i = 1 will do, with any negative bias, and a negative bias
# swallows interference. A graded feature needs the whole line, slope 1 and intercept 0. So what does
# training choose for values in between, and is it the gap above zero that counts, or only how much the
# values vary?

# %%
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lab import plots, superposition
from lab.many import Many, train_many
from lab.results import start_run

# %% knobs
SEED = 0  # weights and data
QUESTION = "gap"  # gap, levels or bits
FEATURES = 40
HIDDEN = 10  # dimensions that they must pass through
PROBABILITY = 0.05  # of a feature being on
COPIES = 3  # seeds for each distribution
BATCH = 256  # inputs in a step
STEPS = 1500  # training steps
LR = 1e-2  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Distributions of the active value
#
# Each is a function of a uniform u. *Power* touches zero and yet varies as little as uniform on [1/2, 1]
# does, both relative to the mean; *two points* 1/2 and 1 have the same gap as uniform on [1/2, 1] and vary
# more. Uniform on [0, 1/2] is uniform on [0, 1] at half the size: a ReLU network has no scale, so it is the
# no-op.


# %%
def uniform(low: float, high: float = 1.0) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda u: low + (high - low) * u


def levels(count: int, spread: float, mean: float = 0.75) -> Callable[[torch.Tensor], torch.Tensor]:
    """Equally likely, equally spaced values with this mean and standard deviation."""
    unit = ((count**2 - 1) / 12) ** 0.5 if count > 1 else 1.0
    step = spread / unit if count > 1 else 0.0
    return lambda u: mean + step * ((u * count).floor().clamp(max=count - 1) - (count - 1) / 2)


POWER = 28**0.5 - 1  # 1 / (k (k + 2)) = 1/27, the squared variation of uniform [1/2, 1]
CONSTANT = levels(1, 0.0, 1.0)
ARMS = {
    "gap": {
        "[0, 1]": uniform(0), "[0, 1/2]": uniform(0, 0.5), "[1/4, 1]": uniform(0.25),
        "[1/2, 1]": uniform(0.5),
        "[3/4, 1]": uniform(0.75), "two points": levels(2, 0.25), "[0.27, 1]": uniform(0.268),
        "power": lambda u: u ** (1 / POWER), "one value": CONSTANT,
    },
    "levels": {"one level": levels(1, 0)}
    | {f"2, ±{d:g}": levels(2, d) for d in (0.03, 0.06, 0.12, 0.25)}
    | {"3 levels": levels(3, 0.12), "9 levels": levels(9, 0.12)}
    | {"[1/2, 1]": uniform(0.5), "[0, 1]": uniform(0)},
    "bits": {"[0, 1]": uniform(0), "one value": CONSTANT},
}[QUESTION]  # fmt: skip
CHANCES = [0.1, 0.05, 0.02, 0.01, 0.005] if QUESTION == "bits" else [PROBABILITY]
RAREST = CHANCES[-1]
settings = [(arm, chance, free) for chance in CHANCES for arm in ARMS for free in (True,)]
settings += [(list(ARMS)[-1] if QUESTION != "gap" else "[1/2, 1]", PROBABILITY, False)]  # no bias at all
copies = [setting for setting in settings for _ in range(COPIES)]
free = torch.tensor([float(is_free) for _, _, is_free in copies], device=device)


def sample(batch: int, generator: torch.Generator) -> torch.Tensor:
    """Inputs [copy, batch, feature]; all settings share their draws."""
    u, chance = torch.rand(2, batch, FEATURES, generator=generator)
    rows = [torch.where(chance < p, ARMS[arm](u), 0.0) for arm, p, _ in settings]
    return torch.stack(rows).repeat_interleave(COPIES, 0).to(device)


class Toy(nn.Module):
    """x' = relu(W'Wx + b); with ``free`` zero the bias stays at zero or above, so it cannot filter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(HIDDEN, FEATURES, generator=generator) / HIDDEN**0.5)
        self.b = nn.Parameter(torch.zeros(FEATURES))

    def bias(self, free: torch.Tensor) -> torch.Tensor:
        return torch.where(free > 0, self.b, self.b.clamp_min(0.0))

    def forward(self, x: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.W.T @ self.W + self.bias(free))


def loss(model: Any, batch: Any) -> torch.Tensor:
    x, free = batch
    return (model(x, free) - x).square().mean(0).sum() / x.square().mean(0).sum()


generator = torch.Generator().manual_seed(SEED)
models = [Toy(1000 * SEED + n % COPIES).to(device) for n in range(len(copies))]
test = sample(4000, torch.Generator().manual_seed(10_000 + SEED))
untrained = Many(models).each(loss, (test, free)).median().item()
history = train_many(
    models, loss, lambda step: (sample(BATCH, generator), free), steps=STEPS, lr=LR, decay=True, every=STEPS
)

# %% [markdown]
# ### The line that each stored feature gets, and what it costs
#
# A feature is stored if, alone on at its mean value, more than half of that comes back. Intercepts are in
# units of the mean value: without that, distributions of other size cannot be set side by side. Losses are
# shares of the loss of answering zero.

# %%
with torch.no_grad():
    W = torch.stack([m.W for m in models])  # [copy, hidden, feature]
    b = torch.stack([m.bias(f) for m, f in zip(models, free, strict=True)])
    on = test > 0
    mean = test.sum((1, 2)) / on.sum((1, 2))
    variation = ((test.square().sum((1, 2)) / on.sum((1, 2)) - mean.square()).clamp_min(0)).sqrt() / mean
    slope = W.square().sum(1)
    back = torch.relu(slope * mean[:, None] + b)
    kept = back / mean[:, None] > 0.5
    count = kept.sum(1).float()
    line = (slope * kept).sum(1) / count.clamp_min(1)
    intercept = (b * kept).sum(1) / count.clamp_min(1) / mean
    relative = Many(models).each(loss, (test, free))
    # the bias taken away; as a control, the same biases dealt out anew among the features
    order = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(SEED)).to(device)
    changed = [Toy(0).to(device) for _ in models]
    without: list[torch.Tensor] = []
    for biases in (torch.zeros_like(b), b[:, order]):
        for new, W_of, bias in zip(changed, W, biases, strict=True):
            new.W.copy_(W_of)
            new.b.copy_(bias)
        without.append(Many(changed).each(loss, (test, free)))
    out = Many(models).each(lambda m, args: m(*args), (test, free))
    crowd = on.sum(-1)
    squared = (out - test).square().sum(-1)
    several = (squared * (crowd > 1)).sum(1) / squared.sum(1)  # part of the error where two or more are on
    leak = (out * ~on).sum((1, 2)) / (~on).sum((1, 2)) / mean


def by_setting(values: torch.Tensor) -> list[float]:
    return values.view(len(settings), COPIES).mean(1).tolist()


table = {name: by_setting(values) for name, values in {
    "slope": line, "intercept": intercept, "stored": count, "loss": relative, "several": several,
    "leak": leak, "variation": variation, "bare": without[0] - relative,
    "dealt": (without[1] - relative).abs()}.items()}  # fmt: skip
rows = {setting: {name: column[n] for name, column in table.items()} for n, setting in enumerate(settings)}


print("probability, distribution:", ", ".join(table))
for (arm, p, is_free), row in rows.items():
    figures = "  ".join(f"{value:6.3f}" for value in row.values())
    print(f"{p:5.2f} {arm:>10}{'' if is_free else ' (no filter)'}  {figures}")


def at(arm: str, what: str, chance: float = PROBABILITY) -> float:
    return rows[arm, chance, True][what]


filterless = rows[settings[-1]]
metrics = {
    "graded_slope": at("[0, 1]", "slope"),
    "graded_intercept": at("[0, 1]", "intercept"),
    "graded_loss": at("[0, 1]", "loss"),
    "untrained_loss": untrained,
    "no_filter_loss": filterless["loss"],
    "without_bias": at("[0, 1]", "bare"),
    "dealt_bias": at("[0, 1]", "dealt"),
}
if QUESTION == "gap":
    metrics |= {
        "half_intercept": at("[1/2, 1]", "intercept"),
        "half_loss": at("[1/2, 1]", "loss"),
        "scale_change": abs(at("[0, 1/2]", "intercept") - at("[0, 1]", "intercept")),
        "same_gap": abs(at("two points", "intercept") - at("[1/2, 1]", "intercept")),
        "same_variation": abs(at("power", "intercept") - at("[1/2, 1]", "intercept")),
        "same_variation_wide": abs(at("two points", "intercept") - at("[0.27, 1]", "intercept")),
        "one_value_loss": at("one value", "loss"),
    }
elif QUESTION == "levels":
    metrics |= {
        "one_level_slope": at("one level", "slope"),
        "near_slope": at("2, ±0.03", "slope"),
        "far_slope": at("2, ±0.25", "slope"),
        "number_matters": abs(at("2, ±0.12", "slope") - at("9 levels", "slope")),
        "spread_matters": abs(at("2, ±0.03", "slope") - at("2, ±0.25", "slope")),
        "one_level_loss": at("one level", "loss"),
        "far_loss": at("2, ±0.25", "loss"),
    }
else:
    metrics |= {
        "bit_slope": at("one value", "slope", RAREST),
        "bit_sum": at("one value", "slope", RAREST) + at("one value", "intercept", RAREST),
        "bit_gain": at("[0, 1]", "loss", RAREST) - at("one value", "loss", RAREST),
        "bit_crowded_gain": at("[0, 1]", "loss") - at("one value", "loss"),
        "bit_stored": at("one value", "stored"),
        "bit_several": at("one value", "several", RAREST),
        "graded_several": at("[0, 1]", "several", RAREST),
    }

# %% [markdown]
# ### Bits on a circle
#
# With exactly one bit on, n unit directions around a circle, made R times as long, all come back exactly if
# R^2 (1 - cos(2 pi / n)) >= 1. So two dimensions hold any number of such bits. Does training get there?

# %%
circle: dict[int, tuple[float, float]] = {}
ROUND = [5, 8, 12] if QUESTION == "bits" else []
for n in ROUND:

    class Ring(nn.Module):
        def __init__(self, seed: int, n: int = n) -> None:
            super().__init__()
            self.W = nn.Parameter(torch.randn(2, n, generator=torch.Generator().manual_seed(seed)))
            self.b = nn.Parameter(torch.zeros(n))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x @ self.W.T @ self.W + self.b)

    rings = [Ring(1000 * SEED + seed).to(device) for seed in range(8)]
    hot = torch.eye(n, device=device).expand(len(rings), -1, -1)
    followed = train_many(
        rings,
        lambda m, x: (m(x) - x).square().sum(),
        lambda step, hot=hot: hot,
        steps=2 * STEPS,
        lr=LR,
        decay=True,
    )
    last = torch.tensor(followed["loss"][-1])
    ring = rings[int(last.argmin())].W.detach()
    angle = torch.tensor(superposition.gaps(ring)[:1] or [0.0]).deg2rad()
    circle[n] = (last.min().item(), ring.norm(dim=0).mean().item())
if circle:
    bound = {n: (1 - torch.cos(torch.tensor(2 * torch.pi / n))).item() ** -0.5 for n in ROUND}
    metrics["circle_loss"] = circle[8][0]
    metrics["circle_length"] = circle[8][1] / bound[8]

# %%
fig, axes = plots.figure(2, 3, f"What the values of a feature do to its storage ({QUESTION})")
free_rows = settings[:-1]
names = [arm if len(CHANCES) == 1 else f"{arm} at {p:g}" for arm, p, _ in free_rows]
for ax, what, title in ((axes[0], "slope", "Slope |W|^2 of stored features"),
                        (axes[1], "intercept", "Intercept, in mean values"),
                        (axes[2], "loss", "Loss, share of answering zero")):  # fmt: skip
    values = {name: rows[s][what] for name, s in zip(names, free_rows, strict=True)}
    plots.bars(ax, values, title, y=what, highlight=[n for n in names if n.startswith("[0, 1]")])
    ax.tick_params(axis="x", labelrotation=45, labelsize=7)
x = torch.linspace(0, 1.8, 60)
for index, arm in enumerate(list(ARMS)[:: 1 if len(ARMS) < 5 else 2][:5]):
    s, i = at(arm, "slope"), at(arm, "intercept")
    axes[3].plot(
        x, torch.relu(s * x + i), color=plots.COLOURS[index], linestyle=plots.STYLES[index % 4], label=arm
    )
axes[3].plot([0, 1.8], [0, 1.8], color="0.6", linewidth=0.8)
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], "A feature alone on, comes back as", "value (in mean values)", "output")
if QUESTION == "bits":
    for n, arm in enumerate(ARMS):
        axes[4].plot(CHANCES, [at(arm, "loss", p) for p in CHANCES], marker="os"[n], color=plots.COLOURS[n],
                     linestyle=plots.STYLES[n], label=arm)  # fmt: skip
    axes[4].set_xscale("log")
    axes[4].legend(fontsize=8, frameon=False)
    plots.label(axes[4], "Where do bits win?", "probability of a feature", "loss, share of answering zero")
else:
    spots: list[tuple[float, float, list[str]]] = []
    for name, s in zip(names, free_rows, strict=True):  # points that lie on each other share one label
        x_at, y_at = rows[s]["variation"], rows[s]["intercept"]
        near = next(
            (spot for spot in spots if abs(spot[0] - x_at) < 0.035 and abs(spot[1] - y_at) < 0.012), None
        )
        if near is None:
            spots.append((x_at, y_at, [name]))
        else:
            near[2].append(name)
        axes[4].scatter([x_at], [y_at], color=plots.COLOURS[0], s=18)
    for x_at, y_at, shared in spots:
        left = x_at > 0.45
        axes[4].annotate("\n".join(shared), (x_at, y_at), fontsize=7, xytext=(-7, 0) if left else (9, 0),
                         va="center", ha="right" if left else "left", textcoords="offset points")  # fmt: skip
    plots.label(
        axes[4], "Does variation alone predict it?", "standard deviation / mean", "intercept, in mean values"
    )
if circle:
    plots.arrows(axes[5], rings[int(last.argmin())].W.mT, f"{ROUND[-1]} bits on a circle")
else:
    values = {name: rows[s]["stored"] for name, s in zip(names, free_rows, strict=True)}
    plots.bars(axes[5], values | {"no filter": filterless["stored"]}, "Features stored", y="features",
               highlight=["no filter"], marks={"dimensions": HIDDEN})  # fmt: skip
    axes[5].tick_params(axis="x", labelrotation=45, labelsize=7)
run.save(fig, "values")

# %%
report = run.finish(metrics)
