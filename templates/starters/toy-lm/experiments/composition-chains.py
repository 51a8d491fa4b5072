"""Chains of three heads: a task that needs them, found by searching every triple and cutting the links.

    python experiment.py                 the run that expected.json describes
    python experiment.py --seed 1        another seed: other heads, the same chain
    python experiment.py --heads 4       more heads in a layer: one chain, or several side by side?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## What a third attention layer can do
#
# With two layers of attention a head can read what another head wrote, which gives induction (Elhage et
# al. 2021, A Mathematical Framework). A third layer allows a chain of three. The data here need one by
# design: the context lists pairs "a b", and a question asks where *two* hops from a lead. Theory says
# that following k pointers takes about log2(k) + 2 layers (Sanford et al. 2024, arXiv:2402.09268): two
# layers for one hop, three for two. The experiment finds the chain by brute force, with no guess about
# which heads it holds.

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
LAYERS = 3  # attention layers of the main model; a two-layer twin is always trained beside it
HEADS = 2  # heads in each layer
D_MODEL = 64  # width of the residual stream
PAIRS = 6  # pairs in a row; they form one cycle
SYMBOLS = 12  # symbols to draw from
BATCH = 64  # rows in a step
STEPS = 500  # training steps
LR = 3e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: pairs in random order, then questions
#
# Symbol a is token a; the question "one hop from a" is token a + SYMBOLS, "two hops" is a + 2 * SYMBOLS.
# The answer is asked for at the question itself and never stands in the row, so questions cannot help
# each other. The cheat that needs no second hop: name any symbol of the row but a and its partner, right
# 1 time in PAIRS - 2.


# %%
def sample(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, answers (-100: none) and hops (0, 1, 2), each [row, position]."""
    a = torch.rand(rows, SYMBOLS, generator=generator).argsort(-1)[:, :PAIRS]  # a cycle of symbols
    b, c = a.roll(-1, 1), a.roll(-2, 1)  # one and two hops from a
    order = torch.rand(rows, PAIRS, generator=generator).argsort(-1)
    pairs = torch.stack([a, b], -1).gather(1, order[..., None].expand(-1, -1, 2)).flatten(1)
    order = torch.rand(rows, 2 * PAIRS, generator=generator).argsort(-1)
    questions = torch.cat([a + SYMBOLS, a + 2 * SYMBOLS], 1).gather(1, order)
    answers = torch.cat([b, c], 1).gather(1, order)
    tokens = torch.cat([pairs, questions], 1)
    answers = torch.cat([torch.full_like(pairs, -100), answers], 1)
    return tokens.to(device), answers.to(device), (tokens // SYMBOLS).to(device)


# %% [markdown]
# ### Train the model, and a two-layer twin on the same data


# %%
def build(layers: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=layers, n_ctx=4 * PAIRS,
        d_vocab=3 * SYMBOLS, attn_only=True, normalization_type="LN",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


held_out, answers, hops = sample(256, torch.Generator().manual_seed(10_000 + SEED))


def accuracy(logits: torch.Tensor, count: int) -> float:
    """Share of questions about ``count`` hops that are answered rightly."""
    return (logits.argmax(-1) == answers)[hops == count].float().mean().item()


def fit(layers: int) -> tuple[TransformerBridge, dict[str, list[float]]]:
    model = build(layers)
    generator = torch.Generator().manual_seed(SEED)

    def loss_at(step: int) -> torch.Tensor:
        tokens, targets, _ = sample(BATCH, generator)
        return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=-100)

    def evaluate() -> dict[str, float]:
        logits = model(held_out)
        return {"one hop": accuracy(logits, 1), "two hops": accuracy(logits, 2)}

    history = train(
        model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True, evaluate=evaluate,
        every=max(1, STEPS // 25), label=f"{layers} layers",
    )  # fmt: skip
    return model, history


twin, history_twin = fit(2)
model, history = fit(LAYERS)

# %% [markdown]
# ### Swap what one head tells another
#
# To cut the link A to B at B's query, key or value: put A's write from *another row* in the place of its own,
# in that input of B alone, and recompute it (LayerNorm included). Swapping keeps every input on the
# distribution that the model was trained on, which removal would not.

# %%
with torch.no_grad():
    _, cache = model.run_with_cache(held_out)
two = hops == 2


def swap(layer: int, head: int) -> torch.Tensor:
    """Another row's write of a head, less its own: [row, position, d_model]."""
    write = cache["z", layer][:, :, head] @ model.W_O[layer, head]
    return write.roll(1, 0) - write


def input_with(change: torch.Tensor, layer: int, head: int, kind: str) -> tuple:
    """A hook that gives B (``layer``, ``head``) its query, key or value with ``change`` in its input."""
    attn = model.blocks[layer].attn
    weight, bias = {"Q": (attn.W_Q, attn.b_Q), "K": (attn.W_K, attn.b_K), "V": (attn.W_V, attn.b_V)}[kind]
    weight, bias = weight[head], bias.view(HEADS, -1)[head]
    value = model.blocks[layer].ln1(cache["resid_pre", layer] + change) @ weight + bias

    def replace(activation: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        activation = activation.clone()
        activation.view(*activation.shape[:2], HEADS, -1)[:, :, head] = value
        return activation

    return (f"blocks.{layer}.attn.hook_{kind.lower()}", replace)


@torch.no_grad()
def two_hop_loss(hooks: list) -> float:
    logits = model.run_with_hooks(held_out, fwd_hooks=hooks)
    return F.cross_entropy(logits[two], answers[two]).item()


@torch.no_grad()
def carried(change: torch.Tensor, layer: int, head: int, kind: str) -> torch.Tensor:
    """What ``change`` in one input of B makes of B's own write, compared with its usual write."""
    seen = {}

    def read(z: torch.Tensor, hook: HookPoint) -> None:
        seen["z"] = z[:, :, head]

    hooks = [input_with(change, layer, head, kind), (f"blocks.{layer}.attn.hook_z", read)]
    model.run_with_hooks(held_out, fwd_hooks=hooks)
    return (seen["z"] - cache["z", layer][:, :, head]) @ model.W_O[layer, head]


# %% [markdown]
# ### Search every chain A to B to C
#
# For all triples in rising layers and both links of any kind: swap A's write in one input of B, take what
# that changes in B's write, and let it reach one input of C only. All else stays as it was.

# %%
baseline = two_hop_loss([])
cells = [(l, h) for l in range(LAYERS) for h in range(HEADS)]
chains: dict[tuple, float] = {}
for a, b in [(a, b) for a in cells for b in cells if a[0] < b[0]]:
    for first in "QKV":
        change = carried(swap(*a), *b, first)
        for c in [c for c in cells if c[0] > b[0]]:
            for second in "QKV":
                chains[a, b, c, first, second] = two_hop_loss([input_with(change, *c, second)]) - baseline
ranked = sorted(chains, key=lambda chain: -chains[chain])
for a, b, c, first, second in ranked[:5]:
    print(f"{a} -{first}-> {b} -{second}-> {c}: {chains[a, b, c, first, second]:+.3f} nats")
A, B, C, FIRST, SECOND = ranked[0]
background = torch.tensor([chains[chain] for chain in ranked])

# %% [markdown]
# ### Test the best chain: single cuts, both cuts, and restoring the links
#
# If A to B to C is one chain, the cuts overlap: cutting B to C after A to B adds little. And it must be
# enough: give A's output of another row to the *whole* model, then hand B and C their own keys back.


# %%
@torch.no_grad()
def score(hooks: list) -> float:
    return accuracy(model.run_with_hooks(held_out, fwd_hooks=hooks), 2)


def swap_head(layer: int, head: int) -> tuple:
    def roll(z: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        z = z.clone()
        z[:, :, head] = z[:, :, head].roll(1, 0)
        return z

    return (f"blocks.{layer}.attn.hook_z", roll)


def own_keys(layer: int) -> tuple:
    return (f"blocks.{layer}.attn.hook_k", lambda k, hook: cache["k", layer].view_as(k))


nothing = torch.zeros_like(cache["resid_pre", 0])
first_cut, second_cut = input_with(swap(*A), *B, FIRST), input_with(swap(*B), *C, SECOND)
path_cut = input_with(carried(swap(*A), *B, FIRST), *C, SECOND)
side_by_side = sum(carried(swap(*A), B[0], head, FIRST) for head in range(HEADS))
all_paths_cut = input_with(side_by_side, *C, SECOND)
weak = ranked[len(ranked) // 2]
weak_cut = input_with(carried(swap(*weak[0]), *weak[1], weak[3]), *weak[2], weak[4])
later_keys = [own_keys(layer) for layer in range(A[0] + 1, LAYERS)]
results = {
    "whole model": score([]),
    "A→B": score([first_cut]),
    "B→C": score([second_cut]),
    "A→B, B→C": score([first_cut, second_cut]),
    "A→B→C": score([path_cut]),
    "A→all B→C": score([all_paths_cut]),
    "middling chain": score([weak_cut]),
    "A everywhere": score([swap_head(*A)]),
    "but keys": score([swap_head(*A), *later_keys]),
}
noop = two_hop_loss([input_with(carried(nothing, *B, FIRST), *C, SECOND)])

# %% [markdown]
# ### What the three heads attend to
#
# The guess to check: A, at the second symbol of a pair, looks one back. B, at the question, singles out
# the partner of a. C, at the question, looks at the partner's partner. B need not *attend* to the
# partner: in a closed cycle every symbol stands in second place once, so attending to all the others
# tells as much. So compare.

# %%
tokens = held_out[:, : 2 * PAIRS]
partner = torch.zeros(len(held_out), 3 * SYMBOLS, dtype=torch.long, device=device)
partner.scatter_(1, tokens[:, 0::2], tokens[:, 1::2])  # the second symbol of each pair, by the first
first_hop = partner.gather(1, (held_out % SYMBOLS))  # [row, position]: one hop from the question's symbol
values = torch.arange(4 * PAIRS, device=device) % 2 == 1  # second symbols stand at odd positions
values = values & (torch.arange(4 * PAIRS, device=device) < 2 * PAIRS)


def attends(head: tuple[int, int], goal: torch.Tensor) -> tuple[float, float]:
    """Attention, at two-hop questions, to the second symbol that equals ``goal``, and to each other one."""
    pattern = cache["pattern", head[0]][:, head[1]] * values
    on_goal = (pattern * (held_out[:, None, :] == goal[:, :, None])).sum(-1)
    others = (pattern.sum(-1) - on_goal) / (PAIRS - 1)
    return on_goal[two].mean().item(), others[two].mean().item()


second_symbols = torch.arange(1, 2 * PAIRS, 2, device=device)
looks_back = cache["pattern", A[0]][:, A[1]][:, second_symbols, second_symbols - 1].mean().item()
on_partner, on_rest = attends(B, first_hop)
metrics = {
    "accuracy_two_hops": history["two hops"][-1],
    "accuracy_two_hops_twin": history_twin["two hops"][-1],
    "accuracy_one_hop_twin": history_twin["one hop"][-1],
    "chain_effect": chains[ranked[0]],
    "background": background.median().item(),
    "accuracy_path_cut": results["A→B→C"],
    "accuracy_paths_cut": results["A→all B→C"],
    "accuracy_weak_cut": results["middling chain"],
    "second_cut_adds": results["A→B"] - results["A→B, B→C"],
    "accuracy_swapped": results["A everywhere"],
    "accuracy_restored": results["but keys"],
    "a_looks_back": looks_back,
    "b_singles_out": max(on_partner, on_rest) / max(min(on_partner, on_rest), 1e-6),
    "c_on_second_hop": attends(C, answers)[0],
    "noop_change": abs(noop - baseline),
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, "A chain of three heads that follows two pointers")
cheat = 1 / (PAIRS - 2)
for net, style, label in ((history, "-", f"{LAYERS} layers"), (history_twin, "--", "2 layers")):
    for hop, colour in (("one hop", 0), ("two hops", 1)):
        axes[0].plot(net["step"], net[hop], style, color=plots.COLOURS[colour], label=f"{label}, {hop}")
plots.levels(axes[0], {"cheat": cheat})
axes[0].legend(fontsize=8, frameon=False, loc="center right", bbox_to_anchor=(1, 0.72))
plots.label(axes[0], "Right answers on held-out rows", "step", "accuracy")
axes[1].plot(range(1, len(ranked) + 1), background.numpy(), "o-", ms=3, color=plots.COLOURS[0])
axes[1].set_yscale("symlog", linthresh=0.01)
plots.label(
    axes[1], f"All {len(ranked)} chains, best first", "rank", "loss added when the path is swapped (nats)"
)
best = {
    f"{a[0]}.{a[1]} {x} {b[0]}.{b[1]} {y} {c[0]}.{c[1]}": chains[a, b, c, x, y]
    for a, b, c, x, y in ranked[:8]
}
axes[2].barh(range(len(best)), list(best.values()), color=plots.COLOURS[0])
axes[2].set_yticks(range(len(best)), [name.replace(" ", "  ") for name in best], family="monospace")
axes[2].invert_yaxis()
plots.label(axes[2], "The best: head, link (Q, K or V), head, link, head", "loss added (nats)", "")
plots.bars(
    axes[3],
    results,
    "Two-hop questions answered rightly, links swapped",
    y="accuracy",
    marks={"cheat": cheat},
    highlight=["whole model", "but keys"],
)
position = int(two[0].nonzero()[0])
for ax, (layer, head), role in ((axes[4], B, "B"), (axes[5], C, "C")):
    question = cache["pattern", layer][0, head, position, : 2 * PAIRS]
    symbol = int(held_out[0, position]) % SYMBOLS
    text = [str(int(token)) for token in held_out[0, : 2 * PAIRS]]
    ax.bar(range(2 * PAIRS), question.cpu().numpy(), color=plots.COLOURS[0])
    ax.set_xticks(range(2 * PAIRS), text)
    for start in range(2, 2 * PAIRS, 2):
        ax.axvline(start - 0.5, color="0.7", linewidth=0.6)
    title = f'{role} = head {layer}.{head} at "two hops from {symbol}"\n(answer {int(answers[0, position])})'
    plots.label(ax, title, "pairs of the row", "attention")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
