"""The larger (or smaller) number of a list: one head looks it up, and its OV circuit copies it.

    python experiment.py                     the run that expected.json describes
    python experiment.py --operation min     the smaller number instead
    python experiment.py --list-length 4     a longer list

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## The maximum of a list
#
# A one-layer, one-head transformer without MLP or layer norm reads a few numbers and must name
# the largest at the last position. Models of this kind are understood so well that their accuracy
# has been proved from their weights (Gross et al. 2024, arXiv:2406.11779): the head attends more
# the larger a number is, and copies what it attends to. Here you train one, read both halves off
# its weights, and then turn its attention round to see whether the answer follows.

# %%
import math

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights, data and split
OPERATION = "max"  # max or min
LIST_LENGTH = 2  # numbers in a list
NUMBERS = 64  # the numbers are 0 .. NUMBERS - 1
D_MODEL = 32  # width of the residual stream, and of the one head
BATCH = 512  # lists in a step
STEPS = 500  # training steps
LR = 1e-2  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: random lists, a tenth of all lists never trained on
#
# With two numbers there are only 64 x 64 lists, so a network could learn them by heart. A list is
# held out if a random linear hash of its numbers says so; that works for lists of any length.

# %%
hash_weights = torch.randint(
    1, 10_007, (LIST_LENGTH,), generator=torch.Generator().manual_seed(SEED + 1)
)


def sample(rows: int, generator: torch.Generator, held_out: bool) -> torch.Tensor:
    """Lists [row, position]: only held-out ones, or only the others."""
    drawn = rows * (16 if held_out else 2)  # enough to choose from
    lists = torch.randint(0, NUMBERS, (drawn, LIST_LENGTH), generator=generator)
    chosen = ((lists @ hash_weights) % 10_007 < 1_001) == held_out
    return lists[chosen][:rows].to(device)


def best(lists: torch.Tensor) -> torch.Tensor:
    return lists.max(-1).values if OPERATION == "max" else lists.min(-1).values


test = sample(2048, torch.Generator().manual_seed(SEED + 2), held_out=True)
answers = best(test)

# %% [markdown]
# ### The model, and its training


# %%
def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL, n_heads=1, n_layers=1, n_ctx=LIST_LENGTH, d_vocab=NUMBERS,
        attn_only=True, normalization_type=None,
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model = build(SEED)
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    lists = sample(BATCH, generator, held_out=False)
    return F.cross_entropy(model(lists)[:, -1], best(lists))


def accuracy(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return (logits.argmax(-1) == expected).float().mean().item()


def evaluate() -> dict[str, float]:
    logits = model(test)[:, -1]
    loss = F.cross_entropy(logits, answers)
    return {"test_loss": loss.item(), "accuracy": accuracy(logits, answers)}


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True, evaluate=evaluate,
    every=max(1, STEPS // 50),
)  # fmt: skip
metrics = {"test_accuracy": history["accuracy"][-1]}
# the best one can do without comparing: always name the number at the last position
metrics["last_number_accuracy"] = (test[:, -1] == answers).float().mean().item()

# %% [markdown]
# ### Where the head looks: the QK circuit
#
# The whole attention score of a query number for a key number is a table, a product of weights
# and embeddings. If the head looks for the largest number, every row of it must rise with the key
# (for the minimum: fall). We count the ordered pairs of keys, with those one apart as the hardest
# case.


# %%
@torch.no_grad()
def qk_circuit(net: TransformerBridge) -> torch.Tensor:
    """Scores [query number, key number], with positions averaged over (they are added on later)."""
    query = net.W_E + net.W_pos[-1]  # the answer is read at the last position
    key = net.W_E + net.W_pos.mean(0)
    q = query @ net.W_Q[0, 0] + net.b_Q[0, 0]
    k = key @ net.W_K[0, 0] + net.b_K[0, 0]
    return q @ k.T / D_MODEL**0.5


@torch.no_grad()
def ordered_share(scores: torch.Tensor, gap: int) -> float:
    """Share of (query, key, key + gap) for which the better key has the higher score."""
    rise = scores[:, gap:] - scores[:, :-gap]
    return ((rise > 0) == (OPERATION == "max")).float().mean().item()


scores, scores_untrained = qk_circuit(model), qk_circuit(build(SEED + 1))
gaps = [1, 2, 4, 8, 16]
ordered = {gap: ordered_share(scores, gap) for gap in gaps}
ordered_untrained = {gap: ordered_share(scores_untrained, gap) for gap in gaps}
metrics["qk_ordered"] = ordered[4]
metrics["qk_ordered_untrained"] = ordered_untrained[4]
print("key pairs in the right order, by gap:", {g: round(v, 3) for g, v in ordered.items()})

# %% [markdown]
# ### What the head writes: the OV circuit
#
# The logits that attending to a number adds, again a table from weights alone. Copying means that
# every row has its largest entry on the diagonal. The direct path (the last number's own
# embedding, read by the unembedding without any head) is what is left of the network.


# %%
@torch.no_grad()
def ov_circuit(net: TransformerBridge) -> torch.Tensor:
    """Logits [attended number, output number]."""
    values = net.W_E @ net.W_V[0, 0] + net.b_V[0, 0]
    return values @ net.W_O[0, 0] @ net.W_U


ov, ov_untrained = ov_circuit(model), ov_circuit(build(SEED + 1))
diagonal = torch.arange(NUMBERS, device=device)
metrics["ov_copies"] = accuracy(ov, diagonal)
metrics["ov_copies_untrained"] = accuracy(ov_untrained, diagonal)

# %% [markdown]
# ### Does it hold? Attention on real lists, and with the attention edited
#
# First the attention that the best number gets. Then edit `hook_pattern` at the last position:
# leave it (no-op), make it uniform, give everything to the best or to the worst number, or use
# another list's pattern. If the two circuits are the mechanism, the answer must follow the
# attention.

# %%
with torch.no_grad():
    clean, cache = model.run_with_cache(test)
pattern = cache["blocks.0.attn.hook_pattern"][:, 0, -1]  # [row, key]
is_best = test == answers[:, None]
worst = test.min(-1).values if OPERATION == "max" else test.max(-1).values
is_worst = test == worst[:, None]
distinct = worst != answers  # lists in which there is something to choose
metrics["attention_to_best"] = (pattern * is_best).sum(-1)[distinct].mean().item()


@torch.no_grad()
def logits_with(new_pattern: torch.Tensor) -> torch.Tensor:
    def replace(attention: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        attention[:, 0, -1] = new_pattern  # attention: [row, head, query, key]
        return attention

    return model.run_with_hooks(test, fwd_hooks=[("blocks.0.attn.hook_pattern", replace)])[:, -1]


other_list = torch.randperm(len(test), generator=torch.Generator().manual_seed(SEED)).to(device)
edited = {
    "no-op": logits_with(pattern),
    "all on best": logits_with(is_best / is_best.sum(-1, keepdim=True)),
    "uniform": logits_with(torch.full_like(pattern, 1 / LIST_LENGTH)),
    "other list's": logits_with(pattern[other_list]),
    "all on worst": logits_with(is_worst / is_worst.sum(-1, keepdim=True)),
}
kept = {name: accuracy(logits[distinct], answers[distinct]) for name, logits in edited.items()}
metrics["noop_change"] = (edited["no-op"] - clean[:, -1]).abs().max().item()
metrics["other_pattern_accuracy"] = kept["other list's"]
metrics["turned_round"] = accuracy(edited["all on worst"][distinct], worst[distinct])

# %% [markdown]
# ### One direction of size
#
# A table that only says "larger is better" has rank one. Take the QK table apart (SVD of the
# scores with each row's mean removed, which softmax ignores): rebuild the attention from its
# first direction alone, then from all but the first.

# %%
centred = scores - scores.mean(1, keepdim=True)
u, s, vh = torch.linalg.svd(centred)
first = s[0] * u[:, :1] @ vh[:1]  # the size direction
second = s[1] * u[:, 1:2] @ vh[1:2]  # the control: as many directions, the next in strength
metrics["rank_one_share"] = (s[0] ** 2 / (s**2).sum()).item()


def attention_from(table: torch.Tensor) -> torch.Tensor:
    return table[test[:, -1:], test].softmax(-1)


from_table = {
    "whole table": centred, "first only": first, "without first": centred - first,
    "without second": centred - second,
}  # fmt: skip
rebuilt = {
    name: accuracy(logits_with(attention_from(table))[distinct], answers[distinct])
    for name, table in from_table.items()
}
metrics["first_direction_accuracy"] = rebuilt["first only"]
metrics["without_first_accuracy"] = rebuilt["without first"]
metrics["without_second_accuracy"] = rebuilt["without second"]

# %% [markdown]
# ### Look

# %%
guess = {"naming the last": metrics["last_number_accuracy"]}
fig, axes = plots.figure(2, 3, f"The {OPERATION} of {LIST_LENGTH} numbers: one head, attention only")
plots.loss_curves(
    axes[0], history, ["loss", "test_loss"], title=f"Test accuracy {metrics['test_accuracy']:.1%}",
    marks={"guessing": math.log(NUMBERS)},
)  # fmt: skip
plots.heatmap(
    axes[1], centred, f"QK circuit: {ordered[4]:.1%} of keys 4 apart in order", x="key number",
    y="query number (last)", signed=True,
)  # fmt: skip
plots.heatmap(
    axes[2], ov, f"OV circuit: {metrics['ov_copies']:.0%} of rows peak on the diagonal",
    x="output number", y="attended number", signed=True,
)  # fmt: skip
for name, shares, colour in (("trained", ordered, 0), ("untrained", ordered_untrained, 1)):
    axes[3].plot(
        gaps, list(shares.values()), plots.STYLES[colour], marker="o", label=name,
        color=plots.COLOURS[colour],
    )  # fmt: skip
axes[3].set_ylim(0, 1.05)
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], "Keys in the right order", "gap between the two keys", "share of pairs")
plots.bars(
    axes[4], kept, "Accuracy with the attention replaced", highlight=["all on worst"],
    y="accuracy", marks=guess,
)  # fmt: skip
plots.bars(
    axes[5], rebuilt, f"Accuracy from the QK table ({metrics['rank_one_share']:.1%} in one part)",
    highlight=["without first"], y="accuracy",
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
