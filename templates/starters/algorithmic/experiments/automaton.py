"""Finite automata: does a shallow transformer take the steps, or look the state up?

    python experiment.py                  run that expected.json describes
    python experiment.py --seed 1         another seed
    python experiment.py --kind cyclic    a counter: nothing to look up, everything to add

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Running an automaton with two layers
#
# An automaton reads symbols one by one and steps from state to state. A transformer sees all symbols at
# once and has two layers for all steps, so it needs a shortcut (Liu et al. 2022, arXiv:2210.10749).
# Flip-flop: every symbol either writes a state or keeps the present one; one lookup of the most recent
# write is enough. Cyclic: every symbol adds 0 or 1 to a counter; a shortcut has to count.
# What does each do with rows longer than it was trained on?

# %%
import math

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import heads, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
KIND = "flipflop"  # "flipflop": symbols write a state or keep it; "cyclic": symbols add 0 or 1
STATES = 5  # states of the automaton
KEEP = 0.7  # flipflop: share of symbols that keep the state
LENGTH = 12  # symbols in a training row; twice as many are tried afterwards
HEADS = 4  # heads in each of the two layers
D_MODEL = 48  # width of the residual stream
BATCH = 128  # rows in a step
STEPS = 400  # training steps
LR = 3e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device
if KIND not in ("flipflop", "cyclic"):
    raise SystemExit(f'KIND is "flipflop" or "cyclic", not {KIND!r}')
PLACES = 2 * LENGTH  # places of a row
SYMBOLS = STATES + 1 if KIND == "flipflop" else 2  # flipflop: write 0, write 1, ..., and keep
BLANK = SYMBOLS  # token before the first symbol

# %% [markdown]
# ### Data: no place is new at twice the length
#
# A row has 2 * LENGTH places. In training some blanks come first, a different number in each row, and
# LENGTH symbols count for the loss. So every place has been trained, and when longer rows fail it is the
# length that is new, not a position embedding that was never used. The state begins at 0.


# %%
def sample(
    rows: int, length: int, generator: torch.Generator, keep: float = KEEP
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, states after each token, and which symbol it is from 0 on (-1: not counted): [row, place]."""
    if KIND == "flipflop":
        writes = torch.randint(STATES, (rows, PLACES), generator=generator)
        kept = torch.rand(rows, PLACES, generator=generator) < keep
        tokens = torch.where(kept, STATES, writes)
    else:
        tokens = torch.randint(2, (rows, PLACES), generator=generator)
    blanks = torch.randint(PLACES - length + 1, (rows, 1), generator=generator)
    order = torch.arange(PLACES) - blanks
    tokens = torch.where(order < 0, BLANK, tokens)
    order = torch.where(order < length, order.clamp_min(-1), -1)
    return tokens.to(device), run_automaton(tokens).to(device), order.to(device)


def run_automaton(tokens: torch.Tensor) -> torch.Tensor:
    """The state after each token, one step at a time: what the model has no layers for."""
    state, states = torch.zeros_like(tokens[:, 0]), []
    for symbol in tokens.T:
        if KIND == "flipflop":
            state = torch.where(symbol < STATES, symbol, state)
        else:
            state = torch.where(symbol == 1, (state + 1) % STATES, state)
        states.append(state)
    return torch.stack(states, dim=1)


def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=2, n_ctx=PLACES,
        d_vocab=SYMBOLS + 1, d_vocab_out=STATES, d_mlp=4 * D_MODEL, act_fn="relu", normalization_type="LN",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model = build()
generator = torch.Generator().manual_seed(SEED)
held = torch.Generator().manual_seed(10_000 + SEED)
tokens, states, order = test = sample(512, LENGTH, held)
longer = sample(512, PLACES, held)
rare = sample(512, LENGTH, held, keep=0.95)  # writes far apart (flipflop)
rare_longer = sample(512, PLACES, held, keep=0.95)


def loss_on(data: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Cross-entropy (nats) of the state after each counted symbol."""
    here = data[2] >= 0
    return F.cross_entropy(model(data[0])[here], data[1][here])


def accuracy(logits: torch.Tensor, data: tuple[torch.Tensor, ...], start: int = 0) -> float:
    """Share of right states after symbol number ``start`` and later ones."""
    here = data[2] >= start
    return (logits.argmax(-1) == data[1])[here].float().mean().item()


history = train(
    model, lambda step: loss_on(sample(BATCH, LENGTH, generator)), steps=STEPS, lr=LR, weight_decay=0.1,
    decay=True, clip=1.0, evaluate=lambda: {"test_loss": loss_on(test).item()}, every=max(1, STEPS // 50),
)  # fmt: skip

# %% [markdown]
# ### Within the trained length, and beyond
#
# A lookup does not mind the length; a count meets totals that it has never seen.

# %%
with torch.no_grad():
    logits, cache = model.run_with_cache(tokens)
    untrained_logits, untrained_cache = build().run_with_cache(tokens)
    long_logits = model(longer[0])
    metrics = {
        "test_accuracy": accuracy(logits, test),
        "untrained_accuracy": accuracy(untrained_logits, test),
        "longer_accuracy": accuracy(long_logits, longer, start=LENGTH),
    }
    if KIND == "flipflop":
        metrics["rare_accuracy"] = accuracy(model(rare[0]), rare)
        metrics["rare_longer_accuracy"] = accuracy(model(rare_longer[0]), rare_longer, start=LENGTH)
metrics["length_drop"] = metrics["test_accuracy"] - metrics["longer_accuracy"]
by_symbol = (long_logits.argmax(-1) == longer[1]).float().mean(0)  # [place]: longer rows have no blanks

# %% [markdown]
# ### When is the state there to be read?
#
# Least squares from the residual stream to the state (one column for each), fitted on one half of the
# rows and tested on the other. Controls: the same probe on an untrained model, and with shuffled labels.

# %%
half = len(tokens) // 2


def probe(x: torch.Tensor, shuffled: bool = False) -> float:
    """Held-out accuracy of a linear probe for the state; x [row, place, d_model]."""
    fit, check = order[:half] >= 0, order[half:] >= 0
    labels = states[:half][fit]
    if shuffled:
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED)).to(device)]
    ones = torch.ones(*x.shape[:2], 1, device=device)
    x = torch.cat([x, ones], dim=-1).double()
    inputs = x[:half][fit]
    ridge = 1e-3 * torch.eye(x.shape[-1], device=device, dtype=torch.float64)
    weights = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ F.one_hot(labels, STATES).double())
    return ((x[half:][check] @ weights).argmax(-1) == states[half:][check]).float().mean().item()


SITES = {
    "embedding": "blocks.0.hook_resid_pre",
    "attention 0": "blocks.0.hook_resid_mid",
    "layer 0": "blocks.0.hook_resid_post",
    "attention 1": "blocks.1.hook_resid_mid",
    "layer 1": "blocks.1.hook_resid_post",
}
probes = {name: probe(cache[site]) for name, site in SITES.items()}
untrained_probes = {name: probe(untrained_cache[site]) for name, site in SITES.items()}
shuffled_probes = {name: probe(cache[site], shuffled=True) for name, site in SITES.items()}
metrics |= {
    "probe_embedding": probes["embedding"],
    "probe_layer_0": probes["layer 0"],
    "probe_layer_1": probes["layer 1"],
    "probe_untrained": untrained_probes["layer 1"],
    "probe_shuffled": shuffled_probes["layer 1"],
}

# %% [markdown]
# ### Where do the heads look?
#
# Flip-flop: the share of attention on the most recent write, from places that keep. Closed form of the
# lookup: one. Cyclic: how far from even the attention over the symbols is (0: even, 1: all elsewhere).

# %%
place = torch.arange(PLACES, device=device)
key_order = (place[:, None] >= place[None]) & (tokens < BLANK)[:, None]  # [row, query, key]: symbols so far
counted = order >= 0
patterns = torch.stack([cache["pattern", layer] for layer in range(2)])  # [layer, row, head, query, key]
untrained_patterns = torch.stack([untrained_cache["pattern", layer] for layer in range(2)])


def nth_write(which: int) -> torch.Tensor:
    """Place of the most recent write (1) or the one before (2), seen from each place; -1: none."""
    found = torch.where(key_order & (tokens < STATES)[:, None], place, -1)
    return found.sort(dim=-1, descending=True).values[..., which - 1]


if KIND == "flipflop":
    last, before = nth_write(1), nth_write(2)
    asking = counted & (tokens == STATES) & (last >= 0)
    keys = (place == last[..., None]) & asking[..., None]
    look = torch.stack([heads.attention_to(pattern, keys) for pattern in patterns])  # [layer, head]
    untrained_look = torch.stack([heads.attention_to(pattern, keys) for pattern in untrained_patterns])
    metrics["lookup"] = look.max().item()
    metrics["untrained_lookup"] = untrained_look.max().item()
else:
    even = key_order / key_order.sum(-1, keepdim=True).clamp_min(1)
    uneven = 0.5 * (patterns - even[None, :, None]).abs().sum(-1)  # [layer, row, head, query]
    look = 1 - (uneven * counted[:, None]).sum((1, 3)) / counted.sum()  # [layer, head]
    metrics["evenness"] = look.max().item()
best_layer, best_head = divmod(int(look.argmax()), HEADS)

# %% [markdown]
# ### Does the answer follow the attention?
#
# Flip-flop: exchange the attention on the most recent write with the attention on the write before, in
# all heads, from places that keep. If the model looks the state up, it now answers the older one. The
# control exchanges two random KEEPs before the query: the answer should stay.


# %%
@torch.no_grad()
def logits_with(hooks: list) -> torch.Tensor:
    """Logits on the test rows when hooks replace activations: (name, function of the activation)."""
    return model.run_with_hooks(tokens, fwd_hooks=[(name, lambda x, hook, f=f: f(x)) for name, f in hooks])


def exchange(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Logits with the attention to the keys a and b [row, query] exchanged in both layers."""
    index = place.expand(len(tokens), PLACES, PLACES).clone()
    rows, queries = where.nonzero(as_tuple=True)
    index[rows, queries, a[where]], index[rows, queries, b[where]] = b[where], a[where]

    def swap(x: torch.Tensor) -> torch.Tensor:
        return x.gather(-1, index[:, None].expand_as(x))

    return logits_with([(f"blocks.{layer}.attn.hook_pattern", swap) for layer in range(2)])


if KIND == "flipflop":
    differs = tokens.gather(1, last.clamp_min(0)) != tokens.gather(1, before.clamp_min(0))
    movable = asking & (before >= 0) & differs
    older = tokens.gather(1, before.clamp_min(0))
    moved = exchange(last, before, movable).argmax(-1)
    metrics["follows"] = (moved == older)[movable].float().mean().item()
    kept = key_order & (tokens == STATES)[:, None] & (place[:, None] > place[None])  # KEEPs before the query
    noise = torch.rand(kept.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    a, b = torch.where(kept, noise, -1.0).topk(2, dim=-1).indices.unbind(-1)
    able = movable & (kept.sum(-1) >= 2)
    other = exchange(a, b, able).argmax(-1)
    metrics["control_follows"] = (other == older)[able].float().mean().item()

# %% [markdown]
# ### Which heads are needed?
#
# Replace the output of one head by its mean over rows at each place, and then those of a whole layer.


# %%
def without(layer: int, which: list[int]) -> float:
    """Accuracy when heads of a layer give their mean at each place."""

    def replace(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[:, :, which] = z[:, :, which].mean(0, keepdim=True)
        return z

    return accuracy(logits_with([(f"blocks.{layer}.attn.hook_z", replace)]), test)


single = torch.tensor([[without(layer, [head]) for head in range(HEADS)] for layer in range(2)])
whole = [without(layer, list(range(HEADS))) for layer in range(2)]
noop = logits_with([(f"blocks.{layer}.attn.hook_z", lambda z: z) for layer in range(2)])
metrics |= {
    "without_layer_0_heads": whole[0],
    "without_layer_1_heads": whole[1],
    "worst_head": single.min().item(),
    "noop_change": (noop - logits).abs().max().item(),
}

# %%
fig, axes = plots.figure(2, 3, f"A transformer runs an automaton ({KIND}, {STATES} states)")
plots.loss_curves(axes[0], history, ["test_loss"], title="Learning", marks={"guessing": math.log(STATES)})
axes[1].plot(range(1, PLACES + 1), by_symbol.tolist(), color=plots.COLOURS[0])
axes[1].axvline(LENGTH + 0.5, color=plots.COLOURS[1], linestyle=":")
axes[1].set_ylim(0, 1.05)
plots.levels(axes[1], {"chance": 1 / STATES})
plots.label(axes[1], "Longer rows (dotted: end of the trained length)", "symbol", "accuracy")
for index, (name, found) in enumerate(
    {"trained": probes, "untrained": untrained_probes, "shuffled labels": shuffled_probes}.items()
):
    axes[2].plot(
        list(found), list(found.values()), label=name, color=plots.COLOURS[index],
        linestyle=plots.STYLES[index], marker="o", markersize=3,
    )  # fmt: skip
axes[2].legend(fontsize=8, frameon=False)
axes[2].set_ylim(0, 1.05)
plots.label(axes[2], "Linear probe for the state", "residual stream after", "held-out accuracy")
starts = order[:, 0] == 0  # a row without blanks, and with some three writes in it
writes = (tokens[:, :LENGTH] < STATES).sum(-1)
row = int((starts * (100 - (writes - 3).abs() * (KIND == "flipflop"))).argmax())
names = [*map(str, range(STATES)), "k"] if KIND == "flipflop" else ["0", "1"]
plots.attention(
    axes[3], patterns[best_layer, row, best_head, :LENGTH, :LENGTH],
    [names[token] for token in tokens[row, :LENGTH].tolist()],
    f"Head {best_layer}.{best_head}{' (k: keep)' if KIND == 'flipflop' else ''}",
)  # fmt: skip
plots.heatmap(
    axes[4], look, "Attention on the last write" if KIND == "flipflop" else "Evenness of attention",
    x="head", y="layer", limits=(0, 1), numbers=True,
)  # fmt: skip
ablations = {f"{layer}.{head}": single[layer, head].item() for layer in range(2) for head in range(HEADS)}
plots.bars(
    axes[5], {**ablations, "all 0": whole[0], "all 1": whole[1]}, "Accuracy without a head, or a layer's",
    highlight=["all 0", "all 1"], marks={"chance": 1 / STATES},
)  # fmt: skip
run.save(fig, "automaton")

# %%
report = run.finish(metrics)
