"""Two checkpoints of one training: which parts of the later model make it better, alone and together?

    python experiment.py                        the run that expected.json describes
    python experiment.py --seed 1               other tokens
    python experiment.py --skill text           held-out speeches in place of repeated random tokens

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A skill arrived between two checkpoints. What has to be carried over for it?
#
# Checkpoints of one training share their coordinates, so parts can be exchanged: the later model's layer 0
# in the earlier model, its embedding with the earlier layers, and so on. Five parts make 32 hybrids, few
# enough to measure them all. Then nothing is left to argument: what a part gives alone, what is lost
# without it, and how much of the skill is owed to parts that fit *together*.
#
# The parent is a shipped toy model with log-spaced checkpoints. Its induction heads form between two of them
# (`curve.json` and the model card in the package's repository).

# %%
import itertools
import math
import sys

import torch
from torch.nn import functional as F

from lab import plots
from lab.agreement import agreement
from lab.documents import documents
from lab.models import ModelError, load_model
from lab.results import start_run

# %% knobs
SEED = 0  # of the tokens and of the shuffled control
MODEL = "attn-only-2l"  # an embedded model with checkpoints
EARLY = 145  # a training step: 39, 75, 145, 281, 542, 1047, 2023, or -1 for the finished model
LATE = 281
SKILL = "repeats"  # or: text
ROWS = 32  # of tokens to measure the skill on
PERIOD = 32  # of the repeated random tokens; a row of text is twice as long
DRAWS = 8  # shuffles of the change, as a control
ALONG = 11  # points on the straight line between the two

# %%
run = start_run(globals())
device = run.device
torch.set_grad_enabled(False)
if SKILL not in ("repeats", "text"):
    sys.exit(f"SKILL is {SKILL!r}: repeats or text")
try:
    early, late, model = (
        load_model(MODEL, device=device, checkpoint=None if step == -1 else step)
        for step in (EARLY, LATE, LATE)
    )
except ModelError as error:
    sys.exit(str(error))
if EARLY == LATE:
    sys.exit(f"EARLY and LATE are both {EARLY}: nothing can have changed")
if early.cfg.n_ctx < 2 * PERIOD + 1:
    sys.exit(f"PERIOD is {PERIOD}: at most {(early.cfg.n_ctx - 1) // 2} fit into the model's context")
states = {"early": early.state_dict(), "late": late.state_dict()}
names = [name for name, value in states["early"].items() if value.is_floating_point()]

# %% [markdown]
# ### The skill
#
# **repeats**: random tokens that come twice; the loss on the first copy less that on the second, in nats.
# It is about zero without induction. **text**: minus the loss on speeches that the model has not seen.

# %%
draw = torch.Generator().manual_seed(SEED)
start = early.tokenizer.bos_token_id
if SKILL == "repeats":
    block = torch.randint(1, early.cfg.d_vocab, (ROWS, PERIOD), generator=draw)
    rows = torch.cat([torch.full((ROWS, 1), start), block, block], 1).to(device)  # [row, 1 + 2 * period]
else:
    words = [i for text in documents("speeches") for i in early.tokenizer(text.text)["input_ids"]]
    places = torch.randint(len(words) - 2 * PERIOD, (ROWS, 1), generator=draw)
    rows = torch.tensor(words)[places + torch.arange(2 * PERIOD + 1)].to(device)
    rows[:, 0] = start


def nats(state: dict[str, torch.Tensor]) -> float:
    """The skill of a model with these weights."""
    model.load_state_dict(state)
    losses = F.cross_entropy(model(rows)[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none")
    if SKILL == "text":
        return -losses.mean().item()
    return (losses[:, :PERIOD].mean() - losses[:, PERIOD + 1 :].mean()).item()


low, high = nats(states["early"]), nats(states["late"])
print(f"{SKILL}: {low:.3f} nats at step {EARLY}, {high:.3f} at step {LATE}")


def share(state: dict[str, torch.Tensor]) -> float:
    """Where the skill stands between the earlier model (0) and the later (1)."""
    return (nats(state) - low) / (high - low)


# %% [markdown]
# ### All 32 hybrids of five parts

# %%
LAST = early.cfg.n_layers - 1
PARTS = {
    "embedding": ("embed.",),
    "positions": ("pos_embed.",),
    "early layers": tuple(f"blocks.{layer}." for layer in range(LAST)),
    "last layer": (f"blocks.{LAST}.",),
    "unembedding": ("ln_final.", "unembed."),
}
parts = list(PARTS)


def owned(part: str) -> list[str]:
    return [name for name in names if name.startswith(PARTS[part])]


def hybrid(into: str, source: str, wanted: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Weights of ``into`` with some parts of ``source``."""
    taken = {name: states[source][name] for part in wanted for name in owned(part)}
    return {**states[into], **taken}


assert sorted(name for part in parts for name in owned(part)) == sorted(names)
subsets = [group for size in range(len(parts) + 1) for group in itertools.combinations(parts, size)]
value = {frozenset(group): share(hybrid("early", "late", group)) for group in subsets}
everything = frozenset(parts)
alone = {part: value[frozenset([part])] for part in parts}
needed = {part: 1 - value[everything - {part}] for part in parts}


def owed_to(part: str) -> float:
    """Its Shapley value: what it adds, averaged over all orders in which parts could be carried over."""
    total = 0.0
    for group in map(frozenset, subsets):
        if part not in group:
            others = len(parts) - len(group) - 1
            orders = math.factorial(len(group)) * math.factorial(others) / math.factorial(len(parts))
            total += orders * (value[group | {part}] - value[group])
    return total


owed = {part: owed_to(part) for part in parts}
for part in parts:
    print(f"  {part:>12}: alone {alone[part]:6.2f}, lost without {needed[part]:5.2f}, owed {owed[part]:5.2f}")

# %% [markdown]
# ### Controls: the same amount of change, elsewhere
#
# Each weight matrix's change is dealt out at random over the matrix: as large, and meaningless. And between
# the two checkpoints lies a straight line: is the skill there half way?


# %%
def shuffled() -> dict[str, torch.Tensor]:
    """The earlier model, each matrix moved as far as to the later one, in shuffled directions."""
    state = {}
    for name in names:
        change = states["late"][name] - states["early"][name]
        order = torch.randperm(change.numel(), generator=draw).to(device)
        state[name] = states["early"][name] + change.flatten()[order].view_as(change)
    return {**states["early"], **state}


gained_shuffled = sum(share(shuffled()) for _ in range(DRAWS)) / DRAWS
fractions = torch.linspace(0, 1, ALONG).tolist()
between = (
    {name: torch.lerp(states["early"][name], states["late"][name], f) for name in names} for f in fractions
)
along = [share(states["late"] | weights) for weights in between]


def changed(part: str) -> float:
    """Relative change of a part's weights."""
    moved = sum((states["late"][name] - states["early"][name]).square().sum() for name in owned(part))
    return (moved / sum(states["early"][name].square().sum() for name in owned(part))).sqrt().item()


# %% [markdown]
# ### Which heads?
#
# One head's query and key (where it looks), or its value and output (what it brings along), put back to what
# they were at the earlier step.

# %%
D, HEADS = early.cfg.d_head, early.cfg.n_heads


def head_put_back(layer: int, head: int, kind: str) -> dict[str, torch.Tensor]:
    state = dict(states["late"])
    mine = slice(head * D, (head + 1) * D)
    for matrix in kind.lower():
        for name in (f"blocks.{layer}.attn.{matrix}.weight", f"blocks.{layer}.attn.{matrix}.bias"):
            if name not in state or (matrix == "o" and name.endswith("bias")):
                continue  # the output's bias is shared by all heads
            state[name] = state[name].clone()  # [out, in]: a head owns rows of q, k, v and columns of o
            where = (slice(None), mine) if matrix == "o" else (mine,)
            state[name][where] = states["early"][name][where]
    return state


heads = [(layer, head) for layer in range(early.cfg.n_layers) for head in range(HEADS)]
head_loss = torch.tensor([
    [1 - share(head_put_back(layer, head, kind)) for kind in ("QK", "OV")] for layer, head in heads
])  # fmt: skip

metrics = {
    "skill_early": low,
    "skill_late": high,
    "alone_best": max(alone.values()),
    "needed_most": max(needed.values()),
    "needed_least": min(needed.values()),
    "gained_shuffled": gained_shuffled,
    "owed_layers": owed["early layers"] + owed["last layer"],
    "owed_sum": sum(owed.values()),
    "together": 1 - sum(alone.values()),
    "half_way": along[ALONG // 2],
    "worst_along": min(along),
    "head_most": head_loss.max().item(),
    "change_rank": agreement(
        torch.tensor([needed[part] for part in parts]),
        torch.tensor([changed(part) for part in parts]), baseline=0.0,
    ).spearman,
    "swapped_none": abs(value[frozenset()]),
    "swapped_all": abs(value[everything] - 1),
}  # fmt: skip

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 2, f"{MODEL}: step {EARLY} against {'the end' if LATE == -1 else f'step {LATE}'}")
places = torch.arange(len(parts))
for shift, (name, values) in enumerate((("gained alone", alone), ("lost without", needed), ("owed", owed))):
    axes[0].bar(places + 0.27 * (shift - 1), [values[part] for part in parts], 0.25, label=name)
axes[0].axhline(0, color="black", linewidth=0.5)
axes[0].set_xticks(places, [part.replace(" ", "\n") for part in parts], fontsize=8)
plots.label(axes[0], f"What each part is worth ({SKILL})", "", "share of the skill")
axes[0].legend()
order = sorted(value, key=lambda group: (len(group), value[group]))
for size in range(len(parts) + 1):
    heights = [value[group] for group in order if len(group) == size]
    axes[1].plot([size] * len(heights), heights, "o", color="C0", alpha=0.7)
sizes = range(len(parts) + 1)
means = [sum(v for g, v in value.items() if len(g) == n) / math.comb(len(parts), n) for n in sizes]
axes[1].plot(sizes, means, color="C1", label="mean")
axes[1].plot([0, len(parts)], [0, 1], ":", color="grey", label="if parts added up")
plots.label(axes[1], "All 32 hybrids", "parts of the later model", "share of the skill")
axes[1].legend()
axes[2].plot(fractions, along, "o-", label="measured")
axes[2].plot([0, 1], [0, 1], ":", color="grey", label="straight")
plots.label(axes[2], "Straight line between the weights", "earlier (0) to later (1)", "share of the skill")
axes[2].legend()
shown = torch.arange(len(heads))
for shift, kind in enumerate(("QK", "OV")):
    axes[3].bar(shown + 0.4 * (shift - 0.5), head_loss[:, shift], 0.38, label=kind)
axes[3].axhline(0, color="black", linewidth=0.5)
axes[3].set_xticks(shown, [f"{layer}.{head}" for layer, head in heads])
plots.label(axes[3], "One head put back", "layer.head", "share of the skill lost")
axes[3].legend()
run.save(fig, "transplants")

# %%
report = run.finish(metrics)
