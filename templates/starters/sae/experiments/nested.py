"""Recover, merge or split: what an L1 dictionary makes of features that occur under others.

    python experiment.py                    the run that expected.json describes
    python experiment.py --seed 1           other directions, data and starts
    python experiment.py --starts 5         more starts for each setting

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A child that never comes without its parent
#
# "Starts with E" and "is the word elephant": whoever sees the second always sees the first. A sparse
# autoencoder pays for every active latent, so it is cheaper to let the elephant's latent take the E along and
# keep the E's latent silent there. That is *absorption* (Chanin et al. 2024, arXiv:2409.14507): the latent
# for E has a hole at every elephant. Here the features are planted, so the holes can be counted, over shares
# of nesting, penalties and sizes of the dictionary.

# %%
import torch
from torch.nn import functional as F

from lab import plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # planted directions, data, starts
FEATURES = 64  # planted features, in pairs
DIMENSIONS = 32  # of the activations
CHANCE = 0.06  # how often a feature is active (a nested child: CHILD of that)
CHILD = 0.5  # how often a nested child is active where its parent is
STARTS = 2  # random starts of each setting
STEPS = 2000  # training steps
BATCH = 256  # examples per step, the same for all settings
LR = 5e-3
NEAR = 0.95  # cosine from which a row counts as a feature

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Data with a known share of nesting
#
# Half of the features are possible parents, the others possible children. In the first share `gamma` of the
# pairs the child is active only where its parent is; the rest are independent. Magnitudes are uniform on [1,
# 2].

# %%
PAIRS = FEATURES // 2
GAMMAS, PENALTIES, SIZES = (0.0, 0.5, 1.0), (0.1, 0.2, 0.4), (64, 128)
generator = torch.Generator().manual_seed(SEED * 1000 + 17)
truth = F.normalize(torch.randn(FEATURES, DIMENSIONS, generator=generator), dim=1)  # parents, then children


def codes(gamma: float, examples: int, draw: torch.Generator) -> torch.Tensor:
    """[example, feature]: parents 0 .. PAIRS - 1, and their children in the same order."""
    active = torch.rand(examples, FEATURES, generator=draw) < CHANCE
    given = torch.rand(examples, PAIRS, generator=draw) < CHILD
    nested = torch.arange(PAIRS) < gamma * PAIRS
    children = torch.where(nested, active[:, :PAIRS] & given, active[:, PAIRS:])
    active = torch.cat([active[:, :PAIRS], children], dim=1)
    return active * (1 + torch.rand(examples, FEATURES, generator=draw))


# %% [markdown]
# ### All settings at once
#
# Code relu(W x + b), decoder rows of unit norm, loss half the squared error plus the penalty times the sum of
# the code. A dictionary for each setting is trained in one tensor [setting, latent, d]: they share nothing,
# so the sum of their losses has the gradients of each.

# %%
SETTINGS = [(gamma, penalty, start) for gamma in GAMMAS for penalty in PENALTIES for start in range(STARTS)]
penalties = torch.tensor([penalty for _, penalty, _ in SETTINGS], device=device)
which_gamma = torch.tensor([GAMMAS.index(gamma) for gamma, _, _ in SETTINGS])


class Dictionaries(torch.nn.Module):
    """One L1 autoencoder of ``size`` latents for each setting."""

    def __init__(self, size: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(SEED * 7919 + size)
        rows = F.normalize(torch.randn(len(SETTINGS), size, DIMENSIONS, generator=draw), dim=-1)
        self.rows = torch.nn.Parameter(rows.clone())
        self.encoder = torch.nn.Parameter(rows.transpose(1, 2).clone())
        self.bias = torch.nn.Parameter(torch.zeros(len(SETTINGS), 1, size))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """[setting, example, d] to codes [setting, example, latent]."""
        return (torch.baddbmm(self.bias, x, self.encoder)).relu()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        code = self.encode(x)
        return code, code @ F.normalize(self.rows, dim=-1)


def data(step: int, examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes [setting, example, feature], activations [setting, example, d])"""
    draw = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    drawn = torch.stack([codes(gamma, examples, draw) for gamma in GAMMAS])
    return drawn[which_gamma].to(device), (drawn @ truth)[which_gamma].to(device)


def trained(size: int) -> Dictionaries:
    dictionaries = Dictionaries(size).to(device)

    def loss_at(step: int) -> torch.Tensor:
        _, x = data(step, BATCH)
        code, rebuilt = dictionaries(x)
        error = 0.5 * (x - rebuilt).square().sum(-1).mean(-1)
        return (error + penalties * code.sum(-1).mean(-1)).sum()

    train(dictionaries, loss_at, steps=STEPS, lr=LR, decay=True, label=f"dictionaries of {size}")
    return dictionaries


found = {size: trained(size) for size in SIZES}

# %% [markdown]
# ### Read out: recovered, merged, split, absorbed
#
# With live rows only (active on fresh data). *Recovered*: a row within NEAR of the feature. *Merged*: no row
# near the child, but one in the plane of parent and child, between the two. *Split*: two rows near one
# feature. *Hole*: where parent and child are both active, the parent's row is silent, though it fires for the
# parent alone.


# %%
@torch.no_grad()
def read_out(rows: torch.Tensor, latents: torch.Tensor, planted: torch.Tensor) -> dict[str, float]:
    """Shares for one dictionary: rows [latent, d], latents [example, latent], codes [example, feature]."""
    live = (latents > 0).float().mean(0) > 1e-3
    if not live.any():
        return dict.fromkeys(("recovered", "parents", "children", "merged", "split", "hole"), 0.0)
    rows, latents = F.normalize(rows[live], dim=1), latents[:, live]
    cosine = truth.to(rows) @ rows.T  # [feature, latent]
    near = cosine > NEAR
    parent, child = cosine[:PAIRS], cosine[PAIRS:]
    overlap = (truth[:PAIRS] * truth[PAIRS:]).sum(1).to(rows)[:, None]  # of parent and child
    # the squared length of a row's part in the plane of the two, and both shares positive
    inside = (parent**2 + child**2 - 2 * overlap * parent * child) / (1 - overlap**2)
    between = (inside.sqrt() > NEAR) & (parent > overlap * child) & (child > overlap * parent)
    blend = between & ~near[:PAIRS] & ~near[PAIRS:]
    own = cosine[:PAIRS].argmax(1)  # the row nearest to each parent
    active = planted > 0
    both, alone = active[:, :PAIRS] & active[:, PAIRS:], active[:, :PAIRS] & ~active[:, PAIRS:]
    fires = latents[:, own] > 0
    hole = 1 - (both & fires).sum(0) / both.sum(0).clamp(min=1)  # [pair]: silent where both are active
    missed = 1 - (alone & fires).sum(0) / alone.sum(0).clamp(min=1)
    sound = missed < 0.3  # pairs whose parent has a working latent
    return {
        "recovered": near.any(1).float().mean().item(),
        "parents": near[:PAIRS].any(1).float().mean().item(),
        "children": near[PAIRS:].any(1).float().mean().item(),
        "merged": (blend.any(1) & ~near[PAIRS:].any(1)).float().mean().item(),
        "split": (near.sum(1) > 1).float().mean().item(),
        "hole": hole[sound].mean().item() if sound.any() else 0.0,
    }


planted, fresh = data(10_000_019, 4000)
scores = {}
for size, dictionaries in found.items():
    with torch.no_grad():
        latents, rebuilt = dictionaries(fresh)
    variance = (fresh - fresh.mean(1, keepdim=True)).square().sum((1, 2))
    explained = 1 - (fresh - rebuilt).square().sum((1, 2)) / variance
    for index, setting in enumerate(SETTINGS):
        scores[(size, *setting)] = read_out(dictionaries.rows[index], latents[index], planted[index])
        scores[(size, *setting)]["explained"] = explained[index].item()


def mean(key: str, size: int, gamma: float, penalty: float) -> float:
    """A score, averaged over starts."""
    return sum(scores[size, gamma, penalty, start][key] for start in range(STARTS)) / STARTS


MIDDLE, WIDE = PENALTIES[1], SIZES[-1]
random_rows = F.normalize(torch.randn(WIDE, DIMENSIONS, generator=generator), dim=1).to(device)
at = [SETTINGS.index((gamma, MIDDLE, 0)) for gamma in (0.0, 1.0)]
as_read = [(fresh[i] @ random_rows.T - 1).relu() for i in at]
oracle = read_out(truth.to(device), planted[at[1]], planted[at[1]])
metrics = {
    "recovered_independent": mean("recovered", WIDE, 0.0, MIDDLE),
    "recovered_half": mean("recovered", WIDE, 0.5, MIDDLE),
    "recovered_nested": mean("recovered", WIDE, 1.0, MIDDLE),
    "children_nested": mean("children", WIDE, 1.0, MIDDLE),
    "parents_nested": mean("parents", WIDE, 1.0, MIDDLE),
    "merged_nested": mean("merged", WIDE, 1.0, MIDDLE),
    "merged_independent": mean("merged", WIDE, 0.0, MIDDLE),
    "hole_nested": mean("hole", WIDE, 1.0, MIDDLE),
    "hole_independent": mean("hole", WIDE, 0.0, MIDDLE),
    "hole_low_penalty": mean("hole", WIDE, 1.0, PENALTIES[0]),
    "recovered_random": read_out(random_rows, as_read[0], planted[at[0]])["recovered"],
    "recovered_truth": oracle["recovered"],
    "hole_truth": oracle["hole"],
    "explained_independent": mean("explained", WIDE, 0.0, MIDDLE),
    "explained_nested": mean("explained", WIDE, 1.0, MIDDLE),
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 2, f"{FEATURES} features in {DIMENSIONS} dimensions, children under parents")
for index, size in enumerate(SIZES):
    grid = [[mean("recovered", size, gamma, penalty) for penalty in PENALTIES] for gamma in GAMMAS]
    plots.heatmap(
        axes[index], grid, f"Features recovered, {size} latents", x="penalty", y="share of nested pairs",
        x_ticks=PENALTIES, y_ticks=GAMMAS, limits=(0, 1), numbers=True,
    )  # fmt: skip
names = {"parents": "parents recovered", "children": "children recovered"}
names |= {"merged": "merged", "split": "split"}
for index, (key, name) in enumerate(names.items()):
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index], "label": name, "marker": "o"}
    axes[2].plot(GAMMAS, [mean(key, WIDE, gamma, MIDDLE) for gamma in GAMMAS], **style)
axes[2].set_ylim(-0.05, 1.35)
axes[2].legend(fontsize=8, frameon=False, ncol=2, loc="upper center")
plots.label(axes[2], f"Penalty {MIDDLE}, {WIDE} latents", "share of nested pairs", "share")
for index, gamma in enumerate((0.0, 1.0)):
    places = [i + 0.4 * index - 0.2 for i in range(len(PENALTIES))]
    heights = [mean("hole", WIDE, gamma, penalty) for penalty in PENALTIES]
    name = "nested" if gamma else "independent"
    drawn = axes[3].bar(places, heights, width=0.4, color=plots.COLOURS[1 - index], label=name)
    axes[3].bar_label(drawn, fmt="%.2f", fontsize=7, padding=1)
axes[3].set_xticks(range(len(PENALTIES)), [str(penalty) for penalty in PENALTIES])
axes[3].legend(fontsize=8, frameon=False)
axes[3].margins(y=0.2)
plots.label(axes[3], "Holes: parent's latent silent at its child", "penalty", "share of places")
run.save(fig, "nested")

# %%
report = run.finish(metrics)
