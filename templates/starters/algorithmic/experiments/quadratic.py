"""Hundreds of tiny networks with squares learn addition: which frequencies do they choose?

    python experiment.py                 the run that expected.json describes
    python experiment.py --neurons 8     more neurons
    python experiment.py --modulus 7     three frequencies instead of two

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A network that fits on a postcard
#
# logits(c) = sum over neurons of w(c) (u(a) + v(b))^2, with lookup tables u, v, w of one number for each
# residue. To add modulo p a neuron can hold waves of one frequency k: u = cos(ka + s), v = cos(kb + t),
# w = cos(kc + s + t). The square makes the product cos(ka + s) cos(kb + t), and that holds cos(k(a + b)).
# Gromov (2023, arXiv:2301.02679) writes down such networks; below is one that is exact. Then training is
# left to choose, hundreds of times: is a neuron one frequency, which one, and do two neurons agree?

# %%
import math
from typing import Any

import torch
from torch import nn

from lab import plots
from lab.fourier import fourier_basis
from lab.many import train_many
from lab.results import start_run

# %% knobs
SEED = 0  # initial weights
MODULUS = 5  # p, an odd prime
NEURONS = 2  # hidden neurons
ACTIVATION = "square"  # square or relu
NETWORKS = 400  # initial weights to start from
STEPS = 1500  # training steps on all p * p sums
LR = 1e-2  # Adam
WEIGHT_DECAY = 0.0  # of AdamW
SCALE = 1.0  # initial standard deviation, times 1 / sqrt(p)

# %%
run = start_run(globals())
device = run.device
P, HALF = MODULUS, MODULUS // 2
a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).T.to(device)
answer = (a + b) % P


# %%
class Adder(nn.Module):
    """The lookup tables u, v, w: [neuron, residue] each."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        for name in "uvw":
            start = torch.randn(NEURONS, P, generator=draw) * SCALE / math.sqrt(P)
            self.register_parameter(name, nn.Parameter(start))


def logits(u: torch.Tensor, v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[..., sum, residue] of tables [..., neuron, residue]."""
    h = u[..., a] + v[..., b]
    h = h.square() if ACTIVATION == "square" else h.relu()
    return h.mT @ w


class Run(Adder):
    """``Adder`` with a forward pass, as training many at once wants it."""

    def forward(self) -> torch.Tensor:
        return logits(self.u, self.v, self.w)


def loss(model: Any, _: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(), answer)


def tables(models: list[Run]) -> torch.Tensor:
    """[table, network, neuron, residue], in double precision."""
    return torch.stack([torch.stack([getattr(m, name).detach() for m in models]) for name in "uvw"]).double()


models = [Run(100_000 * SEED + n).to(device) for n in range(NETWORKS)]
start = tables(models)
history = train_many(
    models, loss, lambda step: torch.zeros(NETWORKS, device=device), steps=STEPS, lr=LR,
    weight_decay=WEIGHT_DECAY, every=max(1, STEPS // 60),
)  # fmt: skip
end = tables(models)

# %% [markdown]
# ### A network that is exact, written down
#
# Seven neurons for each frequency: phases s = 2 pi j / 7 and t = 6 pi j / 7, j = 0 to 6. Every term of the
# squares but cos(k(a + b - c)) has a phase that runs round the circle, and sums to zero. What is left is
# the sum over k of cos(k(a + b - c)): p / 2 - 1/2 where c = a + b, and -1/2 elsewhere.


# %%
def written_down() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, rows = torch.arange(P, device=device).double(), []
    for k in range(1, HALF + 1):
        for j in range(7):
            s, t, turn = 2 * math.pi * j / 7, 6 * math.pi * j / 7, 2 * math.pi * k * x / P
            rows.append(torch.stack([(turn + s).cos(), (turn + t).cos(), (turn + s + t).cos() * 2 / 7]))
    u, v, w = torch.stack(rows, 1)
    return u, v, w


h = (written_down()[0][:, a] + written_down()[1][:, b]).square()
wanted = nn.functional.one_hot(answer, P).double() * P / 2 - 0.5
exact_error = (h.T @ written_down()[2] - wanted).abs().max().item()

# %% [markdown]
# ### Frequencies of the trained ones
#
# Power of u, v and w at each frequency, constants left out, each table counted alike. A neuron's own
# frequency is the one with most power; its purity is that share. Chance comes from the initial weights.

# %%
basis = fourier_basis(P).to(device).double()  # [component, residue]


def shares(t: torch.Tensor) -> torch.Tensor:
    """[network, neuron, frequency], sums to 1."""
    power = (t @ basis.T).square()[..., 1:]
    power = power.unflatten(-1, (HALF, 2)).sum(-1)
    return (power / power.sum(-1, keepdim=True)).mean(0)


def accuracy(t: torch.Tensor) -> torch.Tensor:
    """[network]: the share of the p * p sums that is right."""
    return (logits(*t).argmax(-1) == answer).double().mean(-1)


before, after = shares(start), shares(end)
own = after.argmax(-1)  # [network, neuron]
right = accuracy(end)
solved = right == 1
use = solved if solved.any() else torch.ones_like(solved)  # a run of a few steps solves nothing
chosen = torch.nn.functional.one_hot(own, HALF).double().mean((0, 1))
distinct = torch.tensor([len(set(row.tolist())) for row in own], device=device).double()
failed = ~solved if not solved.all() else torch.ones_like(solved)


# %% [markdown]
# ### Does the chosen frequency carry the answer?
#
# Take two dimensions out of every table: those of the neuron's own frequency, or as many of another one
# (at random). Then take nothing out. The no-op: multiply a, b and c by 2. That
# maps every table onto another, frequency k onto another frequency, and must change no answer.


# %%
def without(t: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Tables minus their part along orthonormal ``directions`` [network, neuron, 2, residue]."""
    along = torch.einsum("tnhr,nhdr->tnhd", t, directions)
    return t - torch.einsum("tnhd,nhdr->tnhr", along, directions)


waves = basis[1:].view(HALF, 2, P)  # [frequency, 2, residue]
draw = torch.Generator().manual_seed(SEED)
step = torch.randint(1, HALF, own.shape, generator=draw) if HALF > 1 else torch.zeros(own.shape).long()
ablated = accuracy(without(end, waves[own]))[use].mean().item()
ablated_random = accuracy(without(end, waves[(own + step.to(device)) % HALF]))[use].mean().item()
double = (2 * torch.arange(P, device=device)) % P
moved = end[..., double]
twin = logits(*moved).unflatten(-2, (P, P))
first = logits(*end).unflatten(-2, (P, P))[:, double][:, :, double][..., double]
noop = (twin - first).abs().max().item()

metrics = {
    "exact_error": exact_error,
    "solved": solved.double().mean().item(),
    "accuracy_start": accuracy(start).mean().item(),
    "purity": after[use].amax(-1).mean().item(),
    "purity_start": before.amax(-1).mean().item(),
    "first_frequency": chosen[0].item(),
    "distinct": distinct[use].mean().item(),
    "same": (distinct[use] == 1).double().mean().item(),
    "same_failed": (distinct[failed] == 1).double().mean().item(),
    "same_start": (before.argmax(-1) == before.argmax(-1)[:, :1]).all(1).double().mean().item(),
    "kept_choice": (before.argmax(-1) == own).double().mean().item(),
    "ablated": ablated,
    "ablated_random": ablated_random,
    "noop_change": noop,
}

# %%
fig, axes = plots.figure(2, 2, f"{NETWORKS} networks of {NEURONS} neurons, addition mod {P}")
losses = torch.tensor(history["loss"])
for n, part in enumerate((0.1, 0.5, 0.9)):
    axes[0].plot(history["step"], losses.quantile(part, 1), color=plots.COLOURS[n], linestyle=plots.STYLES[n],
                 label=f"{part:.0%} of networks below")  # fmt: skip
axes[0].set_yscale("log")
axes[0].legend(fontsize=8, frameon=False)
plots.label(axes[0], "Loss", "step", "cross-entropy, nats")
pure = [before.amax(-1).flatten().cpu(), after[use].amax(-1).flatten().cpu()]
axes[1].hist(pure, bins=25, label=["initial", "trained, solved"], color=plots.COLOURS[:2])
axes[1].legend(fontsize=8, frameon=False)
plots.label(axes[1], "How pure a neuron is", "share of its power at one frequency", "neurons")
second = min(1, NEURONS - 1)
axes[2].scatter(after[use, 0, 0].cpu(), after[use, second, 0].cpu(), s=8, color=plots.COLOURS[0])
plots.label(axes[2], "Solved networks", "share of frequency 1, first neuron", "the same, second neuron")
outs = {"whole": right[use].mean().item(), "own frequency out": ablated, "another out": ablated_random}
plots.bars(axes[3], outs, "Two dimensions taken out", y="accuracy", highlight=["own frequency out"],
           marks={"chance": 1 / P})  # fmt: skip
run.save(fig, "quadratic")

# %%
report = run.finish(metrics)
