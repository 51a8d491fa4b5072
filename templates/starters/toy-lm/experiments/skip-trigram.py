"""Skip-trigram bugs: false completions that one head cannot avoid, and how an MLP repairs them.

    python experiment.py                    the run that expected.json describes
    python experiment.py --seed 1           another table, other weights
    python experiment.py --per-source 8     longer lists of answers: more bugs to repair

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A mistake that attention alone is bound to make
#
# A one-layer head learns skip-trigrams "a ... b, so c". Where it looks depends on (b, a), but what it
# writes depends on a alone. So if "a ... b1" means c1 and "a ... b2" means c2, attending to a from both
# raises c1 and c2 both times: the false pair "a ... b1, c2" comes free (Elhage et al. 2021, A
# Mathematical Framework, call these skip-trigram bugs). An MLP after the head sees a and b together. Does
# it repair the bugs, and how?

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # table, weights and data
SOURCES = 24  # source tokens a
SECONDS = 24  # tokens b, always the last of a row
ANSWERS = 8  # answer tokens c
PER_SOURCE = 4  # answers that one source can have, depending on b
EASY = 6  # further sources, each with one answer for every b (the control)
FILLERS = 8  # tokens that mean nothing
LENGTH = 8  # tokens in a row
D_MODEL = 48  # width of the residual stream
D_HEAD = 24  # width of a head
NEURONS = 96  # neurons of the MLP: as many parameters as two further heads
BATCH = 256  # rows in a step
STEPS = 600  # training steps
LR = 1e-2  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: filler, a source a, filler, and b; the pair (a, b) decides the answer
#
# `TABLE[a, b]` is drawn at random from the short list of a. Every pair is trained on: this is about what a
# model can store, not about what it generalises to. The right prediction is certain, so the best loss is 0.

# %%
table_generator = torch.Generator().manual_seed(1000 + SEED)
LISTED = torch.rand(SOURCES, ANSWERS, generator=table_generator).argsort(-1)[:, :PER_SOURCE]
TABLE = LISTED.gather(1, torch.randint(PER_SOURCE, (SOURCES, SECONDS), generator=table_generator))
# easy sources follow: one answer each, whatever b
easy_answers = torch.randint(ANSWERS, (EASY, 1), generator=table_generator)
TABLE = torch.cat([TABLE, easy_answers.expand(-1, SECONDS)])
SECOND = FILLERS + SOURCES + EASY  # token id of the first b
ANSWER = SECOND + SECONDS  # token id of the first answer
VOCABULARY = ANSWER + ANSWERS


def rows_for(a: torch.Tensor, b: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Tokens [row, position]: source a somewhere among fillers, b at the end."""
    tokens = torch.randint(FILLERS, (len(a), LENGTH), generator=generator)
    place = torch.randint(LENGTH - 1, (len(a), 1), generator=generator)
    tokens.scatter_(1, place, FILLERS + a[:, None])
    tokens[:, -1] = SECOND + b
    return tokens.to(device)


def sample(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.randint(SOURCES + EASY, (rows,), generator=generator)
    b = torch.randint(SECONDS, (rows,), generator=generator)
    return rows_for(a, b, generator), (ANSWER + TABLE[a, b]).to(device)


# every pair, four times with other fillers: what all models are measured on
ALL_A, ALL_B = (x.flatten().repeat(4) for x in torch.meshgrid(
    torch.arange(SOURCES + EASY), torch.arange(SECONDS), indexing="ij"))  # fmt: skip
every_row = rows_for(ALL_A, ALL_B, torch.Generator().manual_seed(10_000 + SEED))
right = TABLE[ALL_A, ALL_B].to(device)
hard = (ALL_A < SOURCES).to(device)
# answers that the table lists for a, but with other b's: where a bug puts its probability
listed = torch.zeros(SOURCES + EASY, ANSWERS, dtype=torch.bool)
listed.scatter_(1, TABLE, True)
false_listed = listed[ALL_A].to(device)
false_listed[torch.arange(len(right)), right] = False

# %% [markdown]
# ### The ceiling of attention, without a transformer
#
# The most that n heads can do: logits f(b, c) + sum over heads of A(b, a) h(a, c) with A between 0 and 1.
# Fit the tables directly by gradient descent from eight starts. A lower bound on the ceiling, and a fair
# opponent.


# %%
def ceiling(heads: int, starts: int = 8) -> float:
    """Best share of the hard pairs that f + sum A h gets right."""
    generator = torch.Generator().manual_seed(SEED)
    shapes = [
        (starts, SECONDS, ANSWERS),
        (starts, heads, SECONDS, SOURCES),
        (starts, heads, SOURCES, ANSWERS),
    ]
    f, score, h = (torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes)
    optimiser = torch.optim.Adam([f, score, h], lr=0.1)
    goal = TABLE[:SOURCES].expand(starts, -1, -1)
    for _ in range(min(300, STEPS)):
        logits = f[:, None] + torch.einsum("snba,snac->sabc", score.sigmoid(), h)
        loss = starts * F.cross_entropy(logits.flatten(0, 2), goal.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (logits.argmax(-1) == goal).float().mean(dim=(1, 2)).max().item()


ceilings = {heads: ceiling(heads) for heads in (1, 2)}

# %% [markdown]
# ### Train four models on the same rows
#
# One, two and three heads alone, and one head with an MLP, which has as many parameters as three heads. No
# LayerNorm: so a one-head model is exactly of the form above, and logits are exactly sums of parts.


# %%
def build(heads: int, mlp: bool) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_HEAD, n_heads=heads, n_layers=1, n_ctx=LENGTH, d_vocab=VOCABULARY,
        attn_only=not mlp, d_mlp=NEURONS, act_fn="relu", normalization_type=None,
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


@torch.no_grad()
def probabilities(model: TransformerBridge, hooks: list | None = None) -> torch.Tensor:
    """Over the answers, at the last position of every row: [row, answer]."""
    logits = model.run_with_hooks(every_row, fwd_hooks=hooks or [])[:, -1]
    return logits.softmax(-1)[:, ANSWER:]


def accuracy(p: torch.Tensor, rows: torch.Tensor) -> float:
    return (p.argmax(-1) == right)[rows].float().mean().item()


def bug_mass(p: torch.Tensor) -> float:
    """Probability on answers of the same source with another b, over the hard pairs."""
    return (p * false_listed).sum(-1)[hard].mean().item()


def fit(heads: int, mlp: bool, name: str) -> tuple[TransformerBridge, dict[str, list[float]]]:
    model = build(heads, mlp)
    generator = torch.Generator().manual_seed(SEED)

    def loss_at(step: int) -> torch.Tensor:
        tokens, answer = sample(BATCH, generator)
        return F.cross_entropy(model(tokens)[:, -1], answer)

    def evaluate() -> dict[str, float]:
        return {name: accuracy(probabilities(model), hard)}

    return model, train(
        model,
        loss_at,
        steps=STEPS,
        lr=LR,
        decay=True,
        evaluate=evaluate,
        every=max(1, STEPS // 20),
        label=name,
    )


models, history = {}, {}
for name, heads, mlp in (
    ("1 head", 1, False),
    ("2 heads", 2, False),
    ("3 heads", 3, False),
    ("1 head, MLP", 1, True),
):
    models[name], columns = fit(heads, mlp, name)
    history |= columns
found = {name: probabilities(model) for name, model in models.items()}
for name, model in models.items():
    count = sum(p.numel() for block in model.blocks for p in block.parameters())
    print(f"{name:12} {count:6} parameters in the block, hard pairs right {accuracy(found[name], hard):.3f}, "
          f"bug mass {bug_mass(found[name]):.3f}")  # fmt: skip

# %% [markdown]
# ### Read the bug off the one-head model
#
# The head's OV circuit, from each source to the answers, must raise all answers that the source lists,
# whatever b will be: W_E W_V W_O W_U. Compare listed with unlisted answers. A shuffled list is the
# control.


# %%
@torch.no_grad()
def ov_table(model: TransformerBridge) -> torch.Tensor:
    """What attending to each hard source adds to each answer's logit, centred: [source, answer]."""
    circuit = model.W_E @ model.W_V[0, 0] @ model.W_O[0, 0] @ model.W_U
    table = circuit[FILLERS : FILLERS + SOURCES, ANSWER:]
    return table - table.mean(-1, keepdim=True)


def listed_gap(table: torch.Tensor, mask: torch.Tensor) -> float:
    """Mean logit of listed answers less that of the others."""
    return (table[mask].mean() - table[~mask].mean()).item()


hard_list = listed[:SOURCES].to(device)
ov = ov_table(models["1 head"])

# %% [markdown]
# ### Who supplies what in the model with the MLP?
#
# Direct logit attribution is exact here: the logit is a sum of the embedding, the head and the MLP, each
# times W_U. Two contrasts: listed answers against unlisted (which a head can supply), and the right
# answer against the false listed ones (which needs a and b together).

# %%
model = models["1 head, MLP"]
with torch.no_grad():
    _, cache = model.run_with_cache(every_row)
    parts = {
        "embedding": (cache["embed"] + cache["pos_embed"])[:, -1],
        "head": cache["attn_out", 0][:, -1],
        "MLP": cache["mlp_out", 0][:, -1],
    }
    attribution = {name: (part @ model.W_U)[hard][:, ANSWER:] for name, part in parts.items()}
    logits = model(every_row)[:, -1, ANSWER:][hard]
    summed = sum(attribution.values()) + model.unembed.b_U[ANSWER:]
    dla_error = (summed - logits).abs().max().item()
truth = F.one_hot(right[hard], ANSWERS).bool()
false = false_listed[hard]
neither = ~(truth | false)


def contrast(x: torch.Tensor, high: torch.Tensor, low: torch.Tensor) -> float:
    """Mean over rows of (mean over ``high`` answers less mean over ``low`` answers)."""
    means = [(x * m).sum(-1) / m.sum(-1).clamp_min(1) for m in (high, low)]
    return (means[0] - means[1])[(high.any(-1) & low.any(-1))].mean().item()


right_against_false = {name: contrast(x, truth, false) for name, x in attribution.items()}
false_against_rest = {name: contrast(x, false, neither) for name, x in attribution.items()}

# %% [markdown]
# ### Take the repair away
#
# Give the MLP's output its mean (over all rows) and look at the bugs. On the easy sources, where there is
# nothing to repair, the same ablation should do less harm. Then one neuron at a time.


# %%
def mean_mlp(out: torch.Tensor, hook: HookPoint) -> torch.Tensor:
    return out.mean(0, keepdim=True).expand_as(out)


def mean_neurons(post: torch.Tensor, hook: HookPoint, which: torch.Tensor) -> torch.Tensor:
    post = post.clone()
    post[..., which] = post[..., which].mean(0, keepdim=True)
    return post


without_mlp = probabilities(model, [("blocks.0.hook_mlp_out", mean_mlp)])
same = probabilities(model, [("blocks.0.hook_mlp_out", lambda out, hook: out)])
fraction = torch.randperm(NEURONS, generator=torch.Generator().manual_seed(SEED))
survival = {}
for share in (0, 0.125, 0.25, 0.5, 1):
    which = fraction[: int(share * NEURONS)]
    hooks = [("blocks.0.mlp.hook_post", lambda post, hook, which=which: mean_neurons(post, hook, which))]
    survival[share] = accuracy(probabilities(model, hooks), hard)

# %% [markdown]
# ### What does a neuron respond to: a row, a column, or a pair?
#
# Split each neuron's table of activations over (a, b) into a part that depends on a alone, a part that
# depends on b alone, and the rest, which needs both. Before the nonlinearity there is hardly any rest
# (what there is comes from attention); after it there is.


# %%
def shares(activations: torch.Tensor) -> torch.Tensor:
    """Variance due to a, to b, and to both together: [3, neuron]."""
    grid = activations[hard].view(4, SOURCES, SECONDS, -1).mean(0)
    mean = grid.mean(dim=(0, 1), keepdim=True)
    by_a, by_b = grid.mean(1, keepdim=True) - mean, grid.mean(0, keepdim=True) - mean
    both = grid - mean - by_a - by_b
    variances = torch.stack(
        [x.pow(2).mean(dim=(0, 1)) for x in (by_a.expand_as(grid), by_b.expand_as(grid), both)]
    )
    return variances / variances.sum(0).clamp_min(1e-9)


post = cache["post", 0][:, -1]
before, after = shares(cache["blocks.0.mlp.hook_pre"][:, -1]), shares(post)
metrics = {
    "ceiling_one_head": ceilings[1],
    "ceiling_two_heads": ceilings[2],
    "accuracy_one_head": accuracy(found["1 head"], hard),
    "accuracy_three_heads": accuracy(found["3 heads"], hard),
    "accuracy_mlp": accuracy(found["1 head, MLP"], hard),
    "bug_mass_one_head": bug_mass(found["1 head"]),
    "bug_mass_mlp": bug_mass(found["1 head, MLP"]),
    "bug_mass_ablated": bug_mass(without_mlp),
    "accuracy_ablated": accuracy(without_mlp, hard),
    "easy_ablated": accuracy(without_mlp, ~hard),
    "ov_gap": listed_gap(ov, hard_list),
    "ov_gap_shuffled": listed_gap(ov, hard_list.roll(1, 0)),
    "repair_by_mlp": right_against_false["MLP"] / sum(right_against_false.values()),
    "pair_share_before": before[2].mean().item(),
    "pair_share_after": after[2].mean().item(),
    "dla_error": dla_error,
    "noop_change": (same - found["1 head, MLP"]).abs().max().item(),
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"Skip-trigram bugs: {SOURCES} sources x {SECONDS} seconds, {ANSWERS} answers")
plots.loss_curves(
    axes[0],
    history,
    list(models),
    title="Hard pairs answered rightly",
    y="accuracy",
    log=False,
    marks={"ceiling of one head (fitted)": ceilings[1]},
)
masses = {name: bug_mass(p) for name, p in found.items()} | {"MLP ablated": bug_mass(without_mlp)}
plots.bars(
    axes[1],
    masses,
    "Bug mass: probability on answers of\nthe same source with another b",
    y="probability",
    highlight=["1 head, MLP"],
)
order = torch.arange(SOURCES)
plots.heatmap(
    axes[2],
    ov[order],
    "One head alone: what attending to a source adds\n(dots: answers listed for it)",
    x="answer",
    y="source",
    signed=True,
)
where = hard_list[order].cpu().nonzero()
axes[2].plot(where[:, 1], where[:, 0], "k.", ms=3)
spots = torch.arange(3)
axes[3].bar(
    spots - 0.2,
    list(false_against_rest.values()),
    0.4,
    color=plots.COLOURS[1],
    label="false listed less unlisted",
)
axes[3].bar(
    spots + 0.2,
    list(right_against_false.values()),
    0.4,
    color=plots.COLOURS[0],
    label="right less false listed",
)
axes[3].axhline(0, color="0.2", linewidth=0.6)
axes[3].set_xticks(spots, list(attribution))
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], "One head and MLP: who adds what", "", "logit difference")
best = int(after[2].mul(post[hard].std(0)).argmax())
grid = post[hard].view(4, SOURCES, SECONDS, -1).mean(0)[..., best]
plots.heatmap(
    axes[4], grid, f"Neuron {best}: {after[2, best]:.0%} of its variance needs both", x="b", y="source a"
)
names = [f"{share:.0%}" for share in survival]
axes[5].plot(list(survival), list(survival.values()), "o-", color=plots.COLOURS[0])
plots.levels(axes[5], {"one head, trained alone": metrics["accuracy_one_head"]})
axes[5].set_ylim(0, 1.03)
plots.label(axes[5], "Random neurons set to their mean", "share of the neurons", "hard pairs right")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
