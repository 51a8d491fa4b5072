"""Dimensionality reduction on a solved model: which methods find the parts that are known to be there?

    python experiment.py                  the run that expected.json describes
    python experiment.py --of weights     the same question asked of a weight matrix
    python experiment.py --seed 1         another seed: other frequencies, same ranking?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Which reduction recovers the truth?
#
# A network trained on modular addition sorts its hidden units into clusters, one per frequency (Nanda et
# al. 2023, arXiv:2301.05217; Gromov 2023, arXiv:2301.02679). So here the right answer is known, and
# methods that are used where it is not can be marked: principal components, independent components,
# non-negative factors, single units, and random directions. A component is *pure* if all its power over
# inputs lies at one frequency.

# %%
import torch
from torch import nn
from torch.nn import functional as F
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from lab import fourier, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights, split, starting points of the methods
OF = "activations"  # what to reduce: activations (of the hidden layer) or weights (of its input side)
P = 59  # the modulus; odd
D_MODEL = 64  # width of the embedding
D_MLP = 128  # hidden units
TRAIN_SHARE = 0.6  # share of all pairs that is trained on
STEPS = 500  # full-batch steps
LR = 2e-2
WEIGHT_DECAY = 2.0
COMPONENTS = 12  # components to ask of each method

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The solved model: one hidden layer, addition mod p


# %%
class OneHiddenLayer(HookedRootModule):
    """Embeds both numbers, adds them, one hidden layer of ReLU units, unembeds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(P, D_MODEL) / D_MODEL**0.5)
        self.embed_b = nn.Parameter(torch.randn(P, D_MODEL) / D_MODEL**0.5)
        self.hidden = nn.Linear(D_MODEL, D_MLP)
        self.unembed = nn.Linear(D_MLP, P, bias=False)
        self.hook_post = HookPoint()  # [pair, d_mlp]
        self.setup()  # tells the HookPoints their names

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        embedded = self.embed[pairs[:, 0]] + self.embed_b[pairs[:, 1]]
        return self.unembed(self.hook_post(F.relu(self.hidden(embedded))))


a = torch.arange(P).repeat_interleave(P)
b = torch.arange(P).repeat(P)
pairs, answers = torch.stack([a, b], dim=1).to(device), ((a + b) % P).to(device)
order = torch.randperm(P * P, generator=torch.Generator().manual_seed(SEED)).to(device)
n_train = int(TRAIN_SHARE * P * P)
train_set, test_set = order[:n_train], order[n_train:]


def build() -> OneHiddenLayer:
    torch.manual_seed(SEED)
    return OneHiddenLayer().to(device)


def accuracy(logits: torch.Tensor) -> float:
    return (logits[test_set].argmax(-1) == answers[test_set]).float().mean().item()


model, untrained = build(), build()
history = train(
    model, lambda step: F.cross_entropy(model(pairs[train_set]), answers[train_set]), steps=STEPS,
    lr=LR, weight_decay=WEIGHT_DECAY, every=max(1, STEPS // 50),
    evaluate=lambda: {"test_accuracy": accuracy(model(pairs))},
)  # fmt: skip

# %% [markdown]
# ### What is reduced, and how it is marked
#
# Every method gives directions; a direction gives one number for each value of a (averaged over b, or
# straight from the weights). Its power spectrum says how pure it is: the share of the strongest frequency.


# %%
@torch.no_grad()
def matrix_of(net: OneHiddenLayer) -> torch.Tensor:
    """What is reduced, [sample, unit]: hidden activations, or the units' input weights per number."""
    if OF == "activations":
        _, cache = net.run_with_cache(pairs)
        return cache["hook_post"]  # [p * p, d_mlp]
    return net.embed @ net.hidden.weight.T  # [p, d_mlp]: what each number adds to each unit


def purity(components: torch.Tensor) -> torch.Tensor:
    """Share of a component's power at its strongest frequency, as a function of a; [component].

    Components are [sample, component]; over pairs (a, b) the second number is averaged out.
    """
    values = components.view(P, -1, components.shape[1]).mean(1)  # [a, component]
    spectra = [fourier.frequency_power(column[:, None]).max() for column in values.T]
    return torch.stack(spectra)


def principal(x: torch.Tensor) -> torch.Tensor:
    """Scores of the first principal components, [sample, component]."""
    centred = x - x.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    return u[:, :COMPONENTS] * s[:COMPONENTS]


def independent(x: torch.Tensor, rounds: int = 100) -> torch.Tensor:
    """FastICA (tanh, symmetric) on the whitened principal components (Hyvarinen 1999)."""
    z = principal(x)
    z = (z - z.mean(0)) / z.std(0).clamp_min(1e-8)
    w = torch.linalg.qr(torch.randn(COMPONENTS, COMPONENTS, generator=draw()).to(x))[0]
    for _ in range(rounds):
        g = torch.tanh(z @ w.T)
        w = g.T @ z / len(z) - (1 - g.square()).mean(0)[:, None] * w
        u, _, v = torch.linalg.svd(w)
        w = u @ v
    return z @ w.T


def non_negative(x: torch.Tensor, rounds: int = 100) -> torch.Tensor:
    """Non-negative factors by multiplicative updates (Lee and Seung 1999); x is shifted to be >= 0."""
    x = x - x.min()
    w = torch.rand(len(x), COMPONENTS, generator=draw()).to(x) + 0.1
    h = torch.rand(COMPONENTS, x.shape[1], generator=draw()).to(x) + 0.1
    for _ in range(rounds):
        h = h * (w.T @ x) / (w.T @ w @ h).clamp_min(1e-8)
        w = w * (x @ h.T) / (w @ h @ h.T).clamp_min(1e-8)
    return w


def strongest_units(x: torch.Tensor) -> torch.Tensor:
    """The units that vary most: no reduction at all."""
    return x[:, x.var(0).topk(COMPONENTS).indices]


def random_directions(x: torch.Tensor) -> torch.Tensor:
    """The control: as many random directions in the space of units."""
    return x @ torch.randn(x.shape[1], COMPONENTS, generator=draw()).to(x)


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


methods = {
    "single units": strongest_units,
    "PCA": principal,
    "ICA": independent,
    "NMF": non_negative,
    "random": random_directions,
}
with torch.no_grad():
    trained_matrix, untrained_matrix = matrix_of(model), matrix_of(untrained)
    purities = {name: purity(method(trained_matrix)) for name, method in methods.items()}
    purities_untrained = {name: purity(method(untrained_matrix)) for name, method in methods.items()}
means = {name: value.mean().item() for name, value in purities.items()}
means_untrained = {name: value.mean().item() for name, value in purities_untrained.items()}

# %% [markdown]
# ### Does a method keep what the model needs?
#
# Purity is about looking. Being useful is another thing: replace the hidden activations by their
# projection on the method's first k directions, with a hook, and count correct answers. For principal
# components of the activations, against as many random directions and against everything (no-op).


# %%
with torch.no_grad():
    _, cache = model.run_with_cache(pairs)
    hidden = cache["hook_post"]
    centre = hidden.mean(0)
    if OF == "activations":
        directions = torch.linalg.svd(hidden - centre, full_matrices=False)[2]  # [rank, unit]
    else:
        left = trained_matrix - trained_matrix.mean(0)
        directions = torch.linalg.svd(left, full_matrices=False)[2]
    random_basis = torch.linalg.qr(torch.randn(D_MLP, D_MLP, generator=draw()).to(hidden))[0].T


@torch.no_grad()
def accuracy_in(basis: torch.Tensor) -> float:
    """Test accuracy when the hidden layer is confined to the span of orthonormal rows [k, unit]."""

    def project(post: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return centre + (post - centre) @ basis.T @ basis

    return accuracy(model.run_with_hooks(pairs, fwd_hooks=[("hook_post", project)]))


sizes = [2, 4, 8, 12, 16, 24, 32, 48]
kept = {
    "step": sizes,
    "found directions": [accuracy_in(directions[:k]) for k in sizes],
    "random directions": [accuracy_in(random_basis[:k]) for k in sizes],
}

# %% [markdown]
# ### The clusters
#
# Each unit has a favourite frequency. How many units does each frequency own, and do the clusters differ
# from those of an untrained network?

# %%
with torch.no_grad():
    per_unit = (model.embed @ model.hidden.weight.T).detach()  # [p, unit]
    spectra = torch.stack([fourier.frequency_power(column[:, None]) for column in per_unit.T])
    favourite, sharpness = spectra.argmax(-1) + 1, spectra.max(-1).values
    random_unit = (untrained.embed @ untrained.hidden.weight.T).detach()
    sharpness_untrained = torch.stack(
        [fourier.frequency_power(column[:, None]).max() for column in random_unit.T]
    )
    strong = per_unit.var(0) > 0.1 * per_unit.var(0).max()  # units that are in use
owned = torch.bincount(favourite[strong], minlength=P // 2 + 1)[1:]
metrics = {
    "test_accuracy": history["test_accuracy"][-1],
    "unit_purity": sharpness[strong].mean().item(),
    "unit_purity_untrained": sharpness_untrained.mean().item(),
    "frequencies_in_use": float((owned > 0).sum()),
    "pca_purity": means["PCA"],
    "ica_purity": means["ICA"],
    "nmf_purity": means["NMF"],
    "random_purity": means["random"],
    "pca_purity_untrained": means_untrained["PCA"],
    "accuracy_found": kept["found directions"][sizes.index(48)],
    "accuracy_random": kept["random directions"][sizes.index(48)],
    "noop_change": abs(accuracy_in(torch.eye(D_MLP, device=device)) - accuracy(model(pairs).detach())),
}

# %%
fig, axes = plots.figure(2, 2, f"Reducing the {OF} of a solved modular-addition model")
plots.bars(
    axes[0], means, "Purity of components, by method", y="share of strongest frequency",
    marks={"untrained, PCA": means_untrained["PCA"]}, highlight=["random"],
)  # fmt: skip
plots.spectrum(
    axes[1], owned / owned.sum().clamp_min(1), "Share of units per favourite frequency",
    key=(owned.topk(min(6, int((owned > 0).sum()))).indices + 1).tolist(), y="share of units",
)  # fmt: skip
plots.loss_curves(
    axes[2], kept, ["found directions", "random directions"], title="Hidden layer confined to k directions",
    y="test accuracy", log=False, marks={"guessing": 1 / P},
)  # fmt: skip
axes[2].set_xlabel("k")
best_two = principal(trained_matrix)[:, :2].view(P, -1, 2).mean(1)
plots.points(
    axes[3], best_two[:, 0], best_two[:, 1], range(P), "Numbers a in the first two components",
    x_name="component 1", y_name="component 2",
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
