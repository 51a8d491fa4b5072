"""Where induction goes wrong, and what repairs it: more layers of attention, or MLPs.

    python experiment.py                              the run that expected.json describes
    python experiment.py --seed 1                     another seed
    python experiment.py --failure ambiguous          split-token, ambiguous, end-of-repeat, or mlp

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Three ways in which induction fails
#
# An induction head finds the last copy of the current token and predicts what followed it (Olsson et al.
# 2022, arXiv:2209.11895). It fails if the word is cut into other tokens the second time (split-token), if
# the token has had two successors (ambiguous), and at the end of a repeat. In made-up data each failure
# has a known best prediction, so "repaired" is a number: the gap to that floor. FAILURE "mlp" trains on
# the last two at once and asks whether MLPs do better than attention alone.

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
SEED = 0  # weights and data
FAILURE = "split-token"  # split-token, ambiguous, end-of-repeat or mlp
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
LENGTH = 32  # tokens in a row
BATCH = 64  # rows in a step
STEPS = 450  # training steps
LR = 5e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device
KINDS = ["ambiguous", "end-of-repeat"] if FAILURE == "mlp" else [FAILURE]
# name: layers, heads, neurons. The last is the one that is taken apart.
MODELS = {"3 layers": (3, HEADS, 0), "2 layers": (2, HEADS, 0)}
if FAILURE == "mlp":
    MODELS = {"2 layers": (2, HEADS, 0), "with MLPs": (2, HEADS, 128)}
rate = 0.8 * LR if FAILURE == "mlp" else LR  # MLPs want it a little slower
BESIDE, MAIN = MODELS

# %% [markdown]
# ### The data: a block, and the same block once more, with one thing made difficult
#
# Every generator returns tokens and, for each position, what is known about predicting the *next* token
# there: `hard` (the failure), `plain` (ordinary induction), `floor` (loss of the best prediction),
# `right` and `wrong` (the key that a perfect and a misled head attend to; -1: none). Periods differ from
# row to row.

# %%
PLAIN, MARKERS, WORDS, FIRSTS, LASTS = 24, 6, 12, 4, 3  # how many tokens of each sort
WORD = PLAIN + MARKERS  # token id of the first whole word
PIECE = WORD + WORDS  # token id of the first first-half; the last halves follow
PAD = PIECE + FIRSTS + LASTS
VOCABULARY = PAD + 1
CHANGE = 0.3  # chance that a word changes its form in the second copy
Data = dict[str, torch.Tensor]


def blocks(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Blocks of distinct tokens [row, PLAIN], their periods [row, 1], and two places in each [row, 2]."""
    block = torch.rand(rows, PLAIN, generator=generator).argsort(-1)
    period = torch.randint(9, 14, (rows, 1), generator=generator)
    first = torch.randint(1, 4, (rows, 1), generator=generator)
    second = first + torch.randint(3, 5, (rows, 1), generator=generator)
    return block, period, torch.cat([first, second], 1)


def ambiguous(rows: int, generator: torch.Generator) -> Data:
    """X A B ... Y A C ..., repeated: only the token before A tells which successor is right."""
    block, period, places = blocks(rows, generator)
    block.scatter_(1, places[:, 1:], block.gather(1, places[:, :1]))
    position = torch.arange(LENGTH).expand(rows, -1)
    tokens = block.gather(1, position % period)
    second = (position >= period) & (position < 2 * period)
    at = [position % period == places[:, i : i + 1] for i in (0, 1)]
    apart = places[:, 1:] - places[:, :1]
    right = position - period + 1
    wrong = torch.where(at[0], right + apart, torch.where(at[1], position - apart + 1, -1))
    hard = second & (at[0] | at[1])
    return {"tokens": tokens, "hard": hard, "plain": second & ~hard, "right": right, "wrong": wrong,
            "floor": torch.zeros(rows, LENGTH)}  # fmt: skip


def end_of_repeat(rows: int, generator: torch.Generator) -> Data:
    """Blocks with two markers; at each marker of the second copy the repeat ends with probability 1/2."""
    block, period, places = blocks(rows, generator)
    markers = PLAIN + torch.rand(rows, MARKERS, generator=generator).argsort(-1)[:, :2]
    block.scatter_(1, places, markers)
    position = torch.arange(LENGTH).expand(rows, -1)
    at = [position == period + places[:, i : i + 1] for i in (0, 1)]
    ends = torch.rand(rows, 2, generator=generator) < 0.5
    end = torch.where(ends[:, 0], places[:, 0], torch.where(ends[:, 1], places[:, 1], 99))[:, None] + period
    noise = torch.randint(PLAIN, (rows, LENGTH), generator=generator)
    tokens = torch.where(position <= end, block.gather(1, position % period), noise)
    second = (position >= period) & (position < 2 * period) & (position <= end)
    hard = second & (at[0] | at[1])
    copied = block.gather(1, (position + 1) % period)  # what would follow if the repeat went on
    goes_on = tokens.roll(-1, 1) == copied
    floor = torch.where(goes_on, -math.log(0.5 + 0.5 / PLAIN), -math.log(0.5 / PLAIN))
    return {"tokens": tokens, "hard": hard, "plain": second & ~hard, "right": position - period + 1,
            "wrong": torch.full_like(position, -1), "floor": torch.where(hard, floor, 0.0),
            "copied": copied}  # fmt: skip


def split_token(rows: int, generator: torch.Generator) -> Data:
    """Words as one token or as two halves; the second copy changes the form of some. Halves are shared."""
    size = torch.randint(6, 9, (rows, 1), generator=generator)  # words in a block
    words = torch.rand(rows, WORDS, generator=generator).argsort(-1)
    index = torch.arange(2 * 8).expand(rows, -1)
    inside, copy = index % size, index // size
    form = torch.rand(rows, WORDS, generator=generator) < 0.5  # True: two halves
    change = (torch.rand(index.shape, generator=generator) < CHANGE) & (copy == 1)
    word, split = words.gather(1, inside), form.gather(1, inside) ^ change
    halves = torch.stack([PIECE + word // LASTS, PIECE + FIRSTS + word % LASTS], -1)
    pieces = torch.where(split[..., None], halves, torch.stack([WORD + word, torch.full_like(word, -1)], -1))
    pieces[copy > 1] = -1  # -1: nothing here
    order = (pieces.flatten(1) < 0).int().argsort(dim=1, stable=True)[:, :LENGTH]  # close the gaps

    def lay(values: torch.Tensor) -> torch.Tensor:
        return values[..., None].expand(-1, -1, 2).flatten(1).gather(1, order)

    tokens = pieces.flatten(1).gather(1, order)
    start = order % 2 == 0
    last = (start & ~lay(split)) | ~start
    second = (lay(copy) == 1) & (tokens >= 0)
    ask = second & last & (lay(inside) < size - 1)  # the end of a repeated word that has a successor
    key = (lay(copy) == 0)[:, None] & start[:, None] & (lay(inside)[:, None] == lay(inside)[:, :, None] + 1)
    hard = ask & lay(change)
    changes_next = lay(torch.cat([change[:, 1:], change[:, :1]], 1))
    floor = torch.where(changes_next, -math.log(CHANGE), -math.log(1 - CHANGE))
    return {
        "tokens": torch.where(tokens < 0, PAD, tokens),
        "hard": hard,
        "plain": ask & ~hard,
        "right": torch.where(ask, key.int().argmax(-1), -1),
        "wrong": torch.full_like(tokens, -1),
        "floor": floor,
        "split": lay(split),
        "before": lay(torch.cat([change[:, -1:], change[:, :-1]], 1)),
    }


GENERATORS = {"split-token": split_token, "ambiguous": ambiguous, "end-of-repeat": end_of_repeat}


def sample(kind: str, rows: int, generator: torch.Generator) -> Data:
    data = GENERATORS[kind](rows, generator)
    data["hard"][:, -1] = data["plain"][:, -1] = False  # nothing follows the last token
    return {name: values.to(device) for name, values in data.items()}


held_out = {kind: sample(kind, 256, torch.Generator().manual_seed(10_000 + SEED)) for kind in KINDS}

# %% [markdown]
# ### Train the models on the same rows, and measure the gap to the floor


# %%
def build(name: str) -> TransformerBridge:
    layers, n_heads, neurons = MODELS[name]
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=16, n_heads=n_heads, n_layers=layers, n_ctx=LENGTH, d_vocab=VOCABULARY,
        attn_only=neurons == 0, d_mlp=neurons or 4 * D_MODEL, act_fn="gelu",
        normalization_type="LN", positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def token_loss(logits: torch.Tensor, data: Data) -> torch.Tensor:
    """Loss of predicting the next token at every position, in nats: [row, position]; 0 at the last."""
    loss = F.cross_entropy(logits[:, :-1].transpose(1, 2), data["tokens"][:, 1:], reduction="none")
    return F.pad(loss, (0, 1))


@torch.no_grad()
def gaps(model: TransformerBridge, kind: str, hooks: list | None = None) -> dict[str, float]:
    """Loss above the floor where it is hard, and where it is plain."""
    data = held_out[kind]
    loss = token_loss(model.run_with_hooks(data["tokens"], fwd_hooks=hooks or []), data) - data["floor"]
    return {sort: loss[data[sort]].mean().item() for sort in ("hard", "plain")}


def fit(name: str) -> TransformerBridge:
    model = build(name)
    generator = torch.Generator().manual_seed(SEED)

    def loss_at(step: int) -> torch.Tensor:
        parts = [sample(kind, BATCH // len(KINDS), generator) for kind in KINDS]
        data = {key: torch.cat([part[key] for part in parts]) for key in ("tokens", "hard", "plain")}
        loss = token_loss(model(data["tokens"]), data)
        return loss[data["hard"] | data["plain"]].mean() + loss[data["hard"]].mean()  # hard counts twice

    def evaluate() -> dict[str, float]:
        return {name: sum(gaps(model, kind)["hard"] for kind in KINDS) / len(KINDS)}

    columns = train(
        model, loss_at, steps=STEPS, lr=rate, weight_decay=0.01, decay=True, evaluate=evaluate,
        every=max(1, STEPS // 20), label=name,
    )  # fmt: skip
    history.update(step=columns["step"], **{name: columns[name]})
    return model


history: dict[str, list[float]] = {}
models = {name: fit(name) for name in MODELS}
table = {kind: {name: gaps(model, kind) for name, model in models.items()} for kind in KINDS}
untrained = gaps(build(MAIN), KINDS[0])
for kind in KINDS:
    print(kind, {name: {s: round(v, 3) for s, v in g.items()} for name, g in table[kind].items()})

# %% [markdown]
# ### Where do the heads look when it is hard?
#
# Attention on the right key (the token after the copy that counts) and on the wrong one, head by head.

# %%
model, KIND = models[MAIN], KINDS[0]
data = held_out[KIND]
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
with torch.no_grad():
    logits, cache = model.run_with_cache(data["tokens"])


def on_key(key: str, sort: str) -> torch.Tensor:
    """Attention of every head on that key, over the queries of a sort: [layer, head]."""
    chosen = data[sort] & (data[key] >= 0)
    index = data[key].clamp_min(0)[:, None, :, None].expand(-1, n_heads, -1, 1)
    patterns = [cache["pattern", layer].gather(-1, index)[..., 0] for layer in range(n_layers)]
    return torch.stack([p.transpose(1, 2)[chosen].mean(0) for p in patterns])


looks_right, looks_right_plain = on_key("right", "hard"), on_key("right", "plain")
looks_wrong = on_key("wrong", "hard") if (data["wrong"] >= 0).any() else torch.zeros_like(looks_right)
p_right = logits.softmax(-1).gather(-1, data["tokens"].roll(-1, 1)[..., None])[..., 0]

# %% [markdown]
# ### Which heads does the hard case need, and which the plain case?
#
# Mean-ablate each head and measure both. A head that costs much on hard positions only belongs to the repair.


# %%
def ablate(layer: int, head: int) -> tuple:
    def mean(z: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        z = z.clone()
        z[:, :, head] = z[:, :, head].mean(dim=(0, 1), keepdim=True)
        return z

    return (f"blocks.{layer}.attn.hook_z", mean)


cells = [(l, h) for l in range(n_layers) for h in range(n_heads)]
base = table[KIND][MAIN]
costs = {cell: gaps(model, KIND, [ablate(*cell)]) for cell in cells}
cost_hard = torch.tensor([costs[cell]["hard"] - base["hard"] for cell in cells])
cost_plain = torch.tensor([costs[cell]["plain"] - base["plain"] for cell in cells])
noop = gaps(model, KIND, [("blocks.0.attn.hook_z", lambda z, hook: z)])
everything = gaps(model, KIND, [ablate(*cell) for cell in cells])

# %% [markdown]
# ### Cut the attention to the right key
#
# In all heads above the first layer, take the attention of hard queries away from the right key and share
# it out over the others. If the answer comes from there, it must be lost; the key two places earlier is
# the control.


# %%
def knock_out(shift: int) -> list:
    """Hooks that forbid hard queries to attend to the key ``shift`` places before the right one."""
    rows, queries = (data["hard"] & (data["right"] >= shift)).nonzero(as_tuple=True)
    keys = data["right"][rows, queries] - shift

    def forbid(pattern: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        pattern = pattern.clone()
        pattern[rows, :, queries, keys] = 0
        return pattern / pattern.sum(-1, keepdim=True).clamp_min(1e-9)

    return [(f"blocks.{layer}.attn.hook_pattern", forbid) for layer in range(1, n_layers)]


cut = {"as it is": base["hard"], "right key": gaps(model, KIND, knock_out(0))["hard"],
       "two before": gaps(model, KIND, knock_out(2))["hard"]}  # fmt: skip
top_two = cost_hard.topk(2).values
metrics = {
    "hard_gap_other": table[KIND][BESIDE]["hard"],  # the model beside it
    "hard_gap": base["hard"],
    "plain_gap": base["plain"],
    "hard_less_plain": base["hard"] - base["plain"],
    "untrained_gap": untrained["hard"],
    "looks_right": looks_right.max().item(),
    "looks_right_plain": looks_right_plain.max().item(),
    "looks_wrong": looks_wrong[divmod(int(looks_right.argmax()), n_heads)].item(),
    "cut_right": cut["right key"] - cut["as it is"],
    "cut_other": cut["two before"] - cut["as it is"],
    "head_cost": cost_hard.max().item(),
    "median_head_cost": cost_hard.median().item(),
    "all_heads_cost": everything["hard"] - base["hard"],
    "noop_change": abs(noop["hard"] - base["hard"]),
}

# %% [markdown]
# ### What is special to each failure
#
# split-token: the loss by first and second form, and where the word before had changed too (else the
# model could match that one). ambiguous: the probability on the right and on the wrong successor.
# end-of-repeat: the probability of the copied token at a marker, which should be one half, and what the
# heads then write. mlp: take the MLPs away.

# %%
special: dict[str, float] = {}
if FAILURE == "split-token":
    gap = token_loss(logits, data) - data["floor"]
    asked = data["hard"] | data["plain"]
    for first in (False, True):
        for second in (False, True):
            chosen = asked & (data["split"] == second) & (data["hard"] == (first != second))
            label = f"{'halves' if first else 'whole'}, then {'halves' if second else 'whole'}"
            special[label] = gap[chosen].mean().item()
    special["word before\nchanged too"] = gap[data["hard"] & data["before"]].mean().item()
    metrics["hard_gap_guarded"] = special["word before\nchanged too"]
    # swap the first half of a changed word for that of another word: the answer must get lost
    other = data["tokens"].clone()
    halves = (other >= PIECE) & (other < PIECE + FIRSTS) & data["hard"].roll(-1, 1)
    other[halves] = PIECE + (other[halves] - PIECE + 1) % FIRSTS
    with torch.no_grad():
        gap_other = token_loss(model(other), data) - data["floor"]
    split_hard = data["hard"] & data["split"] & data["before"]
    metrics["half_swapped"] = (gap_other - gap)[split_hard].mean().item()
elif FAILURE == "ambiguous":
    for name, net in models.items():
        with torch.no_grad():
            p = net(data["tokens"]).softmax(-1)
        wrong_token = data["tokens"].gather(1, data["wrong"].clamp_min(0))
        special[f"{name}\nright"] = (
            p.gather(-1, data["tokens"].roll(-1, 1)[..., None])[..., 0][data["hard"]].mean().item()
        )
        special[f"{name}\nwrong"] = p.gather(-1, wrong_token[..., None])[..., 0][data["hard"]].mean().item()
        metrics["misfire_" + name.replace(" ", "_")] = special[f"{name}\nwrong"]
    # put the token that stood before the other A before this one: the prediction must change sides
    rows, queries = (data["hard"] & (data["wrong"] >= 3)).nonzero(as_tuple=True)
    swapped = data["tokens"].clone()
    swapped[rows, queries - 1] = data["tokens"][rows, data["wrong"][rows, queries] - 2]
    with torch.no_grad():
        p = model(swapped).softmax(-1)[rows, queries]
    special["prefix\nswapped,\nwrong"] = (
        p.gather(-1, data["tokens"][rows, data["wrong"][rows, queries]][:, None]).mean().item()
    )
    metrics["prefix_swapped"] = special["prefix\nswapped,\nwrong"]
elif FAILURE == "end-of-repeat":
    for name, net in models.items():
        with torch.no_grad():
            p = net(data["tokens"]).softmax(-1).gather(-1, data["copied"][..., None])[..., 0]
        special[f"{name}\nplain"], special[f"{name}\nmarker"] = (
            p[data[s]].mean().item() for s in ("plain", "hard")
        )
        metrics["copied_at_marker_" + name.replace(" ", "_")] = special[f"{name}\nmarker"]
        metrics["copied_at_plain_" + name.replace(" ", "_")] = special[f"{name}\nplain"]
    copied = model.W_U.T[data["copied"]] - model.W_U[:, :PLAIN].mean(1)  # direction of the copied token
    for sort in ("plain", "hard"):
        total = 0.0
        for layer in range(n_layers):
            out = cache["attn_out", layer]
            out = (out - out.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"]
            total += (out * model.ln_final.weight * copied).sum(-1)[data[sort]].mean().item()
        metrics[f"heads_write_{sort}"] = total
    metrics["heads_write_share"] = metrics["heads_write_hard"] / max(metrics["heads_write_plain"], 1e-9)
    metrics["attention_kept"] = (looks_right[1:].sum() / looks_right_plain[1:].sum()).item()
else:

    def mean_mlp(out: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        return out.mean(dim=(0, 1), keepdim=True).expand_as(out)

    for kind in KINDS:
        with torch.no_grad():
            _, clean = model.run_with_cache(
                held_out[kind]["tokens"], names_filter="blocks.1.attn.hook_pattern"
            )
        pattern = clean["blocks.1.attn.hook_pattern"]
        restore = ("blocks.1.attn.hook_pattern", lambda p, hook, pattern=pattern: pattern)
        short = kind.split("-")[0]
        for text, hooks in (
            ("no MLP 0", [("blocks.0.hook_mlp_out", mean_mlp)]),
            ("same, old pattern", [("blocks.0.hook_mlp_out", mean_mlp), restore]),
            ("no MLP 1", [("blocks.1.hook_mlp_out", mean_mlp)]),
        ):
            result = gaps(model, kind, hooks)
            special[f"{short}: {text}"] = result["hard"]
            metrics[f"{short}_{text.replace(' ', '_').replace(',', '')}"] = result["hard"]
        for name in MODELS:
            metrics[f"{short}_gap_{name.replace(' ', '_')}"] = table[kind][name]["hard"]
        metrics[f"{short}_gap_plain"] = table[kind][MAIN]["plain"]

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"Induction made difficult ({', '.join(KINDS)})")
plots.loss_curves(axes[0], history, list(MODELS), title="Hard positions: loss above the best possible",
                  y="gap (nats)", log=False)  # fmt: skip
bars = {f"{kind[:5]} {name}\n{sort}" if len(KINDS) > 1 else f"{name}\n{sort}": value
        for kind in KINDS for name, g in table[kind].items() for sort, value in g.items()
        if len(KINDS) == 1 or sort == "hard"}  # fmt: skip
plots.bars(axes[1], bars, "Gap to the best possible prediction", y="gap (nats)",
           highlight=[name for name in bars if "hard" in name])  # fmt: skip
rows = [f"{l}.{h}" for l, h in cells]
looks = [looks_right_plain.flatten(), looks_right.flatten()]
if KIND == "ambiguous":  # only here is there a wrong key
    looks.append(looks_wrong.flatten())
plots.heatmap(
    axes[2],
    torch.stack(looks),
    f'Attention of the heads of "{MAIN}" ({KIND})',
    x="layer.head",
    x_ticks=rows,
    y_ticks=["right key,\nplain", "right key,\nhard", "wrong key,\nhard"][: len(looks)],
    limits=(0, 1),
    numbers=True,
)
axes[2].tick_params(axis="x", labelrotation=90)
spots = torch.arange(len(cells))
axes[3].bar(spots - 0.2, cost_hard, 0.4, color=plots.COLOURS[1], label="hard")
axes[3].bar(spots + 0.2, cost_plain, 0.4, color=plots.COLOURS[0], label="plain")
axes[3].set_xticks(spots, rows, rotation=90)
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], f'One head of "{MAIN}" mean-ablated ({KIND})', "layer.head", "loss added (nats)")
plots.bars(axes[4], cut, f"Hard queries kept from one key ({KIND})", y="gap (nats)", highlight=["right key"])
titles = {
    "split-token": ("Forms of the repeated word", "gap (nats)"),
    "ambiguous": ("Probability on both successors", "probability"),
    "end-of-repeat": ("Probability of the copied token", "probability"),
    "mlp": (f'MLPs of "{MAIN}" set to their mean: hard gap', "gap (nats)"),
}
plots.bars(axes[5], special, titles[FAILURE][0], y=titles[FAILURE][1],
           marks={"optimum at a marker": 0.5} if FAILURE == "end-of-repeat" else None)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
