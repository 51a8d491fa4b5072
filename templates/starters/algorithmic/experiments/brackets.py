"""Balanced brackets: two ways to be wrong, and the part of the model that notices each.

    python experiment.py                run that expected.json describes
    python experiment.py --seed 1       another seed
    python experiment.py --layers 1     can one layer still tell?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Are the brackets balanced?
#
# A row of `(` and `)` is balanced if it opens as often as it closes, and if no beginning of it closes
# more than it has opened. So a row can fail in two ways: brackets left *open* at the end, or a *dip*
# below zero on the way. Counting both kinds finds the first failure and can never find the second.
#
# One guess at the mechanism, to be tested below: a head of layer 0 looks evenly at everything before it,
# so that it carries the mean of +1 and -1, that is depth / place. The MLP behind it turns "below zero"
# into a flag. Layer 1 lets the last place ask whether any flag is up.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
LENGTH = 16  # brackets in a row (even)
LAYERS = 2  # layers of attention and MLP
HEADS = 2  # heads in each layer
D_MODEL = 32  # width of the residual stream
BATCH = 128  # rows in a step
STEPS = 600  # training steps
LR = 3e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device
if LENGTH % 2:
    raise SystemExit(f"LENGTH must be even, or no row is balanced; it is {LENGTH}")
START, END = 2, 3  # tokens: 0 is "(", 1 is ")"
LAST = LENGTH + 1  # the place of END, where the verdict is read

# %% [markdown]
# ### Data: near misses
#
# A random row is almost never balanced, and a row that is wrong in every way teaches little. So we draw
# evenly from all rows that never dip and end at depth `final` (counting how many ways lead on from each
# depth), and spoil some: exchange one `(` with one `)`, or reverse the row. The label is always the rule.


# %%
def ways(final: int) -> torch.Tensor:
    """Number of ways to reach depth ``final`` without a dip: [symbols left, depth now]."""
    table = torch.zeros(LENGTH + 1, LENGTH + 2, dtype=torch.double)
    table[0, final] = 1
    for left in range(1, LENGTH + 1):
        table[left, :-1] = table[left - 1, 1:]  # open one
        table[left, 1:] += table[left - 1, :-1]  # close one
    return table


WAYS = {final: ways(final) for final in (0, 2, 4)}


def never_dips(rows: int, final: int, generator: torch.Generator) -> torch.Tensor:
    """Rows of +1 and -1 [row, place], each as likely as any other that ends at ``final``."""
    table, depth, row = WAYS[final], torch.zeros(rows, dtype=torch.long), []
    for left in range(LENGTH, 0, -1):
        chance = table[left - 1, depth + 1] / table[left, depth]
        up = torch.rand(rows, generator=generator, dtype=torch.double) < chance
        row.append(torch.where(up, 1, -1))
        depth = depth + row[-1]
    return torch.stack(row, dim=1)


def exchange(steps: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One opening and one closing bracket change places: the counts stay, the order may not."""
    opens = (steps > 0).float()
    first = torch.multinomial(opens, 1, generator=generator)
    second = torch.multinomial(1 - opens, 1, generator=generator)
    return steps.scatter(1, first, -1).scatter(1, second, 1)


def sample(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Steps +1, -1 [row, place]: 2/5 balanced, 2/5 near misses, 1/5 wrong counts."""
    part = rows // 5
    balanced = never_dips(2 * part, 0, generator)
    open_ = torch.cat([never_dips(part - part // 2, 2, generator), never_dips(part // 2, 4, generator)])
    turned = torch.rand(len(open_), 1, generator=generator) < 0.5
    open_ = torch.where(turned, -open_.flip(1), open_)  # turned over: too many closing ones
    near = exchange(never_dips(rows - 3 * part, 0, generator), generator)
    return torch.cat([balanced, open_, near]).to(device)


def is_balanced(steps: torch.Tensor) -> torch.Tensor:
    """The rule: 1 for balanced rows, else 0."""
    depth = steps.cumsum(1)
    return ((depth[:, -1] == 0) & (depth.amin(1) >= 0)).long()


def tokens_of(steps: torch.Tensor) -> torch.Tensor:
    """START, the brackets, END: [row, place]."""
    side = torch.ones_like(steps[:, :1])
    return torch.cat([START * side, (steps < 0).long(), END * side], dim=1)


def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH + 2,
        d_vocab=4, d_vocab_out=2, d_mlp=4 * D_MODEL, act_fn="relu", normalization_type="LN",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model = build()
generator = torch.Generator().manual_seed(SEED)
steps = sample(2000, torch.Generator().manual_seed(10_000 + SEED))
tokens, truth, depth = tokens_of(steps), is_balanced(steps), steps.cumsum(1)
dips, ends_at_zero = depth.amin(1) < 0, depth[:, -1] == 0
kinds = {
    "balanced": truth == 1,
    "left open": ~dips & ~ends_at_zero,
    "dips": dips & ends_at_zero,
    "both": dips & ~ends_at_zero,
}


def by_kind(verdict: torch.Tensor) -> dict[str, float]:
    """Share of right verdicts among the rows of each kind."""
    right = (verdict == truth).float()
    return {kind: right[rows].mean().item() for kind, rows in kinds.items()}


def loss_at(step: int) -> torch.Tensor:
    """Cross-entropy (nats) of the verdict on fresh rows."""
    batch = sample(BATCH, generator)
    return F.cross_entropy(model(tokens_of(batch))[:, LAST], is_balanced(batch))


def evaluate() -> dict[str, float]:
    return by_kind(model(tokens)[:, LAST].argmax(-1))


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.1, decay=True, clip=1.0,
    evaluate=evaluate, every=max(1, STEPS // 40),
)  # fmt: skip

# %%
with torch.no_grad():
    logits, cache = model.run_with_cache(tokens)
    untrained_logits, untrained_cache = build().run_with_cache(tokens)
accuracy = by_kind(logits[:, LAST].argmax(-1))
metrics = {
    "worst_accuracy": min(accuracy.values()),
    "untrained_worst": min(by_kind(untrained_logits[:, LAST].argmax(-1)).values()),
    "counting_on_dips": by_kind(ends_at_zero.long())["dips"],
}

# %% [markdown]
# ### What is written where? Linear probes
#
# Two quantities, read from the residual stream at the brackets by least squares, fitted on every other row
# and scored (R2) on the rest: depth / place, and the flag "below zero". A model without training
# also spreads its attention evenly, so it carries depth / place for nothing: a probe that succeeds is no
# evidence of learning. The flag is another matter.

# %%
places = torch.arange(1, LENGTH + 1, device=device)
mean_so_far = depth / places  # [row, place]
below = (depth < 0).float()
STAGES = {
    "embedding": "blocks.0.hook_resid_pre",
    "attention 0": "blocks.0.hook_attn_out",
    "after MLP 0": "blocks.0.hook_resid_post",
}


def fit(stream: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Least squares from stream [row, place, d_model] to target [row, place]: weights and held-out R2.

    The tiny ridge keeps the weights finite where directions of the stream are never used.
    """
    inputs = torch.cat([stream, torch.ones_like(stream[..., :1])], dim=-1)
    flat, wanted = inputs[::2].flatten(0, 1), target[::2].flatten()
    gram = flat.T @ flat / len(flat)
    ridge = 1e-5 * gram.diagonal().mean() * torch.eye(len(gram), device=device)
    weights = torch.linalg.solve(gram + ridge, flat.T @ wanted / len(flat))
    error = (inputs[1::2] @ weights - target[1::2]).pow(2).mean() / target[1::2].var()
    return weights, 1 - error.item()


shuffled = below[torch.randperm(len(below), generator=torch.Generator().manual_seed(SEED)).to(device)]
probes = {}
for stage, name in STAGES.items():
    here, untrained = cache[name][:, 1:LAST], untrained_cache[name][:, 1:LAST]
    probes[stage] = {
        "depth / place": fit(here, mean_so_far)[1],
        "below zero": fit(here, below)[1],
        "untrained: depth / place": fit(untrained, mean_so_far)[1],
        "untrained: below zero": fit(untrained, below)[1],
    }
metrics |= {
    "mean_r2": probes["attention 0"]["depth / place"],
    "mean_r2_embedding": probes["embedding"]["depth / place"],
    "mean_r2_untrained": probes["attention 0"]["untrained: depth / place"],
    "flag_r2": probes["after MLP 0"]["below zero"],
    "flag_r2_before": probes["attention 0"]["below zero"],
    "flag_r2_untrained": probes["after MLP 0"]["untrained: below zero"],
    "flag_r2_shuffled": fit(cache[STAGES["after MLP 0"]][:, 1:LAST], shuffled)[1],
}

# %% [markdown]
# ### Which part notices which failure?
#
# Mean ablation of MLPs, once at the last place only (in all layers, since any of them may judge the
# total) and once at the brackets only (in layer 0, which must raise the flag before layer 1 looks). If
# the guess is right, the first blinds the model to rows left open, the second to dips, and not the other
# way round. Control: in place of what the ablation takes away, as large a vector in a random direction.

# %%
EVERY_MLP = [f"blocks.{layer}.hook_mlp_out" for layer in range(LAYERS)]
ATTENTION = "blocks.0.hook_attn_out"
BRACKETS, LAST_ONLY = slice(1, LAST), slice(LAST, LAST + 1)
noise = torch.Generator().manual_seed(SEED)


def mean_ablated(names: list[str], where: slice) -> dict[str, float]:
    """Right verdicts by kind with the activations at ``where`` replaced by their mean over rows."""

    def hook_fn(value: torch.Tensor, hook: object) -> torch.Tensor:
        value = value.clone()
        value[:, where] = value[:, where].mean(0, keepdim=True)
        return value

    return verdicts(names, hook_fn)


def randomly_moved(names: list[str], where: slice) -> dict[str, float]:
    """The control: each vector moved as far as the ablation moves it, in a random direction."""

    def hook_fn(value: torch.Tensor, hook: object) -> torch.Tensor:
        value, taken = value.clone(), value[:, where] - value[:, where].mean(0, keepdim=True)
        direction = torch.randn(taken.shape, generator=noise).to(taken)
        value[:, where] += direction / direction.norm(dim=-1, keepdim=True) * taken.norm(dim=-1, keepdim=True)
        return value

    return verdicts(names, hook_fn)


@torch.no_grad()
def verdicts(names: list[str], hook_fn) -> dict[str, float]:
    hooks = [(name, hook_fn) for name in names]
    return by_kind(model.run_with_hooks(tokens, fwd_hooks=hooks)[:, LAST].argmax(-1))


conditions = {
    "as it is": accuracy,
    "MLPs ablated at END": mean_ablated(EVERY_MLP, LAST_ONLY),
    "MLP 0 ablated at brackets": mean_ablated(EVERY_MLP[:1], BRACKETS),
    "random move at END": randomly_moved(EVERY_MLP, LAST_ONLY),
    "random move at brackets": randomly_moved(EVERY_MLP[:1], BRACKETS),
}
for layer in range(1, LAYERS):
    attention = f"blocks.{layer}.hook_attn_out"
    conditions[f"attention {layer} ablated at END"] = mean_ablated([attention], LAST_ONLY)
metrics |= {
    "end_open": conditions["MLPs ablated at END"]["left open"],
    "end_dips": conditions["MLPs ablated at END"]["dips"],
    "brackets_open": conditions["MLP 0 ablated at brackets"]["left open"],
    "brackets_dips": conditions["MLP 0 ablated at brackets"]["dips"],
    "random_worst": min(min(conditions[f"random move at {place}"].values()) for place in ("END", "brackets")),
}

# %% [markdown]
# ### Push one place below zero
#
# The causal test. Take balanced rows, and at a single bracket move what attention 0 wrote along the
# direction of depth / place, to the value that depth -4 would have there. Nothing else is touched. The
# verdict should turn to "not balanced", though every bracket of the row is still in order.

# %%
written = cache[ATTENTION][:, 1:LAST]
weights, _ = fit(written, mean_so_far)
centred = (written - written.mean((0, 1))).flatten(0, 1)
along = centred.T @ (centred @ weights[:-1])  # how activations move when the quantity does
along = along / (along @ weights[:-1])  # one unit of depth / place
sideways = torch.randn(D_MODEL, generator=noise).to(along)
sideways = sideways / sideways.norm() * along.norm()
balanced = kinds["balanced"]


@torch.no_grad()
def turned(place: int, direction: torch.Tensor, to_depth: float) -> float:
    """Share of balanced rows called unbalanced after ``place`` was pushed to ``to_depth``."""

    def hook_fn(value: torch.Tensor, hook: object) -> torch.Tensor:
        value = value.clone()
        push = (to_depth - depth[balanced, place - 1]) / place
        value[:, place] += push[:, None] * direction
        return value

    out = model.run_with_hooks(tokens[balanced], fwd_hooks=[(ATTENTION, hook_fn)])
    return (out[:, LAST].argmax(-1) == 0).float().mean().item()


middle = LENGTH // 2
goals = list(range(4, -5, -1))
curves = {
    "depth direction": [turned(middle, along, goal) for goal in goals],
    "random direction": [turned(middle, sideways, goal) for goal in goals],
}
metrics |= {
    "turned_below": turned(middle, along, -4),
    "turned_above": turned(middle, along, 4),
    "turned_random": turned(middle, sideways, -4),
}
with torch.no_grad():
    same = model.run_with_hooks(tokens, fwd_hooks=[(ATTENTION, lambda value, hook: value + 0 * along)])
metrics["noop_change"] = (same - logits).abs().max().item()

# %%
fig, axes = plots.figure(2, 3, "Balanced brackets: who notices what")
plots.loss_curves(
    axes[0], history, list(kinds), title="Learning, by kind of row", y="share of right verdicts", log=False
)
row = int(kinds["dips"].nonzero()[0])
names = ["S", *["(" if step > 0 else ")" for step in steps[row].tolist()], "E"]
plots.attention(axes[1], cache["pattern", 0][row, 0], names, "Head 0.0 on a row that dips")
plots.heatmap(
    axes[2], [list(scores.values()) for scores in probes.values()], "Linear probes: held-out R2",
    x_ticks=["depth/\nplace", "below\nzero", "untrained:\ndepth/place", "untrained:\nbelow"],
    y_ticks=list(STAGES), limits=(0, 1), numbers=True,
)  # fmt: skip
plots.heatmap(
    axes[3], [list(shares.values()) for shares in conditions.values()], "Right verdicts, part removed",
    x_ticks=list(kinds), y_ticks=list(conditions), limits=(0, 1), numbers=True,
)  # fmt: skip
for (name, values), colour, style in zip(curves.items(), plots.COLOURS, ("o-", "s--"), strict=False):
    axes[4].plot(goals, values, style, color=colour, label=name)
axes[4].axvline(-0.5, color="0.45", linewidth=0.9, linestyle=":")
axes[4].invert_xaxis()
axes[4].legend(fontsize=8, frameon=False)
plots.label(axes[4], f"Place {middle} pushed, rest in order", "depth it is pushed to", "called unbalanced")
after_mlp = cache[STAGES["after MLP 0"]][:, 1:LAST]
flag = torch.cat([after_mlp[row], torch.ones(LENGTH, 1, device=device)], dim=1) @ fit(after_mlp, below)[0]
axes[5].step(places.tolist(), depth[row].tolist(), where="mid", color=plots.COLOURS[6], label="depth")
axes[5].plot(places.tolist(), flag.tolist(), "o--", color=plots.COLOURS[1], label="flag: 1 if below zero")
axes[5].axhline(0, color="0.45", linewidth=0.9, linestyle=":")
axes[5].legend(fontsize=8, frameon=False)
plots.label(axes[5], "The same row: depth, and the flag", "place", "depth; probe output")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
