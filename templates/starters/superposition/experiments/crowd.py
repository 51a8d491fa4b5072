"""Several features at once: how a code made for one copes with many.

    python experiment.py                the run that expected.json describes
    python experiment.py --hidden 20    more room
    python experiment.py --steps 3000   train for longer

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Exactly k at a time
#
# In the published toy (Elhage et al. 2022, arXiv:2209.10652) sparsity sets both how often a feature is on
# and how much company it has. Here exactly k features are on, and whole inputs are empty often enough that
# each feature is on equally often for every k. We train at each k and test at every other; and then we ask
# of one code, frozen, what better decoders can still read from it: if interference is noise they cannot, if
# only ReLU is weak they can.

# %%
from typing import Any

import torch
from torch import nn

from lab import plots, superposition
from lab.many import Many, train_many
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
FEATURES = 60
HIDDEN = 12  # dimensions that they must pass through
COPIES = 2  # seeds for each k
BATCH = 512  # inputs in a step
STEPS = 1200  # training steps
LR = 1e-2  # AdamW, cosine down to zero
DECODER_K = 3  # the code whose decoders are compared

# %%
run = start_run(globals())
device = run.device

# %%
CROWDS = [1, 2, 3, 5, 8, 12]


def exactly(k: int, rows: int, generator: torch.Generator, rate_of: int = 0) -> torch.Tensor:
    """[row, feature]: k features on, uniform on [1/2, 1]; with ``rate_of`` empty rows keep that k's rate."""
    place = torch.rand(rows, FEATURES, generator=generator).argsort(-1)
    value = 0.5 + 0.5 * torch.rand(rows, FEATURES, generator=generator)
    full = torch.rand(rows, 1, generator=generator) < (rate_of / k if rate_of else 1.0)
    return torch.where((place < k) & full, value, 0.0).to(device)


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
    """As a share of what answering zero costs."""
    return (model(x) - x).square().sum() / x.square().sum().clamp_min(1.0)


generator = torch.Generator().manual_seed(SEED)


def batch_at(step: int) -> torch.Tensor:
    return torch.stack([exactly(k, BATCH, generator, CROWDS[0]) for k in CROWDS]).repeat_interleave(COPIES, 0)


models = [Toy(1000 * SEED + n % COPIES).to(device) for n in range(len(CROWDS) * COPIES)]
untrained = [Toy(1000 * SEED + n % COPIES).to(device) for n in range(len(CROWDS) * COPIES)]
history = train_many(models, loss, batch_at, steps=STEPS, lr=LR, decay=True, every=STEPS)

# %% [markdown]
# ### Trained at one k, tested at another
#
# Error of a present feature and false activity of an absent one, apart; and the interference itself, the
# sum of W_i . W_j x_j over the active others: for random directions it grows like the square root of k.

# %%
tester = torch.Generator().manual_seed(10_000 + SEED)
tests = [exactly(k, 3000, tester) for k in CROWDS]


@torch.no_grad()
def table(models: list[nn.Module]) -> torch.Tensor:
    """Loss as a share of answering zero, [train k, test k]."""
    rows = [Many(models).each(loss, x.expand(len(models), -1, -1)) for x in tests]
    return torch.stack(rows, -1).view(len(CROWDS), COPIES, len(CROWDS)).mean(1)


@torch.no_grad()
def interference(W: torch.Tensor, x: torch.Tensor) -> float:
    """Spread of what the active features write onto the absent ones, with unit columns."""
    overlap = superposition.cosines(W)
    return (x @ overlap)[x == 0].std().item()


errors, start = table(models), table(untrained)
with torch.no_grad():
    stored = torch.stack([torch.relu(m.W.square().sum(0) + m.b) > 0.5 for m in models])
stored = stored.float().sum(-1).view(len(CROWDS), COPIES).mean(1)
for_one = models[0].W.detach()
growth = [interference(for_one, x) for x in tests]
random_W = torch.randn(HIDDEN, FEATURES, generator=torch.Generator().manual_seed(SEED)).to(device)
random_growth = [interference(random_W, x) for x in tests]
root = torch.tensor(CROWDS).float().sqrt()

# %% [markdown]
# ### Better decoders for one frozen code
#
# Columns of W stay as they were trained for DECODER_K with the ReLU decoder. One hidden layer of 200 is
# trained to read the features back; and non-negative sparse coding (ISTA) says what the code permits to
# somebody who knows W. Its penalty is chosen on other inputs. Control: the hidden layer on a random code.

# %%
coder = models[CROWDS.index(DECODER_K) * COPIES]
code = coder.W.detach()


def reader(W: torch.Tensor, label: str) -> nn.Module:
    torch.manual_seed(SEED)
    net = nn.Sequential(nn.Linear(HIDDEN, 200), nn.ReLU(), nn.Linear(200, FEATURES)).to(device)

    def loss_at(step: int) -> torch.Tensor:
        x = exactly(DECODER_K, BATCH, generator)
        return (net(x @ W.T) - x).square().sum() / x.square().sum()

    train(net, loss_at, steps=2 * STEPS, lr=3e-3, decay=True, every=STEPS, label=label)
    return net


@torch.no_grad()
def sparse_code(h: torch.Tensor, W: torch.Tensor, penalty: float, rounds: int = 300) -> torch.Tensor:
    """argmin over z >= 0 of |h - W z|^2 / 2 + penalty * sum z, by accelerated proximal gradient."""
    step = 1 / torch.linalg.matrix_norm(W, 2).square()
    z = y = torch.zeros(len(h), FEATURES, device=device)
    momentum = 1.0
    for _ in range(rounds):
        new = torch.relu(y - step * ((y @ W.T - h) @ W + penalty))
        after = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        y, z, momentum = new + (momentum - 1) / after * (new - z), new, after
    return z


def share(out: torch.Tensor, x: torch.Tensor) -> float:
    return ((out - x).square().sum() / x.square().sum()).item()


layered, blind = reader(code, "hidden layer"), reader(random_W, "on a random code")
other = exactly(DECODER_K, 500, tester)
scale = code.norm(dim=0).mean()
penalty = min(
    (0.001, 0.01, 0.03, 0.1), key=lambda p: share(sparse_code(other @ code.T, code, p * scale), other)
)
decoders: dict[str, list[float]] = {"ReLU": [], "hidden layer": [], "sparse coding": [], "random code": []}
with torch.no_grad():
    for x in tests:
        few = x[:500]
        decoders["ReLU"].append(share(coder(x), x))
        decoders["hidden layer"].append(share(layered(x @ code.T), x))
        decoders["sparse coding"].append(share(sparse_code(few @ code.T, code, penalty * scale), few))
        decoders["random code"].append(share(blind(x @ random_W.T), x))
at = CROWDS.index(DECODER_K)
turn = superposition.rotations(1, HIDDEN, torch.Generator().manual_seed(SEED))[0].to(device)
with torch.no_grad():  # the whole code turned, and every feature's direction turned by itself
    turned, scattered = Toy(0).to(device), Toy(0).to(device)
    turned.load_state_dict(coder.state_dict())
    scattered.load_state_dict(coder.state_dict())
    turned.W.copy_(turn @ code)
    scattered.W.copy_(superposition.unit(random_W) * code.norm(dim=0))
    apart, noop = share(scattered(tests[at]), tests[at]), share(turned(tests[at]), tests[at])
metrics = {
    "one_alone": errors[0, 0].item(),
    "one_in_crowd": errors[0, 3].item(),
    "five_in_crowd": errors[3, 3].item(),
    "five_alone": errors[3, 0].item(),
    "untrained_alone": start[0, 0].item(),
    "stored_one": stored[0].item(),
    "stored_twelve": stored[-1].item(),
    "linear_loss": 1 - HIDDEN / FEATURES,
    "root_k": (torch.tensor(growth)[3] / torch.tensor(growth)[0] / root[3]).item(),
    "interference_one": growth[0],
    "interference_random": random_growth[0],
    "relu_decoder": decoders["ReLU"][at],
    "layer_decoder": decoders["hidden layer"][at],
    "sparse_decoder": decoders["sparse coding"][at],
    "random_code": decoders["random code"][at],
    "scattered": apart,
    "noop_change": abs(noop - decoders["ReLU"][at]),
}

# %%
fig, axes = plots.figure(2, 3, f"{FEATURES} features in {HIDDEN} dimensions, k of them at once")
names = [str(k) for k in CROWDS]
plots.heatmap(axes[0], errors, "Loss, share of answering zero", x="k in testing", y="k in training",
              x_ticks=names, y_ticks=names, numbers=True, limits=(0, 1.5))  # fmt: skip
axes[1].plot(CROWDS, errors.diagonal().cpu(), marker="o", color=plots.COLOURS[0], label="trained at this k")
axes[1].plot(
    CROWDS, errors[0].cpu(), marker="s", linestyle="--", color=plots.COLOURS[1], label="trained at k = 1"
)
axes[1].legend(fontsize=8, frameon=False)
plots.levels(axes[1], {"dense linear code": metrics["linear_loss"]})
axes[1].set_ylim(0, 2)
plots.label(axes[1], "What a crowd costs", "features on at once", "loss, share of answering zero")
plots.bars(axes[2], dict(zip(names, stored.tolist(), strict=True)), "Features stored, by k in training",
           y="features", marks={"dimensions": HIDDEN})  # fmt: skip
for n, (name, values) in enumerate((("trained at k = 1", growth), ("random directions", random_growth))):
    axes[3].plot(root, values, marker="os"[n], color=plots.COLOURS[n], linestyle=plots.STYLES[n], label=name)
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], "Interference on absent features", "square root of k", "spread, unit columns")
for n, (name, values) in enumerate(decoders.items()):
    axes[4].plot(
        CROWDS, values, marker="os^x"[n], color=plots.COLOURS[n], linestyle=plots.STYLES[n], label=name
    )
axes[4].legend(fontsize=8, frameon=False)
axes[4].set_ylim(0, 1.5)
plots.label(axes[4], f"Decoders of one code (trained at {DECODER_K})", "features on at once", "loss")
plots.heatmap(axes[5], (code.T @ code).fill_diagonal_(0), f"Overlaps W'W, trained at {DECODER_K}",
              x="feature", y="feature", signed=True)  # fmt: skip
run.save(fig, "crowd")

# %%
report = run.finish(metrics)
