"""A walk through a maze that the model never sees: does it know where it is, and can we move it?

    python experiment.py                    the run that expected.json describes
    python experiment.py --seed 1           another maze, other walks
    python experiment.py --size 6           a larger maze

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Steps in, map inside
#
# Somebody walks at random through a maze and calls out the steps: north, east, south, west. The model hears
# the steps only and must say which steps are possible next. Walls are never mentioned; the only way to do
# well is to keep track of the place. Mazes have been read from transformers by Ivanitskiy et al. 2023
# (arXiv:2312.02566), who show the maze to the model. Here it must be inferred, as the streets in Vafa et al.
# 2024 (arXiv:2406.03689), who also say how to test whether such a map is coherent.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.directions import random_like
from lab.probe_fits import solve_ridge
from lab.probes import fit_probe
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # maze, walks, weights
SIZE = 5  # rooms along a side of the maze
DOORS = 4  # walls taken out of a maze without loops
LENGTH = 24  # steps of a walk
LAYERS = 2  # transformer layers
D_MODEL = 64  # width of the residual stream
HEADS = 4  # attention heads per layer
STEPS = 650  # training steps
BATCH = 128  # walks per step
LR = 4e-3
STRENGTH = 1.0  # size of the edit; 1 is what the class means suggest

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The maze, and walks in it
#
# Rooms on a grid, joined to a tree at random, and a few more doors so that there are loops: then many walks
# lead to one place. Every walk starts in the corner room 0. A token is a step; the first token says "start".

# %%
ROOMS, START = SIZE * SIZE, 4
MOVES = torch.tensor([-SIZE, 1, SIZE, -1])  # north, east, south, west


def neighbour(room: int, move: int) -> int | None:
    """The room on that side of the grid, whether or not there is a door."""
    row, column = divmod(room, SIZE)
    row, column = row + (-1, 0, 1, 0)[move], column + (0, 1, 0, -1)[move]
    return row * SIZE + column if 0 <= row < SIZE and 0 <= column < SIZE else None


builder = torch.Generator().manual_seed(SEED + 11)
doors = torch.zeros(ROOMS, 4, dtype=torch.bool)  # [room, move]
joined = {0}
walls = [(room, move) for room in range(ROOMS) for move in (1, 2) if neighbour(room, move) is not None]
closed = [walls[i] for i in torch.randperm(len(walls), generator=builder).tolist()]
while len(joined) < ROOMS:  # Prim's algorithm on random weights: the first wall in the list that adds a room
    room, move = next(w for w in closed if (w[0] in joined) != (neighbour(*w) in joined))
    closed.remove((room, move))
    joined |= {room, neighbour(room, move)}
    doors[room, move] = doors[neighbour(room, move), (move + 2) % 4] = True
for room, move in closed[:DOORS]:
    doors[room, move] = doors[neighbour(room, move), (move + 2) % 4] = True


def walks(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, rooms), [walk, LENGTH]: the room is the one after the token."""
    rooms, tokens = [torch.zeros(count, dtype=torch.long)], [torch.full((count,), START)]
    for _ in range(LENGTH - 1):
        move = torch.multinomial(doors[rooms[-1]].float(), 1, generator=generator)[:, 0]
        tokens.append(move)
        rooms.append(rooms[-1] + MOVES[move])
    return torch.stack(tokens, 1), torch.stack(rooms, 1)


test, test_rooms = walks(1500, torch.Generator().manual_seed(SEED + 1))
known, known_rooms = walks(1500, torch.Generator().manual_seed(SEED + 2))

# %% [markdown]
# ### The model
#
# Steps are random, so the best answer is known: equal probability for each open door. Train towards that.


# %%
def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH, d_vocab=5,
        d_vocab_out=4, d_mlp=4 * D_MODEL, act_fn="gelu", normalization_type="LNPre",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model, untrained = build(SEED), build(SEED + 1).eval()
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    tokens, rooms = walks(BATCH, generator)
    target = F.normalize(doors[rooms].float(), p=1, dim=-1).to(device)  # [walk, step, move]
    return -(model(tokens.to(device)).log_softmax(-1) * target).sum(-1).mean()


def agreement(logits: torch.Tensor, rooms: torch.Tensor) -> float:
    """Share of places where the moves above a tenth of the probability are just the open doors."""
    return ((logits.softmax(-1).cpu() > 0.1) == doors[rooms]).all(-1).float().mean().item()


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, warmup=30, decay=True, clip=1.0,
    evaluate=lambda: {"doors_right": agreement(model(test.to(device)), test_rooms)},
    every=max(1, STEPS // 10),
)  # fmt: skip
with torch.no_grad():
    clean = model(test.to(device)).cpu()
    guess_untrained = untrained(test.to(device)).cpu()
# Baseline: what the last two steps alone say about the doors (a table, counted on other walks)
pair = lambda tokens: tokens[:, 1:] * 5 + tokens[:, :-1]  # noqa: E731
open_there = doors[known_rooms[:, 1:]].flatten(0, 1).float()
counts = torch.zeros(25, 4).index_add_(0, pair(known).flatten(), open_there)
seen = torch.bincount(pair(known).flatten(), minlength=25).clamp(min=1)
from_two = (counts / seen[:, None] > 0.5)[pair(test)]
metrics = {
    "doors_right": history["doors_right"][-1],
    "doors_untrained": agreement(guess_untrained, test_rooms),
    "doors_two_steps": (from_two == doors[test_rooms[:, 1:]]).all(-1).float().mean().item(),
}

# %% [markdown]
# ### Where am I? Linear probes for the place
#
# Two probes on the stream: which room, at each depth, and the row of the maze as a number, where the first
# works best. Walks are held out as wholes. Controls: an untrained model, and rooms shuffled over positions.
# The untrained model is no straw man: counting steps north and south is a sum, and random attention sums.

# %%
DEPTHS = {"embedding": "blocks.0.hook_resid_pre"}
for l in range(LAYERS):
    DEPTHS[f"attention {l}"] = f"blocks.{l}.hook_resid_mid"
    DEPTHS[f"MLP {l}"] = f"blocks.{l}.hook_resid_post"
FROM = 4  # the first places are too easy


@torch.no_grad()
def streams(net: TransformerBridge, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The residual stream at each depth, [walk, step, d_model], without the first steps."""
    _, cache = net.run_with_cache(tokens.to(device))
    return {depth: cache[name][:, FROM:] for depth, name in DEPTHS.items()}


def read(fit: torch.Tensor, rooms: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Least squares from the stream to the room, fitted on ``fit``; the rooms read off ``new``."""
    x, wanted = fit.flatten(0, 1).double(), F.one_hot(rooms.flatten(), ROOMS).double().to(device)
    weights = solve_ridge(x - x.mean(0), wanted - wanted.mean(0), penalty=1.0)
    return ((new.double() - x.mean(0)) @ weights + wanted.mean(0)).argmax(-1).cpu()


ours = {"fit": streams(model, known), "test": streams(model, test)}
theirs = {"fit": streams(untrained, known), "test": streams(untrained, test)}
here, there = known_rooms[:, FROM:], test_rooms[:, FROM:]
shuffle = torch.randperm(here.numel(), generator=torch.Generator().manual_seed(SEED))
mixed = here.flatten()[shuffle].view_as(here)
cases = {"trained": (ours, here), "untrained": (theirs, here), "shuffled rooms": (ours, mixed)}
curves = {
    name: [(read(at["fit"][d], labels, at["test"][d]) == there).float().mean().item() for d in DEPTHS]
    for name, (at, labels) in cases.items()
}
places = list(DEPTHS)
best = max(range(1, len(places)), key=lambda i: curves["trained"][i])
metrics |= {f"room_{name.split()[0]}": max(values) for name, values in curves.items()}
metrics["room_commonest"] = (there == here.flatten().mode().values).float().mean().item()
walk_of = torch.arange(len(test))[:, None].expand_as(there).flatten()
report_row = fit_probe(
    ours["test"][places[best]].flatten(0, 1), (there // SIZE).flatten().float(), kind="ridge", groups=walk_of,
    untrained=theirs["test"][places[best]].flatten(0, 1), repeats=3, seed=SEED,
)  # fmt: skip
print(f"row of the maze, R squared: {report_row}")
metrics["row_r2"], metrics["row_selectivity"] = report_row.held_out, report_row.selectivity

# %% [markdown]
# ### Move it to another room
#
# The mean stream in one room, less the mean in another, is the difference that the place makes. Add it at the
# last step of a walk: the model should now offer the doors of the other room. Controls of equal length:
# towards a *third* room, and a random direction. Cases are pairs of rooms with different doors.

# %%
AT = LENGTH - 1
SITE = "blocks.0.hook_resid_post"
mid = ours["fit"]["MLP 0"][:, -8:]  # [walk, step, d_model], the last steps, alike in position
label = here[:, -8:]
overall = mid.mean((0, 1))
means = torch.stack([mid[label == r].mean(0) if (label == r).any() else overall for r in range(ROOMS)])
chooser = torch.Generator().manual_seed(SEED + 3)
now = test_rooms[:, AT]
parity = (torch.arange(ROOMS) // SIZE + torch.arange(ROOMS) % SIZE) % 2  # even after an even number of steps
visited = torch.bincount(label.flatten(), minlength=ROOMS) >= 5
reachable = parity[None] == parity[now][:, None]
can = visited[None] & reachable & (doors[None] != doors[now][:, None]).any(-1)
target, third = torch.multinomial(can.float() + 1e-9, 2, generator=chooser).T
change = means[target] - means[now]


def scaled(direction: torch.Tensor) -> torch.Tensor:
    return direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-9) * change.norm(dim=1, keepdim=True)


@torch.no_grad()
def with_change(value: torch.Tensor) -> torch.Tensor:
    """Probabilities [walk, move] at the last step, with the change added between the layers."""

    def add(stream: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        stream = stream.clone()
        stream[:, AT] = stream[:, AT] + value
        return stream

    return model.run_with_hooks(test.to(device), fwd_hooks=[(SITE, add)])[:, AT].softmax(-1).cpu()


def doors_of(p: torch.Tensor, rooms: torch.Tensor) -> float:
    """Share of the four moves that are judged as in these rooms (open: above a tenth)."""
    return ((p > 0.1) == doors[rooms]).float().mean().item()


edits = {
    "to the room": change,
    "to a third room": scaled(means[third] - means[now]),
    "random": random_like(change, seed=SEED),
}
strengths = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]
doses = {name: [doors_of(with_change(s * edit), target) for s in strengths] for name, edit in edits.items()}
moved = {name: with_change(STRENGTH * edit) for name, edit in edits.items()}
metrics |= {
    "target_before": doors_of(clean[:, AT].softmax(-1), target),
    "target_after": doors_of(moved["to the room"], target),
    "target_third": doors_of(moved["to a third room"], target),
    "target_random": doors_of(moved["random"], target),
    "own_before": doors_of(clean[:, AT].softmax(-1), now),
    "noop_change": (with_change(0 * change) - clean[:, AT].softmax(-1)).abs().max().item(),
}

# %% [markdown]
# ### Is the map coherent?
#
# Vafa et al. ask two things of a model that is said to hold a map. *Compression*: two walks to one room must
# be continued alike. *Distinction*: walks to rooms with different doors must not. Measured by the distance of
# the two predictions (total variation, 0 to 1) after equally many steps.

# %%
partner = torch.randperm(len(test), generator=chooser)
p = clean[:, AT].softmax(-1)
distance = 0.5 * (p - p[partner]).abs().sum(-1)
same = (now == now[partner]) & (torch.arange(len(test)) != partner)
different = (doors[now] != doors[now[partner]]).any(-1)
ideal = F.normalize(doors.float(), p=1, dim=-1)
metrics["compression_distance"] = distance[same].mean().item() if same.any() else 0.0
metrics["distinction_distance"] = distance[different].mean().item()
true_distance = 0.5 * (ideal[now] - ideal[now[partner]]).abs().sum(-1)
metrics["distinction_ideal"] = true_distance[different].mean().item()

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"A maze of {SIZE} x {SIZE} rooms, heard step by step")
ax = axes[0]
for room in range(ROOMS):
    row, column = divmod(room, SIZE)
    ax.plot(column, row, "s", markersize=11, color="0.8")
    ax.text(column, row, room, ha="center", va="center", fontsize=7)
    for move in (1, 2):
        if doors[room, move]:
            other_row, other_column = divmod(neighbour(room, move), SIZE)
            ax.plot([column, other_column], [row, other_row], color=plots.COLOURS[0], linewidth=2, zorder=0)
ax.set_xticks(range(SIZE))
ax.set_yticks(range(SIZE))
ax.invert_yaxis()
ax.set_aspect("equal")
plots.label(ax, "The maze: rooms and doors", "column", "row")
plots.loss_curves(
    axes[1], history, ["doors_right"], log=False, y="share of places with all doors right",
    marks={"from the last two steps": metrics["doors_two_steps"]}, title="Which doors are open?",
)  # fmt: skip
for index, (name, values) in enumerate(curves.items()):
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index], "label": name}
    axes[2].plot(range(len(places)), values, marker="o", **style)
axes[2].set_xticks(range(len(places)), [place.replace(" ", "\n") for place in places])
axes[2].legend(fontsize=8, frameon=False)
plots.label(axes[2], "Linear probe for the room", "residual stream after", "share read right")
centred = means - means.mean(0)
plane = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
colours = [plots.COLOURS[0] if q == 0 else plots.COLOURS[1] for q in parity.tolist()]
axes[3].scatter(plane[:, 0].cpu(), plane[:, 1].cpu(), color=colours, s=18)
for room in range(ROOMS):
    axes[3].annotate(str(room), plane[room].tolist(), fontsize=7, xytext=(3, 3), textcoords="offset points")
    for move in (1, 2):
        if doors[room, move]:
            ends = torch.stack([plane[room], plane[neighbour(room, move)]]).cpu()
            axes[3].plot(ends[:, 0], ends[:, 1], color="0.75", linewidth=0.8, zorder=0)
plots.label(axes[3], "Rooms in the stream between the layers", "first component", "second component")
for index, (name, values) in enumerate(doses.items()):
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index], "label": name}
    axes[4].plot(strengths, values, marker="o", **style)
axes[4].legend(fontsize=8, frameon=False)
plots.label(axes[4], "Move it: doors of the new room", "strength of the edit", "share of doors right")
bins = {"same room": distance[same], "different doors": distance[different]}
axes[5].hist(
    [values.numpy() for values in bins.values()], bins=20, range=(0, 1), density=True,
    color=[plots.COLOURS[0], plots.COLOURS[1]], label=list(bins),
)  # fmt: skip
axes[5].legend(fontsize=8, frameon=False)
plots.label(axes[5], "Is the map coherent? Pairs of walks", "distance of the predictions", "density")
run.save(fig, "maze")

# %%
report = run.finish(metrics)
