"""Binary multiplication: which bits of a product does a tiny transformer learn, and which not?

    python experiment.py                  two numbers of 5 bits, least significant bit first
    python experiment.py --bits 4         shorter numbers
    python experiment.py --layers 3       does depth help with the middle bits?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Binary multiplication
#
# The network reads two binary numbers and writes their product, all least significant bit first.
# Bit k of the product is the parity of a column: all pairs of bits whose places sum to k, and the
# carry from the column below, which grows beyond one. So the outer bits are easy and the middle
# ones hard. Plain transformers are known to fail at long multiplication, as they do not build the
# long-range dependencies of the middle digits (Bai et al. 2025, arXiv:2510.00184). The honest
# question here is how far a tiny model gets on pairs it has not seen, bit by bit, against what
# one gets without carrying.

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
SEED = 0  # weights and split
BITS = 5  # bits of each number; there are 4 ** BITS pairs
LAYERS = 2  # layers
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
D_MLP = 256  # hidden units
TEST_SHARE = 0.2  # share of the pairs that are never trained on
BATCH = 192  # pairs in a step
STEPS = 500  # training steps
LR = 3e-3  # AdamW, cosine down to zero
WEIGHT_DECAY = 0.3  # few pairs: without it the network learns them by heart

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: every pair, split once
#
# `column[row, k]` counts the ones in column k and `carry[row, k]` is what comes in from below, so
# the product's bit is `(column + carry) % 2`. The pair (b, a) goes to the same side as (a, b).

# %%
OUT, EQUALS = 2 * BITS, 2


def bits_of(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """Bits, least significant first, [row, count]."""
    return (numbers[:, None] >> torch.arange(count)) & 1


top = 2**BITS
x, y = torch.arange(top).repeat_interleave(top), torch.arange(top).repeat(top)
a, b, product = bits_of(x, BITS), bits_of(y, BITS), bits_of(x * y, OUT)
equals = torch.full((len(x), 1), EQUALS)
tokens = torch.cat([a, b, equals, product[:, :-1]], dim=1).to(device)  # the last bit is only predicted
answers = product.to(device)

column = torch.zeros_like(product)
for i in range(BITS):
    for j in range(BITS):
        column[:, i + j] += a[:, i] & b[:, j]
carry = torch.zeros_like(product)
for k in range(1, OUT):
    carry[:, k] = (column[:, k - 1] + carry[:, k - 1]) // 2

draw = torch.rand(top, top, generator=torch.Generator().manual_seed(SEED))
held_out = torch.minimum(draw, draw.T).flatten() < 1 - (1 - TEST_SHARE) ** 0.5
train_rows, test_rows = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
queries = slice(2 * BITS, None)  # "=" predicts bit 0, bit 0 predicts bit 1, ...
print(f"{len(train_rows)} pairs to train on, {len(test_rows)} held out")

# %% [markdown]
# ### What one gets without multiplying
#
# The commoner value of each bit; and the parity of each column, which forgets carries.

# %%
seen, unseen = product[train_rows], product[test_rows]
majority = ((seen.float().mean(0) > 0.5).long() == unseen).float().mean(0)  # [bit]
no_carry = (column[test_rows] % 2 == unseen).float().mean(0)
carry_need = (carry[test_rows] > 0).float().mean(0)  # how often a carry comes in at all
mean_carry = carry[test_rows].float().mean(0)

# %% [markdown]
# ### The model, and its training


# %%
def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS,
        n_ctx=2 * BITS + OUT, d_vocab=3, d_vocab_out=2, d_mlp=D_MLP, act_fn="relu",
        normalization_type="LN",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model = build(SEED)
generator = torch.Generator().manual_seed(SEED)
test_tokens, test_answers = tokens[test_rows], answers[test_rows]


def loss_at(step: int) -> torch.Tensor:
    rows = train_rows[torch.randint(len(train_rows), (BATCH,), generator=generator)]
    return F.cross_entropy(model(tokens[rows])[:, queries].flatten(0, 1), answers[rows].flatten())


def right(logits: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Which bits are right, [row, bit], each given the right bits written before it."""
    return (logits[:, queries].argmax(-1) == expected).float()


def evaluate() -> dict[str, float]:
    logits = model(test_tokens)
    on_train = right(model(tokens[train_rows]), answers[train_rows])
    test_loss = F.cross_entropy(logits[:, queries].flatten(0, 1), test_answers.flatten())
    return {
        "test_loss": test_loss.item(),
        "train_bits": on_train.mean().item(),
        "test_bits": right(logits, test_answers).mean().item(),
    }


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=WEIGHT_DECAY, decay=True, evaluate=evaluate,
    every=max(1, STEPS // 12), clip=1.0,
)  # fmt: skip

# %% [markdown]
# ### Bit by bit
#
# Two groups of bits: the outer ones (the two lowest, the two highest) and the middle ones, where
# columns are tallest and carries largest.

# %%
with torch.no_grad():
    clean = model(test_tokens)
    untrained = build(SEED + 1)(test_tokens)
    on_train = right(model(tokens[train_rows]), answers[train_rows])
correct = right(clean, test_answers)
per_bit = correct.mean(0).cpu()
middle = list(range(BITS - 2, BITS + 2))
metrics = {
    "train_bits": on_train.mean().item(),
    "test_bits": correct.mean().item(),
    "test_products": correct.all(-1).float().mean().item(),
    "lowest_bits": per_bit[:2].mean().item(),
    "middle_bits": per_bit[middle].mean().item(),
    "middle_bits_majority": majority[middle].mean().item(),
    "middle_bits_no_carry": no_carry[middle].mean().item(),
    "untrained_bits": right(untrained, test_answers).mean().item(),
}
incoming = carry[test_rows][:, middle].to(device)
sizes = [0, 1, 2, 3]
by_carry = {
    str(size): correct[:, middle][incoming == size].mean().item()
    for size in sizes if (incoming == size).any()
}  # fmt: skip
with_carry = correct[:, middle][incoming > 0].mean().item()
metrics["carry_gap"] = correct[:, middle][incoming == 0].mean().item() - with_carry
print("accuracy by bit:", [round(v, 3) for v in per_bit.tolist()])

# %% [markdown]
# ### Which bits of the numbers does each bit of the product need?
#
# Cut all attention from the position that predicts bit k to bit j of both numbers, and see how much
# accuracy bit k loses. In closed form, bit k depends on the bits 0 .. k and on none above: cutting
# j > k must cost nothing (the control). Does the model use all of the bits that it needs?

# %%
first_query = 2 * BITS


@torch.no_grad()
def accuracy_without(cuts: list[tuple[int, int]]) -> torch.Tensor:
    """Accuracy of each product bit, [bit], with attention from bit k to place j cut for all (k, j)."""

    def cut(pattern: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        for k, j in cuts:
            pattern[:, :, first_query + k, [j, BITS + j]] = 0.0  # [row, head, query, key]
        return pattern / pattern.sum(-1, keepdim=True).clamp_min(1e-9)

    hooks = [(f"blocks.{layer}.attn.hook_pattern", cut) for layer in range(LAYERS)]
    logits = model.run_with_hooks(test_tokens, fwd_hooks=hooks)
    return right(logits, test_answers).mean(0).cpu()


# one place at a time, for all product bits at once: a column of the table in one forward pass
lost = torch.stack(
    [per_bit - accuracy_without([(k, j) for k in range(OUT)]) for j in range(BITS)], dim=1
)  # [product bit, place of the number's bit]
needed = torch.tensor([[j <= k for j in range(BITS)] for k in range(OUT)])
with torch.no_grad():
    noop = model.run_with_hooks(
        test_tokens, fwd_hooks=[("blocks.0.attn.hook_pattern", lambda pattern, hook: pattern)]
    )
metrics["noop_change"] = (noop - clean).abs().max().item()
metrics["lost_by_needed"] = lost[:BITS][needed[:BITS]].mean().item()
metrics["lost_by_not_needed"] = lost[~needed].mean().item()
everything = [(k, j) for k in range(OUT) for j in range(BITS)]
without_numbers = accuracy_without(everything)
metrics["without_numbers"] = without_numbers.mean().item()

# %% [markdown]
# ### Look

# %%
bits_named = [str(k) for k in range(OUT)]
fig, axes = plots.figure(2, 3, f"The product of two numbers of {BITS} bits: {LAYERS} layers")
plots.loss_curves(
    axes[0], history, ["train_bits", "test_bits"], y="bits right", log=False,
    marks={"commoner value": majority.mean().item()},
    title=f"{metrics['test_products']:.0%} of unseen products wholly right",
)  # fmt: skip
curves = {
    "model": per_bit, "no carry": no_carry, "commoner value": majority,
    "no numbers seen": without_numbers,
}  # fmt: skip
for index, (name, values) in enumerate(curves.items()):
    axes[1].plot(
        range(OUT), plots.as_array(values), plots.STYLES[index], marker="o", markersize=4, label=name,
        color=plots.COLOURS[index],
    )  # fmt: skip
axes[1].set_ylim(0.3, 1.03)
axes[1].legend(fontsize=8, frameon=False, loc="lower left")
plots.label(axes[1], "Unseen pairs, bit by bit", "bit of the product (0: ones)", "accuracy")
axes[2].bar(range(OUT), plots.as_array(carry_need), color=plots.COLOURS[5], label="a carry comes in")
axes[2].plot(range(OUT), plots.as_array(mean_carry), "o-", color=plots.COLOURS[1], label="mean carry")
axes[2].legend(fontsize=8, frameon=False)
plots.label(axes[2], "What each bit needs", "bit of the product (0: ones)", "share, or size")
plots.bars(
    axes[3], by_carry, "Middle bits, by the carry that comes in", y="accuracy", marks={"coin": 0.5}
)
axes[3].set_xlabel("carry into the column", fontsize=9)
plots.heatmap(
    axes[4], lost, "Accuracy lost when one place is not seen", x="place in both numbers",
    y="bit of the product", y_ticks=bits_named, signed=True, numbers=True,
)  # fmt: skip
groups = {
    "needed": metrics["lost_by_needed"], "not needed": metrics["lost_by_not_needed"],
    "all places": metrics["test_bits"] - metrics["without_numbers"],
}  # fmt: skip
plots.bars(
    axes[5], groups, "Mean accuracy lost by cutting places", y="accuracy lost", highlight=["not needed"]
)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
