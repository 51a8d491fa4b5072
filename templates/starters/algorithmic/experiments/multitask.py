"""One model, three understood tasks: does it share its parts, or keep a part for each?

    python experiment.py                run that expected.json describes
    python experiment.py --d-mlp 48     fewer units than before: must it share more?
    python experiment.py --seed 1       another seed

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Several algorithms in one network
#
# A one-layer transformer reads a task token and two numbers, and must add them mod p, name the larger, or
# repeat the first. Each task alone is understood: addition with Fourier waves (Nanda et al. 2023,
# arXiv:2301.05217), the others by attending and copying. Together they have to live in the same weights.
# Does the shared model add as an addition-only model does, and which units serve two tasks?

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import fourier, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and split
P = 23  # the modulus, and the number of numbers; odd
D_MODEL = 64  # width of the residual stream
D_MLP = 96  # hidden units
TRAIN_SHARE = 0.8  # share of all pairs that is trained on, the same pairs in every task
STEPS = 450  # full-batch steps of the shared model; the addition-only model takes as many
LR = 1e-2
WEIGHT_DECAY = 1.0
GROUP = 24  # units to ablate as a task's own
KEY = 4  # how many frequencies to call key frequencies

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: every pair of numbers, under every task token

# %%
TASKS = ("add", "larger", "first")
a = torch.arange(P).repeat_interleave(P)
b = torch.arange(P).repeat(P)
answer_to = {"add": (a + b) % P, "larger": torch.maximum(a, b), "first": a}


def prompts(task: str) -> torch.Tensor:
    """Tokens [pair, 4]: a, b, the task token, '='."""
    name = torch.full_like(a, P + TASKS.index(task))
    return torch.stack([a, b, name, torch.full_like(a, P + len(TASKS))], dim=1).to(device)


tokens = {task: prompts(task) for task in TASKS}
answers = {task: answer_to[task].to(device) for task in TASKS}
order = torch.randperm(P * P, generator=torch.Generator().manual_seed(SEED)).to(device)
n_train = int(TRAIN_SHARE * P * P)
train_set, test_set = order[:n_train], order[n_train:]

# %% [markdown]
# ### One shared model, and a model for addition alone


# %%
def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // 4, n_heads=4, n_layers=1, n_ctx=4, d_vocab=P + len(TASKS) + 1,
        d_vocab_out=P, d_mlp=D_MLP, act_fn="relu", normalization_type=None,
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def accuracy(logits: torch.Tensor, task: str) -> float:
    """Share of the test pairs answered; logits [pair, p] over all pairs."""
    return (logits[test_set].argmax(-1) == answers[task][test_set]).float().mean().item()


def fit(tasks: tuple[str, ...], label: str) -> tuple[TransformerBridge, dict[str, list[float]]]:
    model = build()
    inputs = torch.cat([tokens[task][train_set] for task in tasks])
    targets = torch.cat([answers[task][train_set] for task in tasks])

    def evaluate() -> dict[str, float]:
        return {task: accuracy(model(tokens[task])[:, -1], task) for task in tasks}

    return model, train(
        model, lambda step: F.cross_entropy(model(inputs)[:, -1], targets), steps=STEPS, lr=LR,
        weight_decay=WEIGHT_DECAY, decay=True, evaluate=evaluate, every=max(1, STEPS // 40), label=label,
    )  # fmt: skip


shared, history = fit(TASKS, "shared")
alone = fit(("add",), "add alone")[0]
metrics = {f"{task}_accuracy": history[task][-1] for task in TASKS}
with torch.no_grad():
    metrics["add_alone_accuracy"] = accuracy(alone(tokens["add"])[:, -1], "add")

# %% [markdown]
# ### Does the task token decide?
#
# Patch only the task token's embedding: give the addition prompts that of "larger". The model should now
# answer the other task, on the same numbers. Control: put its own embedding back (no-op).


# %%
@torch.no_grad()
def with_task(model: TransformerBridge, prompt: str, task: str) -> torch.Tensor:
    """Logits [pair, p] when the task token's embedding is replaced by another task's."""

    def replace(embed: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        embed[:, 2] = model.W_E[P + TASKS.index(task)]
        return embed

    return model.run_with_hooks(tokens[prompt], fwd_hooks=[("hook_embed", replace)])[:, -1]


with torch.no_grad():
    clean = {task: shared(tokens[task])[:, -1] for task in TASKS}
metrics["noop_change"] = (with_task(shared, "add", "add") - clean["add"]).abs().max().item()
metrics["follows_token"] = accuracy(with_task(shared, "add", "larger"), "larger")
metrics["old_task_left"] = accuracy(with_task(shared, "add", "larger"), "add")

# %% [markdown]
# ### Which hidden units does each task need?
#
# Mean-ablate each unit in turn, at the answer position, and see how much the loss of each task rises.
# Then ablate a task's most needed units together: what happens to it, and to the other tasks?


# %%
@torch.no_grad()
def loss_without(task: str, units: torch.Tensor) -> float:
    """Loss (nats) over all pairs with hidden units at their mean; units [k]."""

    def ablate(post: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        post[:, -1, units] = post[:, -1, units].mean(0)
        return post

    hooks = [("blocks.0.mlp.hook_post", ablate)]
    logits = shared.run_with_hooks(tokens[task], fwd_hooks=hooks)[:, -1]
    return F.cross_entropy(logits, answers[task]).item()


nothing = torch.tensor([], dtype=torch.long, device=device)
importance = {}
for task in TASKS:
    base = loss_without(task, nothing)
    each = [loss_without(task, torch.tensor([unit], device=device)) - base for unit in range(D_MLP)]
    importance[task] = torch.tensor(each).clamp_min(0)  # [unit]
own = {task: importance[task].topk(GROUP).indices.to(device) for task in TASKS}
shuffle = torch.Generator().manual_seed(SEED)
random_units = torch.randperm(D_MLP, generator=shuffle)[:GROUP].to(device)
groups = {**{f"{task}'s units": own[task] for task in TASKS}, "random units": random_units}
rise = torch.tensor(
    [[loss_without(task, units) - loss_without(task, nothing) for task in TASKS] for units in groups.values()]
)  # [group, task]


def overlap(one: str, other: str) -> float:
    """Share of the most needed units that two tasks have in common; chance is GROUP / D_MLP."""
    return len(set(own[one].tolist()) & set(own[other].tolist())) / GROUP


metrics["add_own_rise"] = rise[0, 0].item()
metrics["add_random_rise"] = rise[3, 0].item()
metrics["own_over_random"] = metrics["add_own_rise"] / max(metrics["add_random_rise"], 1e-6)
metrics["first_rise_from_add_units"] = rise[0, 2].item()
metrics["overlap_add_larger"] = overlap("add", "larger")
metrics["overlap_add_first"] = overlap("add", "first")

# %% [markdown]
# ### The same algorithm as alone?
#
# The spectrum of the number embeddings: addition alone concentrates it on a few frequencies; comparing
# numbers needs their order, which lives in the lowest ones. The shared embedding must serve both.

# %%
spectra = {
    "shared": fourier.frequency_power(shared.W_E[:P].detach()),
    "add alone": fourier.frequency_power(alone.W_E[:P].detach()),
    "untrained": fourier.frequency_power(build().W_E[:P].detach()),
}
concentration = {name: power.topk(KEY).values.sum().item() for name, power in spectra.items()}
metrics["key_power_shared"] = concentration["shared"]
metrics["key_power_add_alone"] = concentration["add alone"]
metrics["key_power_untrained"] = concentration["untrained"]

# %%
fig, axes = plots.figure(2, 3, f"One model, three tasks (numbers mod {P})")
plots.loss_curves(
    axes[0], history, list(TASKS), title="Shared model: test accuracy", y="accuracy", log=False,
    marks={"guessing": 1 / P},
)  # fmt: skip
plots.bars(
    axes[1],
    {
        **{f"{task}, shared": metrics[f"{task}_accuracy"] for task in TASKS},
        "add, alone": metrics["add_alone_accuracy"],
    },
    "Test accuracy", y="accuracy", marks={"guessing": 1 / P},
)  # fmt: skip
plots.heatmap(
    axes[2], rise, "Rise of the loss, units ablated (nats)", x="task", x_ticks=list(TASKS),
    y_ticks=list(groups), numbers=True,
)  # fmt: skip
ranked = torch.stack([importance[task] / importance[task].max().clamp_min(1e-9) for task in TASKS])
plots.heatmap(
    axes[3], ranked[:, importance["add"].argsort(descending=True)], "Need for each unit (largest = 1)",
    x="hidden unit, by need for addition", y_ticks=list(TASKS), limits=(0, 1),
)  # fmt: skip
plots.heatmap(
    axes[4], torch.stack(list(spectra.values())), "Embedding spectra (share of power)", x="frequency - 1",
    y_ticks=list(spectra),
)  # fmt: skip
plots.bars(
    axes[5],
    {"asked task": metrics["follows_token"], "old task": metrics["old_task_left"]},
    "Addition prompts with the token of 'larger'", y="accuracy", highlight=["old task"],
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
