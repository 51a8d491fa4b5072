"""Adding (or subtracting) numbers of several digits: where the carry comes from, and what it costs.

    python experiment.py                             least significant digit first
    python experiment.py --reversed-digits false     digits as we write them
    python experiment.py --operation subtract        borrows instead of carries

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Addition, digit by digit
#
# The network reads two numbers of several digits and writes their sum. Each digit of the sum
# needs two digits, one from each number, and a carry. Quirke and Barez (2023, arXiv:2310.13121)
# find that a small transformer works on each digit in a stream of its own, attending to its pair
# of digits, and that long cascades of carries (a nine passed on by another nine) are its weak
# point. Written with the least significant digit first, every carry comes from what has just been
# written; written the usual way it must be foreseen. This experiment measures both.

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
SEED = 0  # weights and data
OPERATION = "add"  # add, or subtract (the smaller number from the larger)
REVERSED_DIGITS = True  # least significant digit first, in numbers and answer
DIGITS = 5  # digits of each number
LAYERS = 1  # layers
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
D_MLP = 256  # hidden units
BATCH = 160  # problems in a step
STEPS = 850  # training steps
LR = 5e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: number, sign, number, equals, answer
#
# Half of the problems are drawn digit by digit, half so that carries (borrows) often run on: a
# pair of digits that sums to nine (or is equal) passes on whatever comes in, and random problems
# rarely hold several in a row.

# %%
PLUS, EQUALS = 10, 11
ANSWER = DIGITS + 1  # digits of the answer; for subtraction the highest is always 0
BASE = 10 ** torch.arange(DIGITS)  # value of each digit, least significant first


def digits_of(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """Digits, least significant first, [row, count]."""
    return (numbers[:, None] // 10 ** torch.arange(count)) % 10


def carries(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The carry (borrow) into each answer digit, and how many pairs back it is decided."""
    carry, length = [torch.zeros_like(a[:, 0])], [torch.zeros_like(a[:, 0])]
    for k in range(DIGITS):
        if OPERATION == "add":
            out, passes = a[:, k] + b[:, k] + carry[-1] >= 10, a[:, k] + b[:, k] == 9
        else:
            out, passes = a[:, k] - b[:, k] - carry[-1] < 0, a[:, k] == b[:, k]
        carry.append(out.long())
        length.append(torch.where(passes, length[-1] + 1, 1))
    return torch.stack(carry, dim=1), torch.stack(length, dim=1)


def sample(rows: int, generator: torch.Generator, chains: float = 0.5) -> dict[str, torch.Tensor]:
    """Problems: tokens [row, position], answer digits and carries, least significant first."""
    a = torch.randint(10, (rows, DIGITS), generator=generator)
    b = torch.randint(10, (rows, DIGITS), generator=generator)
    passing = torch.rand(rows, DIGITS, generator=generator) < 0.6
    passing &= torch.rand(rows, 1, generator=generator) < chains
    b = torch.where(passing, 9 - a if OPERATION == "add" else a, b)
    x, y = (a * BASE).sum(-1), (b * BASE).sum(-1)
    if OPERATION == "subtract":
        x, y = torch.maximum(x, y), torch.minimum(x, y)
    result = x + y if OPERATION == "add" else x - y
    a, b, answer = digits_of(x, DIGITS), digits_of(y, DIGITS), digits_of(result, ANSWER)
    carry, length = carries(a, b)
    sign, equals = torch.full((rows, 1), PLUS), torch.full((rows, 1), EQUALS)
    written = [a, b, answer] if REVERSED_DIGITS else [n.flip(1) for n in (a, b, answer)]
    parts = [written[0], sign, written[1], equals, written[2]]
    batch = {"tokens": torch.cat(parts, dim=1), "answer": answer, "carry": carry, "length": length}
    return {name: value.to(device) for name, value in batch.items()}


test = sample(2048, torch.Generator().manual_seed(10_000 + SEED))
plain = sample(2048, torch.Generator().manual_seed(20_000 + SEED), chains=0.0)
# where the digit of value 10^k is predicted: one position before it stands
first_query = 2 * DIGITS + 1
queries = [first_query + (k if REVERSED_DIGITS else DIGITS - k) for k in range(ANSWER)]
pairs = [
    (k, DIGITS + 1 + k) if REVERSED_DIGITS else (DIGITS - 1 - k, 2 * DIGITS - k)
    for k in range(DIGITS)
]  # positions of both numbers' digits of value 10^k
symbols = "0123456789" + ("+=" if OPERATION == "add" else "-=")
print("".join(symbols[t] for t in test["tokens"][0].tolist()))

# %% [markdown]
# ### The model, and its training


# %%
def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS,
        n_ctx=2 * DIGITS + 2 + ANSWER, d_vocab=12, d_vocab_out=10, d_mlp=D_MLP, act_fn="relu",
        normalization_type="LN",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model = build(SEED)
generator = torch.Generator().manual_seed(SEED)


def answer_logits(logits: torch.Tensor) -> torch.Tensor:
    """Logits of each answer digit, least significant first: [row, digit, 10]."""
    return logits[:, queries]


def loss_at(step: int) -> torch.Tensor:
    batch = sample(BATCH, generator)
    logits = answer_logits(model(batch["tokens"]))
    return F.cross_entropy(logits.flatten(0, 1), batch["answer"].flatten())


def right(logits: torch.Tensor, batch: dict[str, torch.Tensor] = test) -> torch.Tensor:
    """Which digits are right, [row, digit], each given the right digits written before it."""
    return (answer_logits(logits).argmax(-1) == batch["answer"]).float()


def evaluate() -> dict[str, float]:
    by_digit = right(model(test["tokens"])).mean(0).tolist()
    return {f"digit {k}": 1 - share for k, share in enumerate(by_digit)}


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True, evaluate=evaluate,
    every=max(1, STEPS // 30), clip=1.0,
)  # fmt: skip

# %% [markdown]
# ### How good, digit by digit and carry by carry?
#
# "Pairs back" says how far back the carry into a digit is decided: 1 is the pair just below, 2
# means that this pair passes on what comes from the pair below it, and so on. The baseline adds
# each pair and forgets carries.

# %%
answer, carry, length = test["answer"], test["carry"], test["length"]
with torch.no_grad():
    clean, cache = model.run_with_cache(test["tokens"])
    on_plain = right(model(plain["tokens"]), plain)
correct = right(clean)
by_length = {n: correct[length == n].mean().item() for n in range(DIGITS + 1)}
metrics = {
    "problem_accuracy": on_plain.all(-1).float().mean().item(),
    "chain_accuracy": correct.all(-1).float().mean().item(),
    "longest_chain_accuracy": correct[length >= DIGITS - 1].mean().item(),
    # right without any carry: exactly the digits into which none comes
    "no_carry_baseline": (carry == 0).float().mean().item(),
}

# %% [markdown]
# ### Where does each answer digit look?
#
# Attention from the position that predicts answer digit k to the pairs of digits, by how many
# places below k the pair stands: 0 is its own pair, 1 the pair whose carry it needs.


# %%
@torch.no_grad()
def attention_to_pairs(net: TransformerBridge) -> torch.Tensor:
    """Attention to both digits of a pair, summed: [layer * head, answer digit, pair]."""
    _, found = net.run_with_cache(test["tokens"], names_filter=lambda n: n.endswith("hook_pattern"))
    heads = torch.cat([found["pattern", layer].mean(0) for layer in range(LAYERS)])
    return torch.stack([heads[:, queries][..., list(pair)].sum(-1) for pair in pairs], dim=-1)


attention, attention_untrained = attention_to_pairs(model), attention_to_pairs(build(SEED + 1))


def own_pair(table: torch.Tensor) -> float:
    """Attention to the own pair of the head that gives it most, mean over answer digits."""
    return table[:, range(DIGITS), range(DIGITS)].max(0).values.mean().item()


metrics["attention_to_own_pair"] = own_pair(attention)
metrics["attention_to_own_pair_untrained"] = own_pair(attention_untrained)

# %% [markdown]
# ### Cut the attention to one pair
#
# For every answer digit k at once, take away all attention to the pair n places below (in all
# heads, rescaling the rest). Without its own pair the digit should be lost. Without the pair
# below, only the carry should: the digit is then right or off by one. Pairs above k are the
# control, as no digit of a sum depends on them.


# %%
@torch.no_grad()
def without_pair(places_below: int) -> torch.Tensor:
    """Logits when no answer digit k sees the pair k - places_below."""

    def cut(pattern: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        for k in range(ANSWER):
            if 0 <= k - places_below < DIGITS:
                for key in pairs[k - places_below]:
                    pattern[:, :, queries[k], key] = 0.0  # [row, head, query, key]
        return pattern / pattern.sum(-1, keepdim=True).clamp_min(1e-9)

    hooks = [(f"blocks.{layer}.attn.hook_pattern", cut) for layer in range(LAYERS)]
    return model.run_with_hooks(test["tokens"], fwd_hooks=hooks)


middle = range(1, DIGITS)  # digits that have a pair of their own and one below
cuts = {n: without_pair(n) for n in (-2, -1, 0, 1, 2)}
cut_accuracy = {n: right(logits)[:, middle].mean().item() for n, logits in cuts.items()}
off = (answer_logits(cuts[1]).argmax(-1) - answer)[:, middle] % 10
off_by_one = ((off == 0) | (off == 1) | (off == 9)).float().mean().item()
with torch.no_grad():
    noop = model.run_with_hooks(
        test["tokens"], fwd_hooks=[("blocks.0.attn.hook_pattern", lambda pattern, hook: pattern)]
    )
metrics["noop_change"] = (noop - clean).abs().max().item()
metrics["without_own_pair"] = cut_accuracy[0]
metrics["without_lower_pair"] = cut_accuracy[1]
metrics["without_lower_pair_off_by_one"] = off_by_one
metrics["without_higher_pair"] = cut_accuracy[-1]

# %% [markdown]
# ### Can the carry be read off inside?
#
# A linear probe (least squares) for the carry, on the MLP's hidden units where each digit is
# predicted, trained on half of the test problems and tested on the other. The same probe on an
# untrained model is the control: what is easy to read from any random network says little.


# %%
@torch.no_grad()
def carry_probe(net: TransformerBridge) -> float:
    """Share of carries into the middle digits that the probe gets right."""
    name = f"blocks.{LAYERS - 1}.mlp.hook_post"
    _, found = net.run_with_cache(test["tokens"], names_filter=name)
    scores = []
    for k in middle:
        hidden = found[name][:, queries[k]]
        hidden = torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1)
        half, wanted = len(hidden) // 2, carry[:, k].float() * 2 - 1
        ridge = 1e-2 * torch.eye(hidden.shape[1], device=device) * half
        gram = hidden[:half].T @ hidden[:half] + ridge
        weights = torch.linalg.solve(gram, hidden[:half].T @ wanted[:half])
        scores.append(((hidden[half:] @ weights) * wanted[half:] > 0).float().mean().item())
    return sum(scores) / len(scores)


metrics["carry_probe"] = carry_probe(model)
metrics["carry_probe_untrained"] = carry_probe(build(SEED + 1))

# %% [markdown]
# ### Look

# %%
order = "least significant digit first" if REVERSED_DIGITS else "usual order"
fig, axes = plots.figure(2, 3, f"To {OPERATION} numbers of {DIGITS} digits, {order}")
for k in range(ANSWER):
    axes[0].plot(
        history["step"], history[f"digit {k}"], plots.STYLES[k % 4], label=f"digit {k}",
        color=plots.COLOURS[k % 7],
    )  # fmt: skip
axes[0].legend(fontsize=7, frameon=False, title="0: ones", title_fontsize=7)
plots.label(axes[0], f"New problems: {metrics['problem_accuracy']:.1%} right", "step", "errors")
plots.bars(
    axes[1], {str(n): value for n, value in by_length.items()}, "Digits right, by where the carry is decided",
    y="accuracy", marks={"forgetting carries": metrics["no_carry_baseline"]},
)  # fmt: skip
axes[1].set_xlabel("pairs back (0: no carry can come)", fontsize=9)
plots.heatmap(
    axes[2], attention.max(0).values, "Attention to pairs (head that attends most)", x="pair (0: ones)",
    y="answer digit predicted", limits=(0, 1), numbers=True,
)  # fmt: skip
below = {"2 above": -2, "1 above": -1, "own": 0, "1 below": 1, "2 below": 2}
plots.bars(
    axes[3], {name: cut_accuracy[n] for name, n in below.items()}, "Middle digits right, one pair unseen",
    y="accuracy", highlight=["own", "1 below"],
)  # fmt: skip
axes[3].set_xlabel("pair that is cut", fontsize=9)
counts = torch.tensor([[(off == d).float().mean().item()] for d in (0, 1, 9)]).flatten().tolist()
plots.bars(
    axes[4], {"right": counts[0], "one more": counts[1], "one less": counts[2], "other": 1 - sum(counts)},
    "Without the pair below: how wrong?", y="share of middle digits", highlight=["one more", "one less"],
)  # fmt: skip
probes = {"trained": metrics["carry_probe"], "untrained": metrics["carry_probe_untrained"]}
plots.bars(axes[5], probes, "Carry read by a linear probe", y="accuracy", marks={"coin": 0.5})
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
