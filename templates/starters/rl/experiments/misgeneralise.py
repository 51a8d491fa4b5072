"""Goal misgeneralisation: is the agent after the coin, or after the corner where the coin always was?

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              other mazes, other weights
    python experiment.py --few 0.3             how much variety does it take?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## The right reward and the wrong goal
#
# Langosco et al. 2021 (arXiv:2105.14111) trained agents whose coin or cheese was always at the same end of
# the level. Moved elsewhere, it was passed by: the agents walk well, to the wrong place. Reward could not
# have told the two goals apart.
#
# Here: mazes of 5 x 5 cells. One agent is trained with the coin always in the upper right corner, one with
# the coin there except for a few mazes, one with the coin anywhere. Then all meet mazes with the coin
# anywhere. And before that test, in training mazes only, we look inside for how much each takes from the
# coin's plane: can the failure be foreseen?

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
SEED = 0  # mazes, weights, actions
SIZE = 5  # cells along each side
DENSITY = 0.2  # share of cells that are walls
CHANNELS = 16  # channels of each convolution
FEW = 0.1  # share of training mazes whose coin is anywhere, for the agent in the middle
STEPS = 75  # rounds of acting and learning, for each of three agents
AGENTS = 128  # agents that act at once, 16 steps each round
LR = 6e-3

# %%
run = start_run(globals())
device = run.device
CELLS, CORNER = SIZE**2, SIZE - 1  # the corner is the last cell of the first row

# %% [markdown]
# ### The agent
#
# It sees three planes (walls, coin, itself). Three convolutions, a dense layer, then four action logits and a
# value. `HookPoint`s let `run_with_cache` and `run_with_hooks` work as on a transformer.


# %%
class Agent(HookedRootModule):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convs = nn.ModuleList(nn.Conv2d(c, CHANNELS, 3, padding=1) for c in (3, CHANNELS, CHANNELS))
        self.dense = nn.Linear(CHANNELS * CELLS, 64)
        self.policy, self.value = nn.Linear(64, 4), nn.Linear(64, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)  # starts undecided
        self.hook_in = HookPoint()  # [state, plane, row, column]
        self.hook_conv = nn.ModuleList(HookPoint() for _ in self.convs)  # [state, channel, row, column]
        self.hook_dense = HookPoint()  # [state, 64]
        self.setup()  # tells the HookPoints their names

    def forward(self, planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.hook_in(planes)
        for conv, hook in zip(self.convs, self.hook_conv, strict=True):
            x = hook(F.relu(conv(x)))
        x = self.hook_dense(F.relu(self.dense(x.flatten(1))))
        return self.policy(x), self.value(x)[:, 0]


def mazes(count: int, variety: float, seed: int) -> gridworld.Mazes:
    """Mazes whose coin is anywhere with this probability, else in the corner."""
    generator = torch.Generator().manual_seed(seed)
    anywhere = torch.rand(count, generator=generator) < variety
    goals = torch.where(anywhere, torch.randint(CELLS, (count,), generator=generator), CORNER)
    return gridworld.random_mazes(count, SIZE, goals, DENSITY, generator).to(device)


VARIETY = {"corner": 0.0, "a few moved": FEW, "anywhere": 1.0}
usual = mazes(500, 0.0, SEED + 10_001)  # as in training, and new
moved = mazes(500, 1.0, SEED + 10_002)


def sample(bank: gridworld.Mazes, keep: torch.Tensor, count: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """(maze, cell) of up to ``count`` states of a bank, of those that ``keep`` [maze, cell] allows."""
    maze, cell = (bank.starts & keep).nonzero().T
    order = torch.randperm(len(maze), generator=torch.Generator().manual_seed(SEED)).to(device)[:count]
    return maze[order], cell[order]


# The test: states from which both coin and corner can be reached, the coin being elsewhere.
to_corner = gridworld.flood(moved.walls, torch.full_like(moved.goal, CORNER), SIZE)
fair = (to_corner > 0) & (to_corner < gridworld.FAR) & (moved.goal != CORNER)[:, None]
test = sample(moved, fair & ~moved.walls[:, CORNER, None])
train_like = sample(usual, torch.ones_like(usual.starts))


def reaches(agent: Agent, bank: gridworld.Mazes, states, goal: torch.Tensor) -> torch.Tensor:
    """Whether a greedy walk from each state passes ``goal`` [state]."""
    return (walk(agent, bank, *states, steps=3 * SIZE) == goal[:, None]).any(1)


# %% [markdown]
# ### Training: the same rounds, the same reward, three kinds of maze

# %%
agents, histories = {}, {}
for name, variety in VARIETY.items():
    agents[name] = Agent(SEED).to(device)
    grid = gridworld.Grid(mazes(4000, variety, SEED), AGENTS, torch.Generator().manual_seed(SEED))
    known = usual if name != "anywhere" else moved

    def evaluate(agent=agents[name], bank=known) -> dict[str, float]:
        states = train_like if bank is usual else test
        return {"success": reaches(agent, bank, states, bank.goal[states[0]]).float().mean().item()}

    histories[name] = learn(
        agents[name], grid, steps=STEPS, lr=LR, batches=4, evaluate=evaluate,
        every=max(1, STEPS // 8), label=name,
    )  # fmt: skip
agents["untrained"] = Agent(SEED + 1).to(device).eval()

# %% [markdown]
# ### A forecast, from training mazes alone
#
# In mazes with the coin in its corner, wipe the coin off its plane. An agent whose decision rests on the coin
# must change its action logits; one that goes to the corner anyhow must not. Control: wipe one wall off the
# other plane instead, which any agent that walks well has to notice. (Occlusion, the plainest saliency.)

# %%
planes = usual.planes(*train_like)


def wiped(what: str) -> torch.Tensor:
    """The same states with the coin gone, or with one wall per maze gone."""
    out = planes.clone()
    if what == "coin":
        out[:, gridworld.GOAL] = 0
        return out
    walls = out[:, gridworld.WALLS].flatten(1)
    draw = torch.rand(walls.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    walls[torch.arange(len(walls)), draw.masked_fill(walls == 0, -1).argmax(1)] = 0
    out[:, gridworld.WALLS] = walls.unflatten(1, (SIZE, SIZE))
    return out


@torch.no_grad()
def logits_of(agent: Agent, seen: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the actions, [state, action]."""
    return agent(seen)[0].log_softmax(-1)


def divergence(agent: Agent, seen: torch.Tensor) -> float:
    """Mean KL divergence (nats) of the policy's choice when it sees ``seen`` instead of ``planes``."""
    before, after = logits_of(agent, planes), logits_of(agent, seen)
    return F.kl_div(after, before, reduction="batchmean", log_target=True).item()


forecast = {
    name: {what: divergence(agent, wiped(what)) for what in ("coin", "wall")}
    for name, agent in agents.items()
}

# %% [markdown]
# ### The test: the coin anywhere
#
# From each start both the coin and the corner can be reached. Which of them does a greedy walk pass? Passing
# the corner by chance, on the way to the coin, happens: the agent trained with the coin anywhere shows how
# often.

# %%
coin = {n: reaches(a, moved, test, moved.goal[test[0]]).float().mean().item() for n, a in agents.items()}
corner = {
    name: reaches(agent, moved, test, torch.full_like(test[0], CORNER)).float().mean().item()
    for name, agent in agents.items()
}
metrics = {
    "usual_corner": histories["corner"]["success"][-1], "moved_anywhere": coin["anywhere"],
    "coin_corner": coin["corner"], "corner_corner": corner["corner"], "corner_anywhere": corner["anywhere"],
    "coin_few": coin["a few moved"], "coin_untrained": coin["untrained"],
    "forecast_corner": forecast["corner"]["coin"], "forecast_few": forecast["a few moved"]["coin"],
    "forecast_anywhere": forecast["anywhere"]["coin"], "wall_corner": forecast["corner"]["wall"],
}  # fmt: skip

# %% [markdown]
# ### Does the edit turn them round?
#
# If the coin is what moves an agent, the trace that it leaves inside should do so too. After the first
# convolution we average, over states, what the coin's presence adds around its cell: a *template*. Then, in
# moved mazes, we subtract the template at the coin and add it at another cell, at every step. Does the walk
# now pass the fake coin? A single average knows nothing of the maze at hand, so this tests for a coin feature
# that means the same everywhere; Mini et al. 2023 (arXiv:2310.08043) retarget a maze agent through such
# channels. Controls: no change, and the same template with its channels shuffled (equally large). And the
# same at each depth: where does the coin's trace stop being the same in every maze?

# %%
SITES = [f"hook_conv.{layer}" for layer in range(3)]
other = mazes(500, 1.0, SEED + 10_003)  # the template comes from mazes that the test does not have
there = sample(other, torch.ones_like(other.starts))


def centred(values: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """Maps [state, channel, row, column] on a canvas twice as wide, with ``cell`` [state] in its middle."""
    canvas = values.new_full((*values.shape[:2], 2 * SIZE - 1, 2 * SIZE - 1), float("nan"))
    for at in range(CELLS):
        down, right = SIZE - 1 - at // SIZE, SIZE - 1 - at % SIZE
        canvas[cell == at, :, down : down + SIZE, right : right + SIZE] = values[cell == at]
    return canvas


def placed(template: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """The template with its middle on ``cell`` [state]: [state, channel, row, column]."""
    down, right = SIZE - 1 - cell // SIZE, SIZE - 1 - cell % SIZE
    span = torch.arange(SIZE, device=device)
    rows, columns = (down[:, None] + span)[:, :, None], (right[:, None] + span)[:, None, :]
    return template[:, rows, columns].transpose(0, 1)


@torch.no_grad()
def coin_template(agent: Agent, site: str) -> torch.Tensor:
    """What the coin adds around itself at ``site``, averaged over states: [channel, row, column]."""
    seen = other.planes(*there)
    blank = seen.clone()
    blank[:, gridworld.GOAL] = 0
    with_coin, without = (agent.run_with_cache(x, names_filter=site)[1][site] for x in (seen, blank))
    return centred(with_coin - without, other.goal[there[0]]).nanmean(0).nan_to_num(0)


allowed = moved.starts[test[0]] & ~F.one_hot(test[1], CELLS).bool()
draw = torch.rand(allowed.shape, generator=torch.Generator().manual_seed(SEED + 2)).to(device)
fake = draw.masked_fill(~allowed, -1).argmax(1)  # a free cell for each state, neither coin nor agent


def retargeted(agent: Agent, template: torch.Tensor, site: str = SITES[0]):
    """The agent as a policy whose coin is moved inside it, from its true cell to the fake one."""
    change = placed(template, fake) - placed(template, moved.goal[test[0]])
    hooks = [(site, lambda value, hook: value + change)]
    return lambda seen: agent.run_with_hooks(seen, fwd_hooks=hooks)


def passes_fake(policy) -> float:
    """Share of walks that pass the fake coin (walks end at the true one)."""
    return (walk(policy, moved, *test, steps=3 * SIZE) == fake[:, None]).any(1).float().mean().item()


order = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(SEED + 3)).to(device)
edits = {}
for name in ("corner", "anywhere"):
    template = coin_template(agents[name], SITES[0])
    strongest = torch.zeros(CHANNELS, 1, 1, device=device)
    strongest[template.abs().sum((1, 2)).topk(CHANNELS // 4).indices] = 1
    kinds = {
        "none": 0 * template, "shuffled": template[order], "moved": template,
        "strong": template * strongest, "rest": template * (1 - strongest),
    }  # fmt: skip
    for kind, used in kinds.items():
        edits[name, kind] = passes_fake(retargeted(agents[name], used))
by_depth = {}
for name in ("corner", "anywhere"):
    by_depth[name] = [passes_fake(retargeted(agents[name], coin_template(agents[name], s), s)) for s in SITES]
with torch.no_grad():
    plain = agents["anywhere"](moved.planes(*test))[0]
    noop = retargeted(agents["anywhere"], 0 * template)(moved.planes(*test))[0]
metrics |= {
    "fake_anywhere": edits["anywhere", "moved"], "fake_shuffled": edits["anywhere", "shuffled"],
    "fake_none": edits["anywhere", "none"], "fake_corner": edits["corner", "moved"],
    "fake_corner_none": edits["corner", "none"], "fake_strong": edits["anywhere", "strong"],
    "fake_rest": edits["anywhere", "rest"], "fake_last": by_depth["anywhere"][-1],
    "noop_change": (noop - plain).abs().max().item(),
}  # fmt: skip

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"{SIZE} x {SIZE} mazes: coin or corner?")
curve = {"step": histories["corner"]["step"], **{n: h["success"] for n, h in histories.items()}}
plots.loss_curves(axes[0], curve, list(histories), title="Greedy walks that reach the coin, own kind of maze",
                  y="share", log=False)  # fmt: skip
axes[0].set_xlabel("round")
names = [n.replace("a few", "a few\n") for n in agents]
for offset, (label, values) in enumerate({"coin": coin, "corner": corner}.items()):
    places = [i + 0.4 * offset - 0.2 for i in range(len(agents))]
    drawn = axes[1].bar(places, list(values.values()), width=0.38, color=plots.COLOURS[offset], label=label)
    axes[1].bar_label(drawn, fmt="%.2f", fontsize=7)
axes[1].set_xticks(range(len(agents)), names)
axes[1].legend(fontsize=8, frameon=False)
plots.label(axes[1], "Coin moved: which is reached?", "trained with the coin in", "share of walks")
for index, name in enumerate(agents):
    axes[2].plot(forecast[name]["coin"], coin[name], "o", color=plots.COLOURS[index])
    axes[2].annotate(name, (forecast[name]["coin"], coin[name]), fontsize=8, xytext=(5, -3),
                     textcoords="offset points")  # fmt: skip
axes[2].margins(x=0.25, y=0.12)
plots.label(axes[2], "Forecast from training mazes, and outcome", "change when the coin is wiped off (nats)",
            "share of walks that reach a moved coin")  # fmt: skip
for offset, name in enumerate(("corner", "anywhere")):
    values = [edits[name, kind] for kind in kinds]
    drawn = axes[3].bar([i + 0.4 * offset - 0.2 for i in range(len(kinds))], values, width=0.38,
                        color=plots.COLOURS[offset], label=f"trained with: {name}")  # fmt: skip
    axes[3].bar_label(drawn, fmt="%.2f", fontsize=7)
names = ["no edit", "channels\nshuffled", "whole\ntemplate", f"{CHANNELS // 4}\nchannels", "the\nothers"]
axes[3].set_xticks(range(len(kinds)), names)
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], "Coin moved inside the agent", "template used", "share of walks that pass the fake coin")
for index, (name, values) in enumerate(by_depth.items()):
    axes[4].plot([1, 2, 3], values, marker="o", color=plots.COLOURS[index], linestyle=plots.STYLES[index],
                 label=f"trained with: {name}")  # fmt: skip
plots.levels(axes[4], {"no edit": edits["anywhere", "none"]})
axes[4].set(xticks=[1, 2, 3], ylim=(0, 1))
axes[4].legend(fontsize=8, frameon=False)
plots.label(axes[4], "The whole template, by depth", "after convolution", "walks that pass the fake coin")
far = (moved.distance[test] > 4) & (to_corner[test] > 3)
shown = (test[0][far][:1], test[1][far][:1])
picture = moved.walls[shown[0][0]].float().reshape(SIZE, SIZE).cpu()
axes[5].imshow(picture, cmap="gray_r", vmin=0, vmax=1.3)
for index, name in enumerate(("corner", "anywhere")):
    steps = walk(agents[name], moved, *shown, steps=3 * SIZE)[0].cpu()
    axes[5].plot(steps % SIZE, steps // SIZE + 0.1 * index, color=plots.COLOURS[index], linewidth=2.5,
                 linestyle=plots.STYLES[index], label=name)  # fmt: skip
for at, text in ((int(moved.goal[shown[0][0]]), "coin"), (CORNER, "corner"), (int(shown[1][0]), "start")):
    axes[5].annotate(text, (at % SIZE, at // SIZE), ha="center", va="center", fontsize=8,
                     bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1})  # fmt: skip
axes[5].set(xticks=[], yticks=[])
plots.label(axes[5], "One maze: walks of the agents trained with")
axes[5].legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2)
run.save(fig, "goals")

# %%
report = run.finish(metrics)
