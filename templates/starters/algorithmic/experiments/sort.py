"""Sorting a list: heads that look for the next larger number, and what lists of many lengths change.

    python experiment.py                           lists of one length
    python experiment.py --variable-length true    lists of many lengths
    python experiment.py --heads 4                 more heads to share the numbers

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Sorting
#
# The network reads a list of distinct numbers and a separator, then writes the list in order: `9
# 2 5 | 2 5 9`. One layer of attention is enough: from the number just written, look for the
# smallest larger number in the list, and copy it. Urdshals and Urdshals (2025, arXiv:2501.18666)
# find that the heads of such models either split the range of numbers among themselves
# (vocabulary-splitting) or suppress copies. This experiment shows which head serves which
# numbers, and tests the algorithm by moving the attention. With variable length the same
# questions are asked length by length.

# %%
import math
from functools import partial

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
VARIABLE_LENGTH = False  # lists of SHORTEST to LONGEST numbers, instead of LONGEST only
SHORTEST = 3  # numbers in the shortest list (only with VARIABLE_LENGTH)
LONGEST = 8  # numbers in the longest list
BEYOND = 2  # test lists this much longer than any trained on
NUMBERS = 40  # the numbers are 0 .. NUMBERS - 1, each at most once in a list
HEADS = 2  # heads of the one layer
D_MODEL = 64  # width of the residual stream
BATCH = 128  # lists in a step
STEPS = 600  # training steps
LR = 1e-2  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: list, separator, sorted list
#
# All lists of a step have the same length, drawn anew for each step when lengths vary, so no
# padding is needed. There are so many lists that none is ever seen twice: fresh lists are a fair
# test.

# %%
SEPARATOR = NUMBERS  # the token between list and answer
lengths = list(range(SHORTEST, LONGEST + 1)) if VARIABLE_LENGTH else [LONGEST]


def sample(rows: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Rows of list, separator, sorted list: [row, 2 * length + 1]."""
    numbers = torch.rand(rows, NUMBERS, generator=generator).argsort(-1)[:, :length]
    separator = torch.full((rows, 1), SEPARATOR)
    return torch.cat([numbers, separator, numbers.sort(-1).values], dim=1).to(device)


tests = {
    length: sample(512, length, torch.Generator().manual_seed(10_000 + SEED + length))
    for length in range(SHORTEST, LONGEST + BEYOND + 1)
}
test = tests[LONGEST]

# %% [markdown]
# ### The model, and its training
#
# One attention layer and no MLP. The loss is taken on the sorted half only: position `length` (the
# separator) predicts the smallest number, and each sorted number the next.


# %%
def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=1,
        n_ctx=2 * (LONGEST + BEYOND) + 1, d_vocab=NUMBERS + 1, attn_only=True, normalization_type="LN",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def answer_part(logits: torch.Tensor) -> torch.Tensor:
    """Logits that predict the sorted half: [row, length, vocabulary]."""
    length = logits.shape[1] // 2
    return logits[:, length:-1]


def loss_on(tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    length = tokens.shape[1] // 2
    return F.cross_entropy(answer_part(logits).flatten(0, 1), tokens[:, length + 1 :].flatten())


def token_accuracy(tokens: torch.Tensor, logits: torch.Tensor) -> float:
    """Share of the sorted numbers that are right, each given the right numbers before it."""
    length = tokens.shape[1] // 2
    return (answer_part(logits).argmax(-1) == tokens[:, length + 1 :]).float().mean().item()


model = build(SEED)
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    length = lengths[int(torch.randint(len(lengths), (1,), generator=generator))]
    tokens = sample(BATCH, length, generator)
    return loss_on(tokens, model(tokens))


def evaluate() -> dict[str, float]:
    logits = model(test)
    return {"test_loss": loss_on(test, logits).item(), "accuracy": token_accuracy(test, logits)}


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True, evaluate=evaluate,
    every=max(1, STEPS // 50),
)  # fmt: skip

# %% [markdown]
# ### How good is it, list length by list length?
#
# Whole lists, written by the model itself: each number it writes is its next input. Two lengths are
# longer than any in training: does the method carry over?


# %%
@torch.no_grad()
def sorted_by_model(tokens: torch.Tensor) -> torch.Tensor:
    """Greedy continuation of list and separator: [row, length]."""
    length = tokens.shape[1] // 2
    written = tokens[:, : length + 1]
    for _ in range(length):
        following = model(written)[:, -1].argmax(-1, keepdim=True)
        written = torch.cat([written, following], dim=1)
    return written[:, length + 1 :]


def whole_lists(length: int) -> float:
    right = sorted_by_model(tests[length]) == tests[length][:, length + 1 :]
    return right.all(-1).float().mean().item()


by_length = {length: whole_lists(length) for length in tests}
trained_on = {length: by_length[length] for length in lengths}
print("whole lists right, by length:", {n: round(v, 3) for n, v in by_length.items()})
metrics = {
    "token_accuracy": history["accuracy"][-1],
    "list_accuracy": by_length[LONGEST],
    "worst_length_accuracy": min(trained_on.values()),
    "worst_shorter_accuracy": min(by_length[n] for n in range(SHORTEST, LONGEST)),
    "longer_accuracy": by_length[LONGEST + BEYOND],
    # knowing which numbers are in the list, but not their order
    "guess_from_list": sum(1 / k for k in range(1, LONGEST + 1)) / LONGEST,
}

# %% [markdown]
# ### Where do the heads look?
#
# From each position of the sorted half (the query), how much attention does each head give to the
# place in the list where the next number stands? And does that depend on the number just written:
# do the heads split the vocabulary?


# %%
def next_number_keys(tokens: torch.Tensor) -> torch.Tensor:
    """Marks where in the list the next sorted number stands: [row, query, key]."""
    length = tokens.shape[1] // 2
    return tokens[:, length + 1 :, None] == tokens[:, None, :length]


@torch.no_grad()
def attention_to_next(net: TransformerBridge, tokens: torch.Tensor) -> torch.Tensor:
    """Attention to the next number's place in the list: [row, head, query]."""
    length = tokens.shape[1] // 2
    _, cache = net.run_with_cache(tokens, names_filter="blocks.0.attn.hook_pattern")
    pattern = cache["blocks.0.attn.hook_pattern"][:, :, length:-1, :length]
    return (pattern * next_number_keys(tokens)[:, None]).sum(-1)


found = attention_to_next(model, test)
per_head = found.mean(dim=(0, 2))  # [head]
untrained = attention_to_next(build(SEED + 1), test).mean(dim=(0, 2))
best_of_heads = found.max(1).values  # [row, query]: attention of whichever head looks hardest
targets = test[:, LONGEST + 1 :]  # the number to be written
by_number = torch.zeros(HEADS, NUMBERS)
for number in range(NUMBERS):
    here = targets == number
    by_number[:, number] = found.transpose(1, 2)[here].mean(0).cpu() if here.any() else 0.0
metrics["attention_to_next"] = best_of_heads.mean().item()
metrics["attention_to_next_untrained"] = untrained.max().item()
by_length_attention = {
    length: attention_to_next(model, tokens).max(1).values.mean().item()
    for length, tokens in tests.items()
}

# %% [markdown]
# ### What do they write? The OV circuit
#
# The logits that attending to a number adds, from the weights alone (the final layer norm only
# rescales and centres them). A head that copies has its largest entry on the diagonal.

# %%
with torch.no_grad():
    numbers_in = model.W_E[:NUMBERS]
    normed = model.blocks[0].ln1(numbers_in[None])[0]  # as the head sees a number, without position
    ov = torch.stack(
        [normed @ model.W_V[0, h] @ model.W_O[0, h] @ model.W_U[:, :NUMBERS] for h in range(HEADS)]
    )  # [head, attended number, output number]
copies = (ov.argmax(-1) == torch.arange(NUMBERS, device=device)).float().mean(-1)  # [head]
metrics["ov_copies"] = copies.max().item()

# %% [markdown]
# ### Move the attention, and see whether the answer moves
#
# Edit `hook_pattern` of all heads from the sorted half: put all attention on the next number
# (what the account says happens), on another number of the list picked at random, or spread it
# evenly.


# %%
@torch.no_grad()
def logits_with(new_pattern: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    length = tokens.shape[1] // 2

    def replace(pattern: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        pattern[:, :, length:-1] = new_pattern  # [row, head, query, key]
        return pattern

    return model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_pattern", replace)])


@torch.no_grad()
def steering(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits under each edit, and the numbers that the random edit points to."""
    length, width = tokens.shape[1] // 2, tokens.shape[1]
    clean, cache = model.run_with_cache(tokens)
    own = cache["blocks.0.attn.hook_pattern"][:, :, length:-1]
    place = next_number_keys(tokens).int().argmax(-1)  # [row, query]
    shift = torch.randint(
        1, length, place.shape, generator=torch.Generator().manual_seed(SEED)
    ).to(device)
    other = (place + shift) % length

    def all_on(where: torch.Tensor) -> torch.Tensor:
        return F.one_hot(where, width).float()[:, None].expand(-1, HEADS, -1, -1)

    even = torch.zeros_like(own)
    even[..., :length] = 1 / length
    return {
        "clean": clean,
        "no-op": logits_with(own, tokens),
        "all on next": logits_with(all_on(place), tokens),
        "even": logits_with(even, tokens),
        "all on random": logits_with(all_on(other), tokens),
        "pointed at": tokens[:, :length].gather(1, other),
    }


edits = steering(test)
kept = {
    name: token_accuracy(test, edits[name])
    for name in ("no-op", "all on next", "even", "all on random")
}
metrics["noop_change"] = (edits["no-op"] - edits["clean"]).abs().max().item()


def follows(edited: dict[str, torch.Tensor]) -> float:
    """How often the number pointed at is the one written."""
    written = answer_part(edited["all on random"]).argmax(-1)
    return (written == edited["pointed at"]).float().mean().item()


by_length_followed = {length: follows(steering(tokens)) for length, tokens in tests.items()}
metrics["answer_follows"] = by_length_followed[LONGEST]
metrics["answer_follows_shortest"] = by_length_followed[SHORTEST]
metrics["even_accuracy"] = kept["even"]
metrics["all_on_next_accuracy"] = kept["all on next"]

# %% [markdown]
# ### Ablate one head at a time, number by number
#
# Replace a head's output by its mean (over lists, at each position). If heads split the
# vocabulary, each one's loss hurts another range of numbers.


# %%
def mean_ablate(z: torch.Tensor, hook: HookPoint, head: int) -> torch.Tensor:
    """z: [row, position, head, d_head]."""
    z[:, :, head] = z[:, :, head].mean(0, keepdim=True)
    return z


@torch.no_grad()
def right_without(head: int) -> torch.Tensor:
    """Which sorted numbers are still right, [row, query]."""
    hooks = [("blocks.0.attn.hook_z", partial(mean_ablate, head=head))]
    return answer_part(model.run_with_hooks(test, fwd_hooks=hooks)).argmax(-1) == targets


without = [right_without(head) for head in range(HEADS)]
lost_by_number = torch.zeros(HEADS, NUMBERS)
for head, right in enumerate(without):
    for number in range(NUMBERS):
        here = targets == number
        lost_by_number[head, number] = 1 - right[here].float().mean().item() if here.any() else 0.0
ablated = {f"without head {h}": right.float().mean().item() for h, right in enumerate(without)}
metrics["worst_ablation_accuracy"] = min(ablated.values())
# how differently the heads serve the numbers: 0 alike, 1 each number has one head of its own
metrics["split"] = (lost_by_number.max(0).values - lost_by_number.min(0).values).mean().item()
print("attention to the next number, by head:", [round(a, 2) for a in per_head.tolist()])

# %% [markdown]
# ### Look
#
# The last panels answer the question about length: accuracy on whole lists, the attention to the
# next number, and how often the answer follows when the attention is pointed elsewhere, by list
# length.

# %%
subject = f"lists of {f'{SHORTEST} to ' if VARIABLE_LENGTH else ''}{LONGEST} numbers"
fig, axes = plots.figure(3, 2, f"Sorting {subject}: one layer, {HEADS} heads", size=(11, 12))
guess = {"guess from list": metrics["guess_from_list"]}
edited = ["no-op", "all on next", *ablated, "even", "all on random"]
plots.loss_curves(
    axes[0], history, ["loss", "test_loss"], marks={"guessing": math.log(NUMBERS)},
    title=f"Test: {metrics['token_accuracy']:.1%} of numbers right",
)  # fmt: skip
_, cache = model.run_with_cache(test[:1])
busiest = int(per_head.argmax())
shown = ["|" if t == SEPARATOR else t for t in test[0].tolist()]
plots.attention(
    axes[1], cache["blocks.0.attn.hook_pattern"][0, busiest], shown,
    f"Head {busiest} on one list: {per_head[busiest]:.2f} to the next number",
)  # fmt: skip
for head in range(HEADS):
    axes[2].plot(
        range(NUMBERS), by_number[head], plots.STYLES[head % 4], label=f"head {head}",
        color=plots.COLOURS[head % 7],
    )  # fmt: skip
axes[2].set_ylim(0, 1.05)
axes[2].legend(fontsize=8, frameon=False)
plots.label(axes[2], "Which head looks for which numbers?", "next number", "attention to it")
plots.heatmap(
    axes[3], ov.sum(0), f"OV circuit, all heads: best head copies {metrics['ov_copies']:.0%}",
    x="output number", y="attended number", signed=True,
)  # fmt: skip
plots.bars(
    axes[4], {name: (kept | ablated)[name] for name in edited},
    "Numbers right with the attention or a head replaced", y="accuracy",
    highlight=["all on random", "even"], marks=guess,
)  # fmt: skip
for name, values, colour in (
    ("whole lists right", by_length, 0),
    ("attention to the next number", by_length_attention, 1),
    ("answer follows moved attention", by_length_followed, 2),
):
    axes[5].plot(
        list(values), list(values.values()), plots.STYLES[colour], marker="o", label=name,
        color=plots.COLOURS[colour],
    )  # fmt: skip
axes[5].axvspan(lengths[0] - 0.3, lengths[-1] + 0.3, color="0.9", label="trained on", zorder=0)
axes[5].set_ylim(-0.05, 1.05)
axes[5].legend(fontsize=8, frameon=False, loc="lower left")
plots.label(axes[5], "By list length", "numbers in the list", "share")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
