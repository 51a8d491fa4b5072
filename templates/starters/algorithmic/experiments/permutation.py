"""Applying a permutation: heads that fetch a token from the place that another token names.

    python experiment.py                    the run that expected.json describes
    python experiment.py --length 10        longer lists
    python experiment.py --heads 1          can one head do it alone?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Applying a permutation to a list
#
# The network reads a list and then a permutation given as indices: `q c x a | 3 1 4 2`. At each
# index it must name the element standing at that place: `x q a c`. That is content addressing
# turned into place addressing: a query made from the *token* "3" must match the key made from the
# *position* 3. The claim to test: the QK circuit holds a table index by position with a bright
# diagonal, and the OV circuit copies. Permutations of the test set are never seen in training, so
# learning pairs of a permutation and its effect by heart does not help.

# %%
import itertools
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
LENGTH = 6  # elements of a list
VALUES = 24  # kinds of elements; a list may hold one twice
HEADS = 2  # heads of the one layer
D_MODEL = 48  # width of the residual stream
BATCH = 256  # lists in a step
STEPS = 500  # training steps
LR = 1e-2  # AdamW, cosine down to zero
TEST_SHARE = 0.3  # share of the permutations that are never trained on

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: list, then permutation
#
# Tokens 0 .. VALUES - 1 are elements, the next LENGTH tokens are the indices. The answer to the
# index at position LENGTH + i is read at that very position.

# %%
if LENGTH <= 7:
    every = torch.tensor(list(itertools.permutations(range(LENGTH))))
else:  # too many to list: a large random choice of them
    every = torch.rand(5_000, LENGTH, generator=torch.Generator().manual_seed(SEED)).argsort(-1)
every = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(SEED))]
n_test = int(TEST_SHARE * len(every))
test_permutations, train_permutations = every[:n_test], every[n_test:]


def sample(
    rows: int, permutations: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [row, 2 * length] and the permuted lists [row, length]."""
    lists = torch.randint(VALUES, (rows, LENGTH), generator=generator)
    chosen = permutations[torch.randint(len(permutations), (rows,), generator=generator)]
    tokens = torch.cat([lists, VALUES + chosen], dim=1)
    return tokens.to(device), lists.gather(1, chosen).to(device)


test, answers = sample(1024, test_permutations, torch.Generator().manual_seed(10_000 + SEED))
places = test[:, LENGTH:] - VALUES  # [row, index]: the place that each index names

# %% [markdown]
# ### The model, and its training: one attention layer, no MLP


# %%
def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=1, n_ctx=2 * LENGTH,
        d_vocab=VALUES + LENGTH, d_vocab_out=VALUES, attn_only=True, normalization_type=None,
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model, untrained = build(SEED), build(SEED + 1)
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    tokens, permuted = sample(BATCH, train_permutations, generator)
    return F.cross_entropy(model(tokens)[:, LENGTH:].flatten(0, 1), permuted.flatten())


def accuracy(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Share of right answers; logits [row, length, values]."""
    return (logits.argmax(-1) == expected).float().mean().item()


def evaluate() -> dict[str, float]:
    logits = model(test)[:, LENGTH:]
    loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
    return {"test_loss": loss.item(), "accuracy": accuracy(logits, answers)}


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True, evaluate=evaluate,
    every=max(1, STEPS // 50),
)  # fmt: skip
same = (test[:, :LENGTH, None] == test[:, None, :LENGTH]).float()  # elements that are alike
metrics = {
    "test_accuracy": history["accuracy"][-1],
    # naming an element of the list picked at random, which may happen to equal the right one
    "guess_from_list": same.mean().item(),
}

# %% [markdown]
# ### Attention: does an index look at the place that it names?


# %%
@torch.no_grad()
def attention_to_place(net: TransformerBridge) -> torch.Tensor:
    """Mean attention of each head from an index to the place it names, [head]."""
    _, cache = net.run_with_cache(test, names_filter="blocks.0.attn.hook_pattern")
    pattern = cache["blocks.0.attn.hook_pattern"][:, :, LENGTH:, :LENGTH]
    named = F.one_hot(places, LENGTH).float()  # [row, index, place]
    return (pattern * named[:, None]).sum(-1).mean(dim=(0, 2))


per_head = attention_to_place(model)
main = int(per_head.argmax())
metrics["attention_to_named_place"] = per_head[main].item()
metrics["attention_untrained"] = attention_to_place(untrained).max().item()

# %% [markdown]
# ### The QK circuit: index tokens against positions
#
# A score is a sum of four tables, since query and key are each a token plus a position. Only one
# of them should matter: query token (the index) against key position (the place). We compute all
# four and ask how much of the scores' variance each carries.


# %%
@torch.no_grad()
def qk_tables(net: TransformerBridge, head: int) -> dict[str, torch.Tensor]:
    """Scores by part: index or own position (rows) against place or element (columns)."""
    w_q, w_k = net.W_Q[0, head], net.W_K[0, head]
    rows = {"index": net.W_E[VALUES:], "own position": net.W_pos[LENGTH:]}
    columns = {"place": net.W_pos[:LENGTH], "element": net.W_E[:VALUES]}
    bias = net.b_Q[0, head]
    tables = {}
    for row_name, row in rows.items():
        for column_name, column in columns.items():
            # the query's bias goes with one of the rows only
            query = row @ w_q + (bias if row_name == "index" else 0)
            scores = query @ (column @ w_k).T / (D_MODEL // HEADS) ** 0.5
            # softmax ignores what is the same for all keys
            tables[f"{row_name} × {column_name}"] = scores - scores.mean(1, keepdim=True)
    return tables


tables = qk_tables(model, main)
spread = {name: table.square().mean().item() for name, table in tables.items()}
shares = {name: value / sum(spread.values()) for name, value in spread.items()}
match, match_untrained = tables["index × place"], qk_tables(untrained, 0)["index × place"]
diagonal = torch.arange(LENGTH, device=device)
metrics["qk_matches"] = (match.argmax(-1) == diagonal).float().mean().item()
metrics["qk_matches_untrained"] = (match_untrained.argmax(-1) == diagonal).float().mean().item()
metrics["index_place_share"] = shares["index × place"]

# %% [markdown]
# ### The OV circuit: is the element copied?

# %%
with torch.no_grad():
    ov = model.W_E[:VALUES] @ model.W_V[0, main] @ model.W_O[0, main] @ model.W_U
metrics["ov_copies"] = (ov.argmax(-1) == torch.arange(VALUES, device=device)).float().mean().item()

# %% [markdown]
# ### Change the address, and see whether the answer changes
#
# Three edits with known results, if the account is right.
# - Swap the *queries* (`hook_q`) of two indices in all heads: their answers must swap.
# - Swap the *position embeddings* of two places: an index naming one must fetch from the other.
# - Swap the position embeddings of two *index* positions: nothing may change, as an index asks by its
#   token, not by where it stands. This is the matched control.


# %%
def swap(size: int, first: int, second: int) -> torch.Tensor:
    """0 .. size - 1 with two entries exchanged."""
    order = torch.arange(size)
    order[[first, second]] = order[[second, first]]
    return order.to(device)


@torch.no_grad()
def logits_swapped(hook_name: str, first: int, second: int) -> torch.Tensor:
    """Logits at the indices when an activation [row, position, ...] has two positions exchanged."""
    order = swap(2 * LENGTH, first, second)

    def exchange(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return value[:, order]

    return model.run_with_hooks(test, fwd_hooks=[(hook_name, exchange)])[:, LENGTH:]


with torch.no_grad():
    clean = model(test)[:, LENGTH:]
first, second = 1, LENGTH - 2
queries = logits_swapped("blocks.0.attn.hook_q", LENGTH + first, LENGTH + second)
list_places = logits_swapped("hook_pos_embed", first, second)
index_places = logits_swapped("hook_pos_embed", LENGTH + first, LENGTH + second)
moved = swap(LENGTH, first, second)
moved_places = test[:, :LENGTH].gather(1, moved[places])  # the elements fetched if places swap
concerned = (places == first) | (places == second)  # [row, index]
metrics["noop_change"] = (logits_swapped("hook_pos_embed", 0, 0) - clean).abs().max().item()
answered = torch.stack([queries[:, first], queries[:, second]], dim=1)
crossed = torch.stack([answers[:, second], answers[:, first]], dim=1)
metrics["swapped_queries_follow"] = accuracy(answered, crossed)
metrics["swapped_places_follow"] = accuracy(list_places[concerned], moved_places[concerned])
metrics["swapped_index_positions_kept"] = accuracy(index_places, answers)

# %% [markdown]
# ### Ablate the heads, singly and together


# %%
@torch.no_grad()
def accuracy_without(chosen: list[int]) -> float:
    def mean_ablate(z: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        z[:, :, chosen] = z[:, :, chosen].mean(0, keepdim=True)  # z: [row, position, head, d_head]
        return z

    logits = model.run_with_hooks(test, fwd_hooks=[("blocks.0.attn.hook_z", mean_ablate)])
    return accuracy(logits[:, LENGTH:], answers)


ablated = {f"without head {head}": accuracy_without([head]) for head in range(HEADS)}
ablated["without any"] = accuracy_without(list(range(HEADS)))
metrics["no_heads_accuracy"] = ablated["without any"]

# %% [markdown]
# ### Look

# %%
places_named = [str(i + 1) for i in range(LENGTH)]
fig, axes = plots.figure(2, 3, f"Applying a permutation of {LENGTH}: one layer, {HEADS} heads")
plots.loss_curves(
    axes[0], history, ["loss", "test_loss"], marks={"guessing": math.log(VALUES)},
    title=f"New permutations: {metrics['test_accuracy']:.1%} right",
)  # fmt: skip
with torch.no_grad():
    _, cache = model.run_with_cache(test[:1])
shown = [chr(ord("a") + t) if t < min(VALUES, 26) else t for t in test[0, :LENGTH].tolist()]
shown += [str(t + 1) for t in places[0].tolist()]
plots.attention(
    axes[1], cache["blocks.0.attn.hook_pattern"][0, main], shown,
    f"Head {main}: {metrics['attention_to_named_place']:.2f} to the place named",
)  # fmt: skip
plots.heatmap(
    axes[2], match, f"QK: {metrics['qk_matches']:.0%} of indices match their place", x="place in the list",
    y="index token", x_ticks=places_named, y_ticks=places_named, signed=True,
)  # fmt: skip
plots.bars(
    axes[3], {name.replace(" × ", "\n× "): share for name, share in shares.items()},
    "What the scores are made of", y="share of the scores' variance",
)  # fmt: skip
plots.heatmap(
    axes[4], ov, f"OV of head {main}: copies {metrics['ov_copies']:.0%}", x="output element",
    y="attended element", signed=True,
)  # fmt: skip
edits = {
    "queries\nswapped": metrics["swapped_queries_follow"],
    "places\nswapped": metrics["swapped_places_follow"],
    "index pos.\nswapped": metrics["swapped_index_positions_kept"],
    "no heads": metrics["no_heads_accuracy"],
}
plots.bars(
    axes[5], edits, "Answers as predicted, after each edit", y="share of answers", highlight=["no heads"]
)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
