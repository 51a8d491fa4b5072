"""Lottery tickets in a network that we can read: what does a winning ticket have that others lack?

    python experiment.py                the run that expected.json describes
    python experiment.py --keep 0.1     a sparser ticket
    python experiment.py --seed 1       another seed: other frequencies, same comparison?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Lottery tickets
#
# Train a network, keep its largest weights only, put those back to where they started, and train again:
# the sparse network still learns, where a random one as sparse learns less (Frankle and Carbin 2018,
# arXiv:1803.03635). In modular addition we know what there is to learn: a few frequencies. So we can ask
# what the ticket carries. Does it find the frequencies of the dense network again? Is it the mask, or
# the starting values?

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
SEED = 0  # weights, split, random masks
P = 59  # the modulus; odd
D_MODEL = 64  # width of the embedding
D_MLP = 128  # hidden units
KEEP = 0.45  # share of the weights that the ticket keeps
TRAIN_SHARE = 0.6  # share of all pairs that is trained on
STEPS = 450  # full-batch steps, for each of the four trainings
LR = 2e-2
WEIGHT_DECAY = 2.0
KEY = 5  # how many frequencies to call key frequencies

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### A network with masks
#
# Every weight has a mask beside it, all ones at first; a masked weight is zero for good.


# %%
class Masked(HookedRootModule):
    """Embeds two numbers, one hidden layer of ReLU units, unembeds; each weight under a mask."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.embed = nn.Parameter(torch.randn(P, D_MODEL, generator=g) / D_MODEL**0.5)
        self.embed_b = nn.Parameter(torch.randn(P, D_MODEL, generator=g) / D_MODEL**0.5)
        self.w_in = nn.Parameter(torch.randn(D_MODEL, D_MLP, generator=g) / D_MODEL**0.5)
        self.w_out = nn.Parameter(torch.randn(D_MLP, P, generator=g) / D_MLP**0.5)
        self.bias = nn.Parameter(torch.zeros(D_MLP))
        self.masks: dict[str, torch.Tensor] = {}
        self.hook_post = HookPoint()  # [pair, d_mlp]
        self.setup()  # tells the HookPoint its name

    def weight(self, name: str) -> torch.Tensor:
        value = getattr(self, name)
        return value * self.masks[name] if name in self.masks else value

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        embedded = self.weight("embed")[pairs[:, 0]] + self.weight("embed_b")[pairs[:, 1]]
        post = self.hook_post(F.relu(embedded @ self.weight("w_in") + self.bias))
        return post @ self.weight("w_out")


PRUNED = ("w_in", "w_out")  # the embeddings stay whole
a = torch.arange(P).repeat_interleave(P)
b = torch.arange(P).repeat(P)
pairs, answers = torch.stack([a, b], dim=1).to(device), ((a + b) % P).to(device)
order = torch.randperm(P * P, generator=torch.Generator().manual_seed(SEED)).to(device)
n_train = int(TRAIN_SHARE * P * P)
train_set, test_set = order[:n_train], order[n_train:]


@torch.no_grad()
def accuracy(net: Masked, subset: torch.Tensor = test_set) -> float:
    return (net(pairs[subset]).argmax(-1) == answers[subset]).float().mean().item()


def fit(label: str, seed: int, masks: dict[str, torch.Tensor]) -> tuple[Masked, dict]:
    """Train from the starting values of ``seed`` under the given masks."""
    net = Masked(seed).to(device)
    net.masks = masks
    history = train(
        net, lambda step: F.cross_entropy(net(pairs[train_set]), answers[train_set]), steps=STEPS, lr=LR,
        weight_decay=WEIGHT_DECAY, every=max(1, STEPS // 40), label=label,
        evaluate=lambda: {"test_accuracy": accuracy(net)},
    )  # fmt: skip
    return net, history


# %% [markdown]
# ### Dense, ticket, and two controls
#
# The ticket: the largest weights of the trained network, put back to their starting values. The controls
# change one thing each: the same starting values under a random mask, and the ticket's mask over other
# starting values. And before any retraining: does the bare cut still compute, and would a random cut?

# %%
dense, dense_history = fit("dense", SEED, {})


def largest(net: Masked) -> dict[str, torch.Tensor]:
    """Masks that keep the largest share KEEP of each weight matrix, by magnitude."""
    masks = {}
    for name in PRUNED:
        size = getattr(net, name).detach().abs()
        level = size.flatten().kthvalue(max(1, int((1 - KEEP) * size.numel()))).values
        masks[name] = (size > level).float()
    return masks


def shuffled(masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Random masks with as many ones."""
    g = torch.Generator().manual_seed(SEED)
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=g).to(device)].view_as(mask)
        for name, mask in masks.items()
    }


masks = largest(dense)
pruned = Masked(SEED).to(device)
pruned.load_state_dict(dense.state_dict())
pruned.masks = masks  # the trained weights, cut and not retrained
random_cut = Masked(SEED).to(device)
random_cut.load_state_dict(dense.state_dict())
random_cut.masks = shuffled(masks)  # the control: as many trained weights, at random
ticket, ticket_history = fit("ticket", SEED, masks)
random_mask, random_history = fit("random mask", SEED, shuffled(masks))
other_start, other_history = fit("other start", SEED + 1000, masks)

# %% [markdown]
# ### What does each network compute with?
#
# The spectrum of the embedding names its key frequencies. If the ticket carries the algorithm and not
# only room to learn, it should come back to the dense network's frequencies; chance is KEY in (p - 1) / 2.


# %%
@torch.no_grad()
def spectrum(net: Masked) -> torch.Tensor:
    """Share of the embedding's power at each frequency, [frequency]."""
    return fourier.frequency_power(torch.cat([net.weight("embed"), net.weight("embed_b")], dim=1))


nets = {"dense": dense, "ticket": ticket, "random mask": random_mask, "other start": other_start}
spectra = {name: spectrum(net) for name, net in nets.items()}
key = {name: set((power.topk(KEY).indices + 1).tolist()) for name, power in spectra.items()}
overlap = {name: len(key["dense"] & key[name]) / KEY for name in nets}
chance = KEY / (P // 2)

# %%
with torch.no_grad():
    clean = dense(pairs)
    noop = dense.run_with_hooks(pairs, fwd_hooks=[("hook_post", lambda post, hook: post)])
metrics = {
    "dense_accuracy": dense_history["test_accuracy"][-1],
    "pruned_accuracy": accuracy(pruned),
    "random_cut_accuracy": accuracy(random_cut),
    "ticket_accuracy": ticket_history["test_accuracy"][-1],
    "random_mask_accuracy": random_history["test_accuracy"][-1],
    "other_start_accuracy": other_history["test_accuracy"][-1],
    "ticket_overlap": overlap["ticket"],
    "other_start_overlap": overlap["other start"],
    "noop_change": (noop - clean).abs().max().item(),
}
metrics["ticket_advantage"] = metrics["ticket_accuracy"] - metrics["random_mask_accuracy"]

# %%
fig, axes = plots.figure(2, 2, f"Lottery tickets: {KEEP:.0%} of the weights, addition mod {P}")
curves = {
    "step": dense_history["step"],
    "dense": dense_history["test_accuracy"],
    "ticket": ticket_history["test_accuracy"],
    "random mask": random_history["test_accuracy"],
    "other start": other_history["test_accuracy"],
}
plots.loss_curves(
    axes[0], curves, list(nets), title="Test accuracy", y="accuracy", log=False, marks={"guessing": 1 / P}
)
plots.bars(
    axes[1],
    {
        "dense": metrics["dense_accuracy"], "cut only": metrics["pruned_accuracy"],
        "random cut": metrics["random_cut_accuracy"], "ticket": metrics["ticket_accuracy"],
        "random mask": metrics["random_mask_accuracy"],
        "other start": metrics["other_start_accuracy"],
    },
    "Test accuracy at the end", y="accuracy", highlight=["ticket"], marks={"guessing": 1 / P},
)  # fmt: skip
plots.heatmap(
    axes[2], torch.stack(list(spectra.values())), "Embedding spectra (share of power)", x="frequency - 1",
    y_ticks=list(nets),
)  # fmt: skip
plots.bars(
    axes[3], {name: overlap[name] for name in list(nets)[1:]},
    "Key frequencies shared with the dense network", y="share", marks={"chance": chance},
    highlight=["ticket"],
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
