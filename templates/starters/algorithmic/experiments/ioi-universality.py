"""Universality on toy indirect objects: do models of other seeds and another shape find the same circuit?

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              another dozen models
    python experiment.py --layers 1 --heads 4  compare with another shape

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## One circuit, or many?
#
# Two names are said, one of them again; the model must name the other. One layer of two heads can do it,
# and so can two layers of one head (Adhikari 2025, arXiv:2510.25013). Here the object of study is the
# population: train several models of both shapes, describe every head by numbers that depend neither on
# its index nor on the basis of the residual stream, and compare circuits as unordered sets of heads.
# The measure stands in this script, the same for every model, and comes with nulls.

# %%
from functools import partial
from itertools import combinations, permutations, product

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # the models' seeds are 100 * SEED + 0, 1, 2, ...
MODELS = 4  # models of one layer and two heads
OTHERS = 4  # models of the other shape
LAYERS = 2  # layers of the other shape
HEADS = 1  # heads in each layer of the other shape
D_MODEL = 16  # width of the residual stream; a head is as wide
NAMES = 6  # names to choose from
FILLERS = 4  # meaningless tokens between the names
LENGTH = 7  # tokens: <start>, two names among filler, the second S at its fixed place, filler, <end>
BATCH = 64  # prompts in a step
STEPS = 600  # training steps
LR = 2e-2  # AdamW, cosine down to zero
WEIGHT_DECAY = 1.0  # the strong decay ends the plateau "IO or S, I cannot tell which"
SOLVED = 0.95  # the accuracy from which a model counts; how many fail is reported

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Prompts
#
# IO and S in either order, S again three places before the end.


# %%
def sample(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Tokens [row, position], the names IO and S, and the positions of IO, S1, S2."""
    pair = torch.rand(rows, NAMES, generator=generator).argsort(-1)[:, :2]
    tokens = NAMES + torch.randint(FILLERS, (rows, LENGTH), generator=generator)
    tokens[:, 0], tokens[:, -1] = NAMES + FILLERS, NAMES + FILLERS + 1
    slots = torch.rand(rows, LENGTH - 4, generator=generator).argsort(-1)[:, :2].sort(-1).values + 1
    slots = F.pad(slots, (0, 1), value=LENGTH - 3)
    first = torch.randint(2, (rows, 1), generator=generator)  # which of the first two names is S
    subject = pair.gather(1, first)
    tokens.scatter_(1, slots, torch.cat([pair, subject], dim=1))
    out = {"tokens": tokens, "io": pair.gather(1, 1 - first)[:, 0], "s": subject[:, 0],
           "io_pos": slots.gather(1, 1 - first)[:, 0], "s1_pos": slots.gather(1, first)[:, 0],
           "s2_pos": slots[:, 2]}  # fmt: skip
    return {name: value.to(device) for name, value in out.items()}


test = sample(1000, torch.Generator().manual_seed(10_000 + SEED))
rows = torch.arange(1000, device=device)

# %% [markdown]
# ### Train a population side by side
#
# `vmap` runs one model's code on all seeds' weights at once, which costs far less than one after the
# other. The models meet the same prompts and share nothing else. Afterwards each gets its weights back.


# %%
def build(layers: int, heads: int, seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL, n_heads=heads, n_layers=layers, n_ctx=LENGTH,
        d_vocab=NAMES + FILLERS + 2, d_vocab_out=NAMES, attn_only=True, normalization_type=None,
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=100 * SEED + seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def train_together(layers: int, heads: int, count: int) -> tuple[list[TransformerBridge], dict]:
    """``count`` trained models, and the history with one accuracy column per model."""
    models = [build(layers, heads, seed) for seed in range(count)]
    shell = build(layers, heads, 0)  # lends its code; the weights come from the stack
    weights, buffers = stack_module_state(models)  # each [model, ...]
    weights = {name: nn.Parameter(value.detach()) for name, value in weights.items()}
    stacked = nn.ParameterList(weights.values())

    def logits_of(one: dict, one_buffers: dict, tokens: torch.Tensor) -> torch.Tensor:
        return functional_call(shell, (one, one_buffers), (tokens,))[:, -1]

    def all_logits(tokens: torch.Tensor) -> torch.Tensor:  # [model, row, name]
        return vmap(logits_of, in_dims=(0, 0, None))(weights, buffers, tokens)

    generator = torch.Generator().manual_seed(SEED)

    def loss_at(step: int) -> torch.Tensor:
        prompts = sample(BATCH, generator)
        logits = all_logits(prompts["tokens"])
        # the sum over models: each gets the gradient of its own loss
        return F.cross_entropy(logits.flatten(0, 1), prompts["io"].repeat(count)) * count

    def evaluate() -> dict[str, float]:
        correct = (all_logits(test["tokens"]).argmax(-1) == test["io"]).float().mean(-1)
        return {f"model {i}": value for i, value in enumerate(correct.tolist())}

    history = train(
        stacked, loss_at, steps=STEPS, lr=LR, weight_decay=WEIGHT_DECAY, decay=True, evaluate=evaluate,
        every=max(1, STEPS // 10),
    )  # fmt: skip
    with torch.no_grad():
        for index, model in enumerate(models):
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name][index])
            model.eval()
    return models, history


two_heads, history = train_together(1, 2, MODELS)
others, history_others = train_together(LAYERS, HEADS, OTHERS)
untrained = [build(1, 2, seed).eval() for seed in range(MODELS)]

# %% [markdown]
# ### Describe a head in seven numbers
#
# Attention from <end> to IO, S1, S2; the copying score of its OV circuit; what it adds to the logits of the
# two names together and to their difference (exact, since there is no layer norm); and the accuracy lost
# when it is mean-ablated. All are of order one, so that plain Euclidean distance will do.

# %%
FEATURES = ["to IO", "to S1", "to S2", "copies", "both names", "IO - S", "damage"]


def accuracy(logits: torch.Tensor) -> float:
    return (logits.argmax(-1) == test["io"]).float().mean().item()


def mean_ablate(z: torch.Tensor, hook: HookPoint, head: int) -> torch.Tensor:
    """z: [row, position, head, d_head]; the mean over prompts, position by position."""
    z[:, :, head] = z[:, :, head].mean(0, keepdim=True)
    return z


@torch.no_grad()
def logits_without(model: TransformerBridge, layer: int, head: int) -> torch.Tensor:
    hooks = [(f"blocks.{layer}.attn.hook_z", partial(mean_ablate, head=head))]
    return model.run_with_hooks(test["tokens"], fwd_hooks=hooks)[:, -1]


@torch.no_grad()
def describe(model: TransformerBridge) -> torch.Tensor:
    """One row of FEATURES for each head, [head, feature]."""
    logits, cache = model.run_with_cache(test["tokens"])
    table = []
    for layer, head in product(range(model.cfg.n_layers), range(model.cfg.n_heads)):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][rows, head, -1]  # [row, key]
        looks = [pattern[rows, test[place]].mean().item() for place in ("io_pos", "s1_pos", "s2_pos")]
        written = cache[f"blocks.{layer}.attn.hook_z"][:, -1, head] @ model.W_O[layer, head] @ model.W_U
        written = written - written.mean(-1, keepdim=True)  # [row, name]
        to_io, to_s = written[rows, test["io"]].mean().item(), written[rows, test["s"]].mean().item()
        circuit = model.W_E[:NAMES] @ model.W_V[layer, head] @ model.W_O[layer, head] @ model.W_U
        circuit = circuit - circuit.mean(-1, keepdim=True)
        copies = (circuit / circuit.std(-1, keepdim=True).clamp_min(1e-12)).diagonal().mean().item()
        damage = accuracy(logits[:, -1]) - accuracy(logits_without(model, layer, head))
        table.append([*looks, copies / 2, (to_io + to_s) / 10, (to_io - to_s) / 10, damage])
    return torch.tensor(table)


def solved(models: list[TransformerBridge]) -> list[TransformerBridge]:
    with torch.no_grad():
        return [model for model in models if accuracy(model(test["tokens"])[:, -1]) >= SOLVED]


kept, kept_others = solved(two_heads), solved(others)
circuits = [describe(model) for model in kept] or [describe(two_heads[0])]
circuits_others = [describe(model) for model in kept_others] or [describe(others[0])]
circuits_null = [describe(model) for model in untrained]
metrics = {"solved": len(kept) / MODELS, "solved_others": len(kept_others) / OTHERS}

# %% [markdown]
# ### Does the description depend on what it must not depend on?
#
# Rotate the residual stream of one model by a random orthogonal matrix: everything that writes to it turns
# one way, everything that reads from it turns back. The function is the same, and the table must be too.

# %%
turn = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(SEED)))[0]
turn = turn.to(device)
subject, rotated = two_heads[0], build(1, 2, 0).eval()
with torch.no_grad():
    for (name, old), new in zip(subject.named_parameters(), rotated.parameters(), strict=True):
        if "embed" in name or name.startswith("pos"):
            new.copy_(old @ turn)  # [token or position, d_model]
        elif ".o." in name:
            new.copy_(turn.T @ old)  # weight [d_model, d_head * heads] or bias [d_model]
        elif name.endswith("weight"):
            new.copy_(old @ turn)  # q, k, v and the unembedding: [out, d_model]
        else:
            new.copy_(old)
    metrics["rotation_change"] = (describe(rotated) - describe(subject)).abs().max().item()
    metrics["weights_moved"] = (rotated.W_E - subject.W_E).abs().max().item()
    clean = subject(test["tokens"])
    noop = subject.run_with_hooks(test["tokens"], fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z)])
metrics["noop_change"] = (noop - clean).abs().max().item()

# %% [markdown]
# ### Compare circuits: best matching of heads
#
# Distance: the root mean square difference of the descriptions under the best pairing of heads. Nulls: the
# same pairs of models under the *worst* pairing (if it is no farther, the heads have no roles), trained
# against untrained, and untrained against untrained, who are alike because they do nothing.


# %%
def distance(one: torch.Tensor, two: torch.Tensor, pick=min) -> float:
    """Between circuits [head, feature] under the pairing that ``pick`` likes; extra heads go unmatched."""
    small, large = sorted((one, two), key=len)
    return pick(
        (small - large[list(order)]).square().mean().sqrt().item()
        for order in permutations(range(len(large)), len(small))
    )


def mean_distance(ones: list, twos: list | None = None, pick=min) -> float:
    """Mean over pairs: within one population, or between two."""
    pairs = list(combinations(ones, 2) if twos is None else product(ones, twos))
    return sum(distance(*pair, pick) for pair in pairs) / max(1, len(pairs))


distances = {
    "seeds": mean_distance(circuits),
    "seeds, heads swapped": mean_distance(circuits, pick=max),
    "to untrained": mean_distance(circuits, circuits_null),
    "among untrained": mean_distance(circuits_null),
    "to other shape": mean_distance(circuits, circuits_others),
}
if len(circuits_others) > 1:
    distances["other shape's seeds"] = mean_distance(circuits_others)
metrics |= {"seed_distance": distances["seeds"], "swapped_distance": distances["seeds, heads swapped"],
            "untrained_distance": distances["to untrained"], "shape_distance": distances["to other shape"],
            "untrained_spread": distances["among untrained"]}  # fmt: skip
metrics["roles_ratio"] = metrics["swapped_distance"] / max(metrics["seed_distance"], 1e-9)

# %% [markdown]
# ### Is it always one adding and one contrasting head?
#
# By what heads write, circuits fall in three families. *Adder and contraster*: both raise the names,
# but only one tells them apart. *Both contrast*: they share the work. *One writer*: one head does all the
# writing, so any other can only feed it. And do the two roles fail differently? Without the contraster a
# model should answer one of the two names; without the adder it should still avoid S, and name a third.

# %%
SUM, DIFFERENCE = FEATURES.index("both names"), FEATURES.index("IO - S")
FAMILIES = ["adder and contraster", "both contrast", "one writer"]


def family(circuit: torch.Tensor) -> str:
    """By the two heads that write most: does the second tell names apart; does it write at all?"""
    first, second = circuit[circuit[:, SUM].abs().topk(2).indices]
    if second[SUM].abs() < 0.25 * first[SUM].abs():
        return "one writer"
    low, high = sorted((first[DIFFERENCE].abs().item(), second[DIFFERENCE].abs().item()))
    return "adder and contraster" if low < 0.25 * high else "both contrast"


def roles(circuit: torch.Tensor) -> tuple[int, int]:
    """Index of the adder (tells the names apart least) and of the contraster (most) of two heads."""
    return int(circuit[:, DIFFERENCE].abs().argmin()), int(circuit[:, DIFFERENCE].abs().argmax())


def answers(model: TransformerBridge, head: int) -> dict[str, float]:
    """Shares of prompts answered with IO, with S and with another name when one head is ablated."""
    top = logits_without(model, 0, head).argmax(-1)
    io, s = (top == test["io"]).float().mean().item(), (top == test["s"]).float().mean().item()
    return {"IO": io, "S": s, "another": 1 - io - s}


def census(circuit_set: list[torch.Tensor]) -> dict[str, float]:
    """Share of circuits in each family."""
    found = [family(circuit) for circuit in circuit_set]
    return {name: found.count(name) / max(1, len(found)) for name in FAMILIES}


families = census(circuits if kept else [])
families_others = census(circuits_others if kept_others else [])
print("1 layer, 2 heads:", families, "; other shape:", families_others)
without_adder, without_contraster = [], []
pairs = list(zip(kept or two_heads[:1], circuits, strict=True))
for model, circuit in [pair for pair in pairs if family(pair[1]) == FAMILIES[0]] or pairs[:1]:
    adder, contraster = roles(circuit)
    without_adder.append(answers(model, adder))
    without_contraster.append(answers(model, contraster))


def mean_of(shares: list[dict[str, float]]) -> list[float]:
    return [sum(share[key] for share in shares) / len(shares) for key in ("IO", "S", "another")]


lost_adder, lost_contraster = mean_of(without_adder), mean_of(without_contraster)
metrics |= {
    "adder_and_contraster": families[FAMILIES[0]],
    "one_writer": families[FAMILIES[2]],
    "one_writer_others": families_others[FAMILIES[2]],
    "pair_without_contraster": lost_contraster[0] + lost_contraster[1],
    "s_without_contraster": lost_contraster[1],
    "other_without_adder": lost_adder[2],
    "s_without_adder": lost_adder[1],
}

# %%
ordered = []  # one row per head, adders first
for circuit in circuits:
    adder, _ = roles(circuit)
    ordered.append(torch.cat([circuit[adder : adder + 1], circuit[:adder], circuit[adder + 1 :]]))
fig, axes = plots.figure(2, 3, f"{MODELS} models of 1 layer, 2 heads; {OTHERS} of {LAYERS} x {HEADS}")
for place, (shape, shares) in enumerate((("1 x 2", families), (f"{LAYERS} x {HEADS}", families_others))):
    bar = axes[0].bar([i + 0.4 * place for i in range(3)], list(shares.values()), 0.38,
                      color=plots.COLOURS[place], label=f"{shape} (layers x heads)")  # fmt: skip
    axes[0].bar_label(bar, fmt="%.2g", fontsize=7)
axes[0].set_xticks([i + 0.2 for i in range(3)], ["adder and\ncontraster", "both\ncontrast", "one\nwriter"])
axes[0].set_ylim(0, 1.3)
axes[0].legend(fontsize=7.5, frameon=False, ncols=2)
plots.label(axes[0], f"Families; {len(kept)} of {MODELS} and {len(kept_others)} of {OTHERS} solve it", "",
            "share of the solved")  # fmt: skip
stacked_rows = torch.cat([row[i : i + 1] for i in range(2) for row in ordered])
plots.heatmap(
    axes[1], stacked_rows, "Each circuit's adder above the line", x_ticks=FEATURES, y="head", signed=True
)
axes[1].tick_params(axis="x", labelrotation=40)
axes[1].axhline(len(circuits) - 0.5, color="black", linewidth=1.5)
plots.bars(axes[2], distances, "Distance between circuits", y="rms over features", highlight=["seeds"])
for circuit_set, marker, colour, name in (
    (circuits, "o", plots.COLOURS[0], "1 layer, 2 heads"),
    (circuits_others, "^", plots.COLOURS[1], f"{LAYERS} layer(s), {HEADS} head(s)"),
    (circuits_null, "x", "0.5", "untrained"),
):
    every = torch.cat(circuit_set)
    axes[3].scatter(10 * every[:, SUM], 10 * every[:, DIFFERENCE], marker=marker, color=colour, label=name)
axes[3].axhline(0, color="0.7", linewidth=0.8)
axes[3].axvline(0, color="0.7", linewidth=0.8)
axes[3].legend(fontsize=7.5, frameon=False)
plots.label(axes[3], "Every head of every model", "adds to IO + S (nats)", "adds to IO - S (nats)")
for ax, shares, name in ((axes[4], lost_adder, "adder"), (axes[5], lost_contraster, "contraster")):
    plots.bars(
        ax, dict(zip(("IO (right)", "S", "another name"), shares, strict=True)),
        f"1 layer: answers without the {name}", y="share of prompts", marks={"guessing": 1 / NAMES},
    )  # fmt: skip
    ax.set_ylim(0, 1.1)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
