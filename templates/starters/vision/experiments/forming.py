"""When do curve detectors form while a classifier is trained, and suddenly or not?

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              other weights, another split
    python experiment.py --steps 2000          does anything move after the loss has settled?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A detector, watched while it forms
#
# Curve detectors are found in every image classifier that was looked at (Cammarata et al. 2020, Distill,
# "Curve Detectors"). Induction heads appear in a narrow window of training; do curve detectors?
#
# On 8 x 8 digits that question costs half a minute. The network's second layer sees 5 x 5 pixels, enough for
# a bend. At 20 moments of training we draw lines and arcs of the same length and width, and score each unit:
# its strongest response to an arc, less its strongest response to a line, in units of the standard deviation
# over real digits. Above 0: it prefers bends.
#
# Two traps. The best of 32 units has a high score by luck, so units are chosen on half of the orientations
# and scored on the other half, and an untrained network gets the same treatment. And one network is an
# anecdote: each figure here is a mean over several. The learning rate is constant, since schedules make kinks
# of their own.

# %%
import math

import torch
from torch import nn
from torch.nn import functional as F
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from lab import digits, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # split, weights, batches
NETS = 4  # networks for each condition
CHANNELS = 16  # channels of the first layer; the next two have twice as many
STEPS = 300  # training steps
BATCH = 128  # pictures per step
LR = 2e-3
ANGLES = 32  # orientations of lines and of arcs (even): half to choose units, half to score them
MOMENTS = 20  # times at which detectors are measured, log-spaced

# %%
run = start_run(globals())
device = run.device
data = digits.load(SEED, device)
LAYERS = ("first", "second", "third")
WHERE = "second"  # the layer in question

# %% [markdown]
# ### The network
#
# Three convolutions of 3 x 3 (so the layers see 3, 5 and 7 pixels), then the maximum over each quarter of the
# picture.


# %%
class Classifier(HookedRootModule):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.second = nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1)
        self.third = nn.Conv2d(2 * CHANNELS, 2 * CHANNELS, 3, padding=1)
        self.classes = nn.Linear(8 * CHANNELS, 10)
        self.hook_first, self.hook_second, self.hook_third = HookPoint(), HookPoint(), HookPoint()
        self.setup()  # tells the HookPoints their names

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.hook_first(F.relu(self.first(images)))  # [image, channel, row, column]
        x = self.hook_second(F.relu(self.second(x)))
        x = self.hook_third(F.relu(self.third(x)))
        return self.classes(F.max_pool2d(x, 4).flatten(1))


# %% [markdown]
# ### The score

# %%
straight = digits.lines(ANGLES).to(device)  # [angle, offset, row, column]
bent = digits.arcs(ANGLES).to(device)  # [angle, radius, row, column]


@torch.no_grad()
def peaks(net: Classifier, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """The strongest response of each unit anywhere in each picture, by layer: [picture, unit]."""
    _, cache = net.run_with_cache(pictures.flatten(0, -3)[:, None])
    return {layer: cache[f"hook_{layer}"].amax((2, 3)) for layer in LAYERS}


def curve_scores(net: Classifier) -> dict[str, torch.Tensor]:
    """For each layer [half, unit]: best arc less best line, in standard deviations over real digits."""
    on_bent, on_straight, on_digits = (peaks(net, p) for p in (bent, straight, data.test[:, 0]))
    found = {}
    for layer in LAYERS:
        by_angle = [
            on[layer].unflatten(0, stimuli.shape[:2]).amax(1)  # [angle, unit]
            for on, stimuli in ((on_bent, bent), (on_straight, straight))
        ]
        halves = [by_angle[0][h::2].amax(0) - by_angle[1][h::2].amax(0) for h in (0, 1)]
        found[layer] = torch.stack(halves) / on_digits[layer].std(0).clamp(min=1e-3)
    return found


def chosen(scores: torch.Tensor) -> torch.Tensor:
    """The quarter of the units with the highest score on the first half of the orientations."""
    return scores[0].topk(scores.shape[1] // 4).indices


# %% [markdown]
# ### Training, in three conditions
#
# As usual; with the first layer frozen as it was drawn, so that no line detectors can be learned for curves
# to be built from; and with labels dealt out anew, which leaves the pictures and takes away the task.

# %%
moments = sorted({0, STEPS, *(round((STEPS + 1) ** (i / (MOMENTS - 1))) - 1 for i in range(MOMENTS))})


def fit(seed: int, condition: str) -> tuple[Classifier, list[dict]]:
    """A trained network, and at each moment its scores, loss and accuracy on test digits."""
    net = Classifier(seed).to(device)
    net.first.requires_grad_(condition != "first layer frozen")
    generator = torch.Generator().manual_seed(seed)
    labels = data.train_labels
    if condition == "labels shuffled":
        labels = labels[torch.randperm(len(labels), generator=generator).to(device)]
    seen = []

    def loss_at(step: int) -> torch.Tensor:
        if step in moments and len(seen) < len(moments):
            with torch.no_grad():
                logits = net(data.test)
            right = (logits.argmax(-1) == data.test_labels).float().mean().item()
            loss = F.cross_entropy(logits, data.test_labels).item()
            seen.append({"scores": curve_scores(net), "loss": loss, "accuracy": right})
        rows = torch.randint(len(data.train), (BATCH,), generator=generator).to(device)
        return F.cross_entropy(net(digits.shifted(data.train[rows], generator)), labels[rows])

    train(net, loss_at, steps=STEPS, lr=LR, every=STEPS, label=condition, warmup=1)
    return net, seen


nets = {
    condition: [fit(1000 * SEED + n, condition) for n in range(NETS)]
    for condition in ("as usual", "first layer frozen", "labels shuffled")
}


def along(seen: list[dict], layer: str, then: int = -1) -> torch.Tensor:
    """Median held-out score of the units that are chosen at moment ``then``, at all moments."""
    units = chosen(seen[then]["scores"][layer])
    return torch.stack([moment["scores"][layer][1, units].median() for moment in seen]).cpu()


def mean(values) -> torch.Tensor:
    return torch.stack(list(values)).mean(0)


curves = {name: mean(along(seen, WHERE) for _, seen in group) for name, group in nets.items()}
by_layer = {layer: mean(along(seen, layer) for _, seen in nets["as usual"]) for layer in LAYERS}
luck = {layer: mean(along(seen, layer, 0)[0] for _, seen in nets["as usual"]).item() for layer in LAYERS}
loss = mean(torch.tensor([m["loss"] for m in seen]) for _, seen in nets["as usual"])
accuracy = {n: sum(seen[-1]["accuracy"] for _, seen in group) / NETS for n, group in nets.items()}
metrics = {
    "accuracy": accuracy["as usual"], "accuracy_shuffled": accuracy["labels shuffled"],
    "curves": curves["as usual"][-1].item(), "curves_untrained": luck[WHERE],
    "curves_shuffled": curves["labels shuffled"][-1].item(),
    "curves_frozen": curves["first layer frozen"][-1].item(),
    "accuracy_frozen": accuracy["first layer frozen"],
}  # fmt: skip

# %% [markdown]
# ### Suddenly?
#
# How long does the middle half of the rise take, from a quarter to three quarters of the way, in factors of
# the step number? The fall of the loss on the same axis is the yardstick: sudden would be a ratio well below
# 1.


# %%
def crossing(values: torch.Tensor, share: float) -> float:
    """log2 of the step (plus one) at which a curve has last come this share of the way to its end."""
    way = ((values - values[0]) / (values[-1] - values[0])).tolist()
    for i in reversed(range(1, len(way))):
        if way[i - 1] < share <= way[i]:
            part = (share - way[i - 1]) / (way[i] - way[i - 1])
            low, high = math.log2(moments[i - 1] + 1), math.log2(moments[i] + 1)
            return low + part * (high - low)
    return 0.0


rise = [crossing(curves["as usual"], share) for share in (0.25, 0.5, 0.75)]
fall = [crossing(loss, share) for share in (0.25, 0.5, 0.75)]
metrics |= {
    "rise_octaves": rise[2] - rise[0], "fall_octaves": fall[2] - fall[0], "half_loss": 2 ** fall[1],
    "half_curves": 2 ** rise[1], "rise_over_fall": (rise[2] - rise[0]) / max(fall[2] - fall[0], 0.1),
    "delay_octaves": rise[1] - fall[1],
}  # fmt: skip

# %% [markdown]
# ### Are they needed?
#
# The chosen units are set to their mean over test digits, at every place. Controls: as many other units of
# the same layer, and nothing.


# %%
@torch.no_grad()
def without(net: Classifier, units: torch.Tensor) -> torch.Tensor:
    """Logits with these units of the layer at their mean."""
    mean_of = net.run_with_cache(data.test)[1][f"hook_{WHERE}"].mean((0, 2, 3))

    def flat(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        value[:, units] = mean_of[units][:, None, None]
        return value

    return net.run_with_hooks(data.test, fwd_hooks=[(f"hook_{WHERE}", flat)])


def right(logits: torch.Tensor) -> float:
    return (logits.argmax(-1) == data.test_labels).float().mean().item()


rows = []
chooser = torch.Generator().manual_seed(SEED)
for net, seen in nets["as usual"]:
    units = chosen(seen[-1]["scores"][WHERE])
    others = torch.tensor([u for u in range(2 * CHANNELS) if u not in units.tolist()])
    draws = [others[torch.randperm(len(others), generator=chooser)[: len(units)]] for _ in range(5)]
    with torch.no_grad():
        change = (without(net, units[:0]) - net(data.test)).abs().max().item()
    by_chance = sum(right(without(net, draw.to(device))) for draw in draws) / len(draws)
    rows.append((right(without(net, units)), by_chance, change))
ablated, at_random, change = torch.tensor(rows).T
metrics |= {
    "ablated": ablated.mean().item(), "ablated_random": at_random.mean().item(),
    "noop_change": change.max().item(),
}  # fmt: skip

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"Curve detectors in training: mean of {NETS} networks")
axis = [moment + 1 for moment in moments]


def draw(ax, many: dict, title: str, y: str) -> None:
    for index, (name, values) in enumerate(many.items()):
        ax.plot(axis, values, color=plots.COLOURS[index], linestyle=plots.STYLES[index], label=name)
    ax.set_xscale("log")
    ax.legend(fontsize=8, frameon=False)
    plots.label(ax, title, "step + 1", y)


SCORE = "held-out curve score (sd)"
draw(axes[0], curves, f"Chosen units of the {WHERE} layer", SCORE)
plots.levels(axes[0], {"best of an untrained network": luck[WHERE]})
draw(axes[1], by_layer, "By layer, trained as usual", SCORE)
ways = {"curve score": curves["as usual"], "loss": loss}
ways = {name: (v - v[0]) / (v[-1] - v[0]) for name, v in ways.items()}
draw(axes[2], ways, "Share of the way from start to end", "share")
net, seen = nets["as usual"][0]
best = chosen(seen[-1]["scores"][WHERE])[:4]
for index, unit in enumerate(best.tolist()):
    tuning = peaks(net, bent)[WHERE][:, unit].unflatten(0, bent.shape[:2]).amax(1).cpu()
    axes[3].plot([360 * a / ANGLES for a in range(ANGLES)], tuning, color=plots.COLOURS[index],
                 linestyle=plots.STYLES[index], label=f"unit {unit}")  # fmt: skip
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], "Four of one network: tuning to arcs", "direction of the bulge (degrees)", "response")
plots.bars(
    axes[4],
    {"nothing": metrics["accuracy"], "chosen": metrics["ablated"], "random": metrics["ablated_random"]},
    "A quarter of the layer ablated", y="accuracy", highlight=["chosen"],
)  # fmt: skip
few = torch.arange(4) * (ANGLES // 4)
shown = F.pad(torch.stack([straight[few, 3], bent[few, 0], bent[few, 2]]), (0, 1, 0, 1), value=float("nan"))
shown = shown.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)  # a row of lines, two rows of arcs
plots.heatmap(axes[5], shown, "Some of the stimuli: lines, then arcs", limits=(0, 1), bar=False)
axes[5].set(xticks=[], yticks=[], aspect="equal")
run.save(fig, "forming")

# %%
report = run.finish(metrics)
