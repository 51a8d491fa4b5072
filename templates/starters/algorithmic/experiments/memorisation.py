"""How a network memorises: random labels beside a rule, in the same network.

    python experiment.py                  the run that expected.json describes
    python experiment.py --examples 800   more to memorise than it can hold?
    python experiment.py --seed 1         another seed

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Memorising
#
# One hidden layer sees pairs of symbols with labels. Drawn at random, the labels can only be memorised;
# given by a rule, they can be understood. The same network, trained both ways, lets us ask what
# memorising looks like inside: does each example have units of its own, or is it spread over all of them?
# (Henighan et al. 2023, Superposition, Memorization, and Double Descent, ask this of toy autoencoders.)

# %%
import torch
from torch import nn
from torch.nn import functional as F
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from lab import plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights, examples, random labels
SYMBOLS = 40  # symbols a pair is drawn from
LABELS = 10  # classes
EXAMPLES = 400  # pairs to learn
D_MODEL = 32  # width of the embedding
D_MLP = 64  # hidden units
STEPS = 500  # full-batch steps of each training
LR = 1e-2

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Two label sets for the same pairs
#
# The rule adds a hidden class of the first symbol to one of the second; held-out pairs follow it too. For
# random labels the held-out pairs have labels as random as the rest, so nothing above chance is possible.

# %%
g = torch.Generator().manual_seed(SEED)
every = torch.randperm(SYMBOLS * SYMBOLS, generator=g)
pairs = torch.stack([every // SYMBOLS, every % SYMBOLS], 1).to(device)
seen, unseen = slice(0, EXAMPLES), slice(EXAMPLES, SYMBOLS * SYMBOLS)
hidden_class = torch.randint(LABELS, (2, SYMBOLS), generator=g).to(device)
labels = {
    "random": torch.randint(LABELS, (len(pairs),), generator=g).to(device),
    "rule": (hidden_class[0, pairs[:, 0]] + hidden_class[1, pairs[:, 1]]) % LABELS,
}


class OneHiddenLayer(HookedRootModule):
    """Embeds both symbols side by side, one hidden layer of ReLU units, unembeds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.embed = nn.Parameter(torch.randn(2, SYMBOLS, D_MODEL) / D_MODEL**0.5)
        self.hidden = nn.Linear(2 * D_MODEL, D_MLP)
        self.unembed = nn.Linear(D_MLP, LABELS)
        self.hook_post = HookPoint()  # [pair, d_mlp]
        self.setup()  # tells the HookPoint its name

    def forward(self, which: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.embed[0, which[:, 0]], self.embed[1, which[:, 1]]], 1)
        return self.unembed(self.hook_post(F.relu(self.hidden(both))))


def accuracy(net: OneHiddenLayer, kind: str, part: slice) -> float:
    with torch.no_grad():
        return (net(pairs[part]).argmax(-1) == labels[kind][part]).float().mean().item()


def fit(kind: str) -> tuple[OneHiddenLayer, dict]:
    net = OneHiddenLayer().to(device)
    return net, train(
        net, lambda step: F.cross_entropy(net(pairs[seen]), labels[kind][seen]), steps=STEPS, lr=LR,
        weight_decay=0.01, label=kind, every=max(1, STEPS // 40),
        evaluate=lambda: {"seen": accuracy(net, kind, seen), "unseen": accuracy(net, kind, unseen)},
    )  # fmt: skip


nets, histories = {}, {}
for kind in labels:
    nets[kind], histories[kind] = fit(kind)

# %% [markdown]
# ### How many examples does a network of this size hold?
#
# The same training on random labels, for more and more examples. Where the curve leaves 1 is capacity.

# %%
sizes = [n for n in (100, 200, 400, 800, 1600) if n <= SYMBOLS * SYMBOLS]
capacity = []
for n in sizes:
    net = OneHiddenLayer().to(device)
    few = slice(0, n)
    train(
        net, lambda step, net=net, few=few: F.cross_entropy(net(pairs[few]), labels["random"][few]),
        steps=STEPS, lr=LR, every=STEPS, label=f"{n} examples",
    )  # fmt: skip
    capacity.append(accuracy(net, "random", few))

# %% [markdown]
# ### Whose units are they? Ablate each unit, example by example
#
# Mean-ablate one hidden unit at a time and see which seen examples change their answer. If each example
# had units of its own, a unit would break few examples, and an example would break on few units.


# %%
@torch.no_grad()
def margins(net: OneHiddenLayer, kind: str, units: torch.Tensor) -> torch.Tensor:
    """Logit of the right label minus the best wrong one, [example], with units at their mean."""

    def ablate(post: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        post[:, units] = post[:, units].mean(0)
        return post

    logits = net.run_with_hooks(pairs[seen], fwd_hooks=[("hook_post", ablate)])
    right = labels[kind][seen][:, None]
    wrong = logits.scatter(1, right, -torch.inf).max(1).values
    return logits.gather(1, right)[:, 0] - wrong


none = torch.tensor([], dtype=torch.long, device=device)
loss_of_margin, broken, spread = {}, {}, {}
for kind, net in nets.items():
    base = margins(net, kind, none)
    drops = torch.stack([base - margins(net, kind, torch.tensor([u], device=device)) for u in range(D_MLP)])
    share = drops.clamp_min(0).T  # [example, unit]
    loss_of_margin[kind] = drops
    broken[kind] = (drops > base).float().mean().item()  # one unit is enough to lose an example
    # participation ratio: how many units an example leans on, if all were alike
    spread[kind] = (share.sum(1).square() / share.square().sum(1).clamp_min(1e-9)).mean().item()

# %% [markdown]
# ### Remove an eighth of the units
#
# The units that cost the most margin on average, against as many at random, and against all of them.

# %%
draw = torch.randperm(D_MLP, generator=torch.Generator().manual_seed(SEED))[: D_MLP // 8].to(device)
random_left = (margins(nets["random"], "random", draw) > 0).float().mean().item()
top = loss_of_margin["random"].mean(1).topk(D_MLP // 8).indices
top_left = (margins(nets["random"], "random", top) > 0).float().mean().item()
with torch.no_grad():
    clean = nets["random"](pairs[seen])
    noop = nets["random"].run_with_hooks(pairs[seen], fwd_hooks=[("hook_post", lambda post, hook: post)])
metrics = {
    "random_seen": accuracy(nets["random"], "random", seen),
    "random_unseen": accuracy(nets["random"], "random", unseen),
    "rule_seen": accuracy(nets["rule"], "rule", seen),
    "rule_unseen": accuracy(nets["rule"], "rule", unseen),
    "capacity_small": capacity[0],
    "capacity_large": capacity[-1],
    "units_per_example": spread["random"],
    "units_per_example_rule": spread["rule"],
    "top_units_removed": top_left,
    "random_units_removed": random_left,
    "all_units_removed": (margins(nets["random"], "random", torch.arange(D_MLP)) > 0).float().mean().item(),
    "noop_change": (noop - clean).abs().max().item(),
}

# %%
fig, axes = plots.figure(2, 2, f"Memorising {EXAMPLES} random labels with {D_MLP} units")
curves = {"step": histories["random"]["step"]}
for kind in labels:
    curves |= {f"{kind}, {part}": histories[kind][part] for part in ("seen", "unseen")}
plots.loss_curves(
    axes[0], curves, [name for name in curves if name != "step"], title="Random labels or a rule",
    y="accuracy", log=False, marks={"guessing": 1 / LABELS},
)  # fmt: skip
plots.loss_curves(
    axes[1], {"step": sizes, "memorised": capacity}, ["memorised"], title="Capacity", y="share memorised",
    log=False, marks={"guessing": 1 / LABELS},
)  # fmt: skip
axes[1].set_xlabel("random examples to learn")
plots.heatmap(
    axes[2], loss_of_margin["random"][:, :60], "Margin lost, unit by example (random labels)", x="example",
    y="hidden unit ablated", signed=True,
)  # fmt: skip
plots.bars(
    axes[3],
    {
        "top units": top_left, "random units": random_left, "all units": metrics["all_units_removed"],
    },
    "Still right, an eighth of the units ablated", y="share of seen examples", highlight=["top units"],
    marks={"guessing": 1 / LABELS},
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
