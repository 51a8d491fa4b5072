"""ANDs and ORs of pairs of bits, with fewer neurons than pairs.

    python experiment.py               the run that expected.json describes
    python experiment.py --gate or     the other connective
    python experiment.py --on 4        four bits on at once

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A neuron for every pair, or a code
#
# n bits, a few of them on; targets: the AND of each pair. One ReLU computes one AND, relu(x_i + x_j - 1).
# With fewer neurons than pairs, constructions exist in which neurons read small random subsets of the
# inputs and an AND is read off as an average over the neurons that both inputs excite (Hänni et al. 2024,
# arXiv:2408.05451). Do trained networks do better than those, and better than giving the neurons there are
# to some pairs?

# %%
from typing import Any

import torch
from torch import nn

from lab import plots, superposition
from lab.many import train_many
from lab.results import start_run

# %% knobs
SEED = 0  # weights and data
BITS = 16
ON = 3  # bits on at once in training
GATE = "and"  # of each pair: and, or
BATCH = 256  # inputs in a step
STEPS = 1500  # training steps
LR = 1e-2  # AdamW, cosine down to zero
READS = 4  # inputs that a neuron of the random construction reads

# %%
run = start_run(globals())
device = run.device

# %%
left, right = torch.triu_indices(BITS, BITS, offset=1).to(device)
PAIRS = len(left)
WIDTHS = [8, 16, 32, 64, PAIRS]
mask = torch.stack([(torch.arange(PAIRS) < width).float() for width in WIDTHS]).to(device)


def bits(rows: int, on: int, generator: torch.Generator) -> torch.Tensor:
    """[row, bit], exactly ``on`` of them 1."""
    return (torch.rand(rows, BITS, generator=generator).argsort(-1) < on).float().to(device)


def target(x: torch.Tensor) -> torch.Tensor:
    a, b = x[:, left], x[:, right]
    return a * b if GATE == "and" else a + b - a * b


def balanced(out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Squared error, the cases (0, 0), (1, 0) and (1, 1) weighted alike, so that saying zero looks bad."""
    error, active = (out - target(x)).square(), x[:, left] + x[:, right]
    cases = [(error * (active == n)).sum() / (active == n).sum().clamp_min(1) for n in range(3)]
    return torch.stack(cases).mean()


class Toy(nn.Module):
    """W2 (mask * relu(W1 x + b1)) + b2."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W1 = nn.Parameter(torch.randn(PAIRS, BITS, generator=generator) / BITS**0.5)
        self.b1 = nn.Parameter(torch.zeros(PAIRS))
        self.W2 = nn.Parameter(torch.randn(PAIRS, PAIRS, generator=generator) / PAIRS)
        self.b2 = nn.Parameter(torch.zeros(PAIRS))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (mask * torch.relu(x @ self.W1.T + self.b1)) @ self.W2.T + self.b2


def loss(model: Any, batch: Any) -> torch.Tensor:
    x, mask = batch
    return balanced(model(x, mask), x)


generator = torch.Generator().manual_seed(SEED)
models = [Toy(1000 * SEED).to(device) for _ in WIDTHS]
untrained = [Toy(1000 * SEED).to(device) for _ in WIDTHS]
many = len(WIDTHS)
history = train_many(
    models, loss, lambda step: (bits(BATCH, ON, generator).expand(many, -1, -1), mask), steps=STEPS, lr=LR,
    decay=True, every=max(1, STEPS // 40),
)  # fmt: skip

# %% [markdown]
# ### Rivals at the same number of neurons
#
# *Dedicated*: a neuron for each of the first d pairs; the rest, and everything else, by the best linear
# readout of neurons and inputs. *Random*: neurons that read READS random bits above a threshold of one,
# readout by weighted least squares. *Linear*: no neurons at all.

# %%
tester = torch.Generator().manual_seed(10_000 + SEED)
fitting, test = bits(4000, ON, tester), bits(4000, ON, tester)


def fitted(features: torch.Tensor, tests: torch.Tensor) -> torch.Tensor:
    """Least squares with the balanced weights, one fit for each output: predictions [row, pair]."""
    x, wanted = fitting, target(fitting)
    active = x[:, left] + x[:, right]
    ones = torch.ones(len(x), 1, device=device)
    a, b = torch.cat([features, ones], 1), torch.cat([tests, torch.ones(len(tests), 1, device=device)], 1)
    found = []
    for pair in range(PAIRS):
        count = torch.bincount(active[:, pair].long(), minlength=3).clamp_min(1)
        w = (1 / count)[active[:, pair].long()][:, None]
        gram = a.T @ (w * a) + 1e-5 * torch.eye(a.shape[1], device=device)
        found.append(b @ torch.linalg.solve(gram, a.T @ (w[:, 0] * wanted[:, pair])))
    return torch.stack(found, 1)


reader = torch.Generator().manual_seed(SEED)
subsets = (torch.rand(PAIRS, BITS, generator=reader).argsort(-1) < READS).float().to(device)
rivals: dict[str, list[float]] = {"trained": [], "untrained": [], "random": [], "dedicated": []}
with torch.no_grad():
    for n, width in enumerate(WIDTHS):
        rivals["trained"].append(balanced(models[n](test, mask[n]), test).item())
        rivals["untrained"].append(balanced(untrained[n](test, mask[n]), test).item())
        read = [torch.relu(x @ subsets[:width].T - 1) for x in (fitting, test)]
        rivals["random"].append(balanced(fitted(*read), test).item())
        own = [
            torch.cat([torch.relu(x[:, left] + x[:, right] - 1)[:, :width], x], 1) for x in (fitting, test)
        ]
        rivals["dedicated"].append(balanced(fitted(*own), test).item())
    linear = balanced(fitted(fitting, test), test).item()

# %% [markdown]
# ### The code of one network, and what breaks it
#
# At WIDTHS[2] neurons: how many inputs does a neuron read (above a tenth of its largest weight)? Which
# neurons do both inputs of a pair push? Ablating those must hurt this pair more than as many others. And a
# code that counts on few bits being on should fail when more are.

# %%
MIDDLE = 2
model, width = models[MIDDLE], WIDTHS[MIDDLE]
with torch.no_grad():
    W1 = model.W1[:width].detach()
    reads = (W1.abs() > 0.1 * W1.abs().amax(1, keepdim=True)).sum(1).float()
    pushes = torch.minimum(W1[:, left], W1[:, right]) * model.W2[:, :width].T.abs()  # [neuron, pair]
    out = model(test, mask[MIDDLE])
    both = test[:, left] * test[:, right]  # [row, pair]
    hurt, control = [], []
    shuffle = torch.Generator().manual_seed(SEED)
    for pair in range(PAIRS):
        top = pushes[:, pair].topk(4).indices
        others = torch.randperm(width, generator=shuffle)[:4].to(device)
        for chosen, kept in ((top, hurt), (others, control)):
            keep = mask[MIDDLE].clone()
            keep[chosen] = 0
            on = both[:, pair] > 0
            kept.append((model(test[on], keep)[:, pair] - target(test[on])[:, pair]).square().mean().item())
    by_crowd = [
        balanced(model(x, mask[MIDDLE]), x).item() for x in (bits(3000, s, tester) for s in (2, 3, 4, 6))
    ]
    cases = [
        (out - target(test)).square()[test[:, left] + test[:, right] == n].mean().item() for n in range(3)
    ]
    order = torch.cat([torch.randperm(width, generator=shuffle), torch.arange(width, PAIRS)]).to(device)
    same = (mask[MIDDLE] * torch.relu(test @ model.W1[order].T + model.b1[order])) @ model.W2[
        :, order
    ].T + model.b2
mean = lambda values: sum(values) / max(1, len(values))  # noqa: E731
metrics = {
    f"trained_{w}": value for w, value in zip(("8", "16", "32", "64", "all"), rivals["trained"], strict=True)
}
metrics |= {
    "random_32": rivals["random"][MIDDLE],
    "dedicated_32": rivals["dedicated"][MIDDLE],
    "linear": linear,
    "untrained_32": rivals["untrained"][MIDDLE],
    "reads": reads.mean().item(),
    "purity": superposition.purity(W1).mean().item(),
    "ablated": mean(hurt),
    "ablated_random": mean(control),
    "six_on": by_crowd[3],
    "noop_change": (same - out).abs().max().item(),
}

# %%
fig, axes = plots.figure(2, 3, f"{GATE.upper()} of {PAIRS} pairs of {BITS} bits, {ON} on")
for n, (name, values) in enumerate(rivals.items()):
    axes[0].plot(
        WIDTHS, values, marker="os^x"[n], color=plots.COLOURS[n], linestyle=plots.STYLES[n], label=name
    )
plots.levels(axes[0], {"linear": linear})
axes[0].set_xscale("log", base=2)
axes[0].set_ylim(0, 0.4)
axes[0].legend(fontsize=8, frameon=False)
plots.label(axes[0], "Error, cases weighted alike", "neurons", "squared error")
plots.bars(axes[1], {"(0, 0)": cases[0], "(1, 0)": cases[1], "(1, 1)": cases[2]}, f"By case, {width} neurons",
           y="squared error")  # fmt: skip
plots.bars(axes[2], {"none": cases[2], "4 that both push": mean(hurt), "4 at random": mean(control)},
           "Both on, neurons ablated", y="squared error", highlight=["4 that both push"])  # fmt: skip
axes[3].hist(W1.flatten().cpu(), bins=50, color=plots.COLOURS[0])
plots.label(axes[3], f"Input weights, {width} neurons", "weight", "count")
plots.heatmap(axes[4], W1, "Which bits a neuron reads", x="bit", y="neuron", signed=True)
plots.bars(axes[5], dict(zip(("2 on", "3 on", "4 on", "6 on"), by_crowd, strict=True)),
           "Off the training distribution", y="squared error", highlight=[f"{ON} on"],
           marks={f"linear, {ON} on": linear})  # fmt: skip
run.save(fig, "gates")

# %%
report = run.finish(metrics)
