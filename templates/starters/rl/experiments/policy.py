"""A small policy-gradient agent in one room: does it compute the way to the goal or remember pairs?

    python experiment.py                       the run that expected.json describes
    python experiment.py --width 32            a tighter network
    python experiment.py --seed 1              another room, other weights

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## An agent small enough to be listed
#
# One room of 6 x 6 cells with walls, a goal that changes place, an actor-critic with two hidden layers,
# trained by a policy gradient. Every state (agent cell x goal cell) can be listed, and the shortest way from
# each is known, so every claim can be checked on all of them. One state in ten is never learned from: there a
# rule and a memorised table part.
#
# What we ask: is it optimal, and on held-out states too? What do its layers hold that an untrained network
# does not? And does an edit of what we find turn the agent round, towards a goal that is not there?

# %%
import torch
from torch import nn
from torch.nn import functional as F
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from lab import gridworld, plots
from lab.actor_critic import learn, walk
from lab.results import start_run

# %% knobs
SEED = 0  # room, held-out states, weights, actions
SIZE = 6  # cells along each side
DENSITY = 0.2  # share of cells that are walls
WIDTH = 64  # units of each hidden layer
HELD_OUT = 0.1  # share of states that are never learned from
STEPS = 800  # rounds of acting and learning
AGENTS = 128  # agents that act at once, 16 steps each round
LR = 4e-3

# %%
run = start_run(globals())
device = run.device
CELLS = SIZE**2

# %% [markdown]
# ### The room, and its table of states
#
# One maze per goal cell, all with the same walls. `optimal` holds every action that shortens the way (often
# two do).

# %%
generator = torch.Generator().manual_seed(SEED)
room = gridworld.random_mazes(1, SIZE, torch.zeros(1, dtype=torch.int64), DENSITY, generator)
free = room.distance[0] < gridworld.FAR  # the cells from which the first one can be reached
goals = free.nonzero()[:, 0]
bank = gridworld.mazes_with((~free).expand(len(goals), CELLS), goals, SIZE)
bank.counted[:] = torch.rand(bank.counted.shape, generator=generator) >= HELD_OUT
bank = bank.to(device)
states = bank.states()  # (maze, cell) of every state
learned = bank.counted[states]  # [state]
optimal, distance = bank.optimal(*states), bank.distance[states]
goal_cell, agent_cell = bank.goal[states[0]], states[1]
planes = bank.planes(*states)

# %% [markdown]
# ### The agent: two hidden layers, a policy and a value


# %%
class Agent(HookedRootModule):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList([nn.Linear(3 * CELLS, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.policy, self.value = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)  # starts undecided
        self.hook_post = nn.ModuleList(HookPoint() for _ in self.layers)  # [state, unit]
        self.setup()  # tells the HookPoints their names

    def forward(self, planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = planes.flatten(1)
        for layer, hook in zip(self.layers, self.hook_post, strict=True):
            x = hook(F.relu(layer(x)))
        return self.policy(x), self.value(x)[:, 0]


agent, untrained = Agent(SEED).to(device), Agent(SEED + 1).to(device).eval()


@torch.no_grad()
def good(policy, which: torch.Tensor) -> float:
    """Share of the states ``which`` where the likeliest action shortens the way."""
    action = policy(planes[which])[0].argmax(-1)
    return optimal[which].gather(1, action[:, None]).float().mean().item()


def evaluate() -> dict[str, float]:
    return {"learned": good(agent, learned), "held_out": good(agent, ~learned)}


grid = gridworld.Grid(bank, AGENTS, generator)
history = learn(agent, grid, steps=STEPS, lr=LR, batches=4, evaluate=evaluate, every=max(1, STEPS // 20))
with torch.no_grad():
    logits, value = agent(planes)
arrives = walk(agent, bank, *states, steps=3 * SIZE)[:, -1] == goal_cell
true_value = 0.95 ** (distance - 1.0)  # of an optimal agent; 0.95 is the discount of `learn`
judged = learned & arrives  # elsewhere the agent's own value is lower, rightly
error = (value - true_value)[judged].abs().mean().item()
spread = (true_value[judged] - true_value[judged].mean()).abs().mean().item()  # the error of a constant
metrics = {
    "optimal_learned": good(agent, learned), "optimal_held_out": good(agent, ~learned),
    "optimal_untrained": good(untrained, torch.ones_like(learned)),
    "optimal_random": optimal.float().mean().item(),
    "arrives": arrives.float().mean().item(),
    "value_error": error, "value_constant": spread,
}  # fmt: skip

# %% [markdown]
# ### Two rules it might follow
#
# A rule of thumb: walk in the direction in which the goal lies, walls or no walls (`as the crow flies`). If
# the agent did that, it would be as good as the rule, and fail where walls are in the way. So we look where
# the rule has no good action to offer.

# %%
below, right = goal_cell // SIZE - agent_cell // SIZE, goal_cell % SIZE - agent_cell % SIZE  # in cells
wanted = torch.stack([-below, right, below, -right], dim=1)  # by action: up, right, down, left
crow = wanted.argmax(1)  # along the longer side
detour = ~(optimal & (wanted > 0)).any(1)  # no step towards the goal shortens the way
metrics |= {
    "optimal_crow": optimal.gather(1, crow[:, None]).float().mean().item(),
    "detour_share": detour.float().mean().item(), "optimal_detours": good(agent, detour),
}  # fmt: skip

# %% [markdown]
# ### What do the layers hold? Regressions on the whole table
#
# For each layer, a ridge regression from the units to: the row and column gap to the goal, the distance
# through the room, and whether up or right shortens the way. Fitted on half of the states, scored (R squared)
# on the rest, beside an untrained network of the same shape and the raw observation. The gaps are linear in
# the observation, so a probe that finds them has found nothing. The distance is not: walls bend it.

# %%
targets = {
    "row gap": below, "column gap": right, "distance": distance,
    "best: up": optimal[:, 0], "best: right": optimal[:, 1],
}  # fmt: skip
half = torch.rand(len(planes), generator=torch.Generator().manual_seed(SEED + 2)).to(device) < 0.5


@torch.no_grad()
def layers_of(model: Agent) -> dict[str, torch.Tensor]:
    _, cache = model.run_with_cache(planes)
    return {f"layer {i}": cache[f"hook_post.{i}"] for i in range(len(model.layers))}


def r_squared(x: torch.Tensor, y: torch.Tensor) -> float:
    """Held-out R squared of a ridge regression from x [state, unit] to y [state]."""
    x, y = F.pad(x, (0, 1), value=1.0), y.float()
    gram = x[half].T @ x[half] + 1e-2 * torch.eye(x.shape[1], device=device)
    fit = torch.linalg.solve(gram, x[half].T @ y[half])
    return 1 - ((x[~half] @ fit - y[~half]).square().mean() / y[~half].var()).item()


sites = {"observation": planes[:, 1:].flatten(1)}
sites |= {f"{name}, untrained": x for name, x in layers_of(untrained).items()}
sites |= layers_of(agent)
known = {site: {name: r_squared(x, y) for name, y in targets.items()} for site, x in sites.items()}
metrics |= {
    "gap_trained": known["layer 1"]["row gap"], "gap_observation": known["observation"]["row gap"],
    "distance_trained": known["layer 1"]["distance"],
    "distance_observation": known["observation"]["distance"],
    "distance_untrained": known["layer 1, untrained"]["distance"],
}  # fmt: skip

# %% [markdown]
# ### Turn the agent round
#
# Take a direction of the first layer for the goal's place: the mean activation with the goal at cell g, less
# the mean over all goals, at any agent cell. In a walk, subtract the direction of the true goal and add that
# of an imagined one, at every step. Where does the agent end up? Controls: nothing added, the direction of
# equal length with its units shuffled, only subtracting (it should be lost), and the patch from the actual
# state (activations of the same agent cell with the imagined goal), an upper bound.

# %%
SITE = "hook_post.0"
first = layers_of(agent)["layer 0"]
mean_at = torch.stack([first[(goal_cell == g)].mean(0) for g in bank.goal])  # [maze, unit]; one maze per goal
direction = mean_at - mean_at.mean(0)

chooser = torch.Generator().manual_seed(SEED + 3)
cases = torch.randperm(len(planes), generator=chooser)[:800].to(device)
imagined = torch.randint(len(goals), (len(cases),), generator=chooser).to(device)  # a maze number, so a goal
fine = (bank.goal[imagined] != agent_cell[cases]) & (imagined != states[0][cases])
cases, imagined = cases[fine], imagined[fine]
start = (states[0][cases], agent_cell[cases])
shuffle = torch.randperm(WIDTH, generator=chooser).to(device)


def led(kind: str):
    """A policy whose first layer is edited as ``kind`` says, case by case."""
    away, towards = direction[start[0]], direction[imagined]
    change = {
        "none": 0 * away, "erased": -away, "moved": towards - away, "shuffled": (towards - away)[:, shuffle],
    }  # fmt: skip

    def policy(seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if kind == "patched":
            pretended = seen.clone()
            pretended[:, gridworld.GOAL] = F.one_hot(bank.goal[imagined], CELLS).float().view(-1, SIZE, SIZE)
            with torch.no_grad():
                there = agent.run_with_cache(pretended, names_filter=SITE)[1][SITE]
            hook = (SITE, lambda value, hook: there)
        else:
            hook = (SITE, lambda value, hook: value + change[kind])
        return agent.run_with_hooks(seen, fwd_hooks=[hook])

    return policy


outcome = {}
for kind in ("none", "shuffled", "erased", "moved", "patched"):
    visited = walk(led(kind), bank, *start, steps=3 * SIZE)
    outcome[kind] = {
        name: (visited == bank.goal[maze][:, None]).any(1).float().mean().item()
        for name, maze in (("true goal", start[0]), ("imagined goal", imagined))
    }
with torch.no_grad():
    noop = (led("none")(planes[cases])[0] - logits[cases]).abs().max().item()
metrics |= {
    "imagined_moved": outcome["moved"]["imagined goal"], "imagined_none": outcome["none"]["imagined goal"],
    "imagined_shuffled": outcome["shuffled"]["imagined goal"],
    "imagined_patched": outcome["patched"]["imagined goal"],
    "true_none": outcome["none"]["true goal"], "true_erased": outcome["erased"]["true goal"],
    "true_moved": outcome["moved"]["true goal"], "noop_change": noop,
}  # fmt: skip

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"A {SIZE} x {SIZE} room: an agent whose every state is known")
plots.loss_curves(
    axes[0], history | {"as_the_crow_flies": [metrics["optimal_crow"]] * len(history["step"])},
    ["learned", "held_out", "as_the_crow_flies"], log=False, y="share of states",
    title="The likeliest action shortens the way",
)  # fmt: skip
axes[0].set_xlabel("round")
plots.heatmap(
    axes[1], torch.tensor([[known[site][name] for name in targets] for site in sites]).clamp(min=0),
    "Held-out R squared of a linear readout", x_ticks=[n.replace(" ", "\n") for n in targets],
    y_ticks=list(sites), limits=(0, 1), numbers=True, bar=False,
)  # fmt: skip
for offset, what in enumerate(("true goal", "imagined goal")):
    values = [found[what] for found in outcome.values()]
    drawn = axes[2].bar([i + 0.4 * offset - 0.2 for i in range(len(outcome))], values, width=0.38,
                        color=plots.COLOURS[offset], label=what)  # fmt: skip
    axes[2].bar_label(drawn, fmt="%.2f", fontsize=7)
axes[2].set_xticks(range(len(outcome)), list(outcome))
axes[2].legend(fontsize=8, frameon=False)
axes[2].margins(y=0.2)
plots.label(axes[2], "The goal moved inside the agent", "edit of the first layer", "share of walks that pass")
second = layers_of(agent)["layer 1"]
effect = (second.std(0) * agent.policy.weight.detach().norm(dim=0)).topk(1).indices.item()
top = second[:, effect].max().item()
shown_goals = [int(bank.goal[i]) for i in (len(goals) // 5, len(goals) // 2, 4 * len(goals) // 5)]
for ax, g in zip(axes[3:], shown_goals, strict=True):
    picture = torch.full((CELLS,), float("nan"))
    here = goal_cell == g
    picture[agent_cell[here].cpu()] = second[here, effect].cpu()
    plots.heatmap(ax, picture.reshape(SIZE, SIZE), f"Unit {effect} of layer 1, goal at the cross",
                  x="agent's column", y="agent's row", limits=(0, top))  # fmt: skip
    ax.plot(g % SIZE, g // SIZE, "X", color=plots.COLOURS[1], markersize=11, markeredgecolor="white")
    ax.set_facecolor("0.75")
    ax.set_aspect("equal")
run.save(fig, "agent")

# %%
report = run.finish(metrics)
