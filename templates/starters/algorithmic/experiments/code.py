"""Very simple code: assign a list, look one element up, and find the head that does it.

    python experiment.py                  a=[3,1,4,1,5];a[2] -> 4
    python experiment.py --length 8       longer lists
    python experiment.py --lists 2        a=[3,1,4,1,5];b=[9,2,6,5,3];b[1] -> 2

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## The result of very simple code
#
# A program assigns a list and looks one element up: `c=[3,1,4,1,5];c[2]` is 4. The answer is read
# at the last bracket, which says nothing itself: the index is one place before, the element far
# back. So somewhere the token "2" must become a place (counting from 0), and the digit standing
# there must be carried to the end. Which head looks it up, at which token, and does it know the
# list or only the place? With two lists (LISTS = 2) a name must be bound to its list as well, as
# in the programs of Wu et al. (2025, arXiv:2505.20896).

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
LISTS = 1  # lists assigned before one is asked for
LENGTH = 5  # elements in each list, at most 10
LAYERS = 2  # attention layers
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
BATCH = 128  # programs in a step
STEPS = 400  # training steps
LR = 5e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: programs, one character a token
#
# All programs have the same layout, so the places of names, elements and index are known. The
# answer is read at the closing bracket of the look-up.

# %%
DIGITS, NAMES = "0123456789", "abcdefgh"
CHARACTERS = DIGITS + NAMES + "=[],;"
code_of = {character: i for i, character in enumerate(CHARACTERS)}
layout = ("n=[" + ",".join("v" * LENGTH) + "];") * LISTS + "n[i]"
name_places = [i for i, c in enumerate(layout) if c == "n"]  # definitions, then use
element_places = torch.tensor([i for i, c in enumerate(layout) if c == "v"]).view(LISTS, LENGTH)
index_place, size = layout.index("i"), len(layout)
blank = torch.tensor([code_of.get(c, 0) for c in layout])


def sample(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Programs [row, position], which list is asked for, at which index, and the answer."""
    names = torch.rand(rows, len(NAMES), generator=generator).argsort(-1)[:, :LISTS]  # all different
    elements = torch.randint(10, (rows, LISTS, LENGTH), generator=generator)
    which = torch.randint(LISTS, (rows,), generator=generator)
    index = torch.randint(LENGTH, (rows,), generator=generator)
    row = torch.arange(rows)
    tokens = blank.expand(rows, -1).clone()
    tokens[:, name_places[:-1]] = 10 + names
    tokens[:, element_places.flatten()] = elements.flatten(1)
    tokens[:, name_places[-1]] = 10 + names[row, which]
    tokens[:, index_place] = index
    batch = {
        "tokens": tokens, "index": index, "place": element_places[which, index],
        "answer": elements[row, which, index],
    }  # fmt: skip
    return {name: value.to(device) for name, value in batch.items()}


test = sample(1024, torch.Generator().manual_seed(10_000 + SEED))
tokens, answers = test["tokens"], test["answer"]
for row in tokens[:2].tolist():
    print("".join(CHARACTERS[t] for t in row))

# %% [markdown]
# ### The model, and its training: attention only


# %%
def build(seed: int, layers: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=layers, n_ctx=size,
        d_vocab=len(CHARACTERS), d_vocab_out=10, attn_only=True, normalization_type="LN",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def accuracy(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return (logits.argmax(-1) == expected).float().mean().item()


def fit(layers: int) -> tuple[TransformerBridge, dict[str, list[float]]]:
    net = build(SEED, layers)
    generator = torch.Generator().manual_seed(SEED)

    def loss_at(step: int) -> torch.Tensor:
        batch = sample(BATCH, generator)
        return F.cross_entropy(net(batch["tokens"])[:, -1], batch["answer"])

    def evaluate() -> dict[str, float]:
        logits = net(tokens)[:, -1]
        loss = F.cross_entropy(logits, answers)
        return {"test_loss": loss.item(), "accuracy": accuracy(logits, answers)}

    return net, train(
        net, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True, evaluate=evaluate,
        every=max(1, STEPS // 25),
    )  # fmt: skip


one, history_one = fit(1)
model, history = fit(LAYERS)
elements = tokens[:, element_places.flatten().to(device)]  # [row, lists * length]
metrics = {
    "test_accuracy": history["accuracy"][-1],
    "one_layer_accuracy": history_one["accuracy"][-1],
    # naming any element of the program, which may happen to equal the right one
    "guess_from_elements": (elements == answers[:, None]).float().mean().item(),
}

# %% [markdown]
# ### Which head looks the element up, and at which token?
#
# The attention to the element asked for, for each head, from the index and from the closing
# bracket. One layer cannot do it at the bracket: there the index is still unknown.

# %%
CLOSE = size - 1
askers = {"index": index_place, "]": CLOSE}


@torch.no_grad()
def lookup_scores(net: TransformerBridge) -> torch.Tensor:
    """Mean attention to the element asked for, [asker, layer * head]."""
    _, cache = net.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_pattern"))
    place = test["place"][:, None, None].expand(-1, HEADS, 1)
    rows = [
        [cache["pattern", n][:, :, asker].gather(2, place).mean(dim=(0, 2)) for n in range(LAYERS)]
        for asker in askers.values()
    ]
    return torch.stack([torch.cat(row) for row in rows])


scores, scores_untrained = lookup_scores(model), lookup_scores(build(SEED + 1, LAYERS))
which_asker, flat = divmod(int(scores.argmax()), LAYERS * HEADS)
asker_name, (layer, head) = list(askers)[which_asker], divmod(flat, HEADS)
metrics["lookup_attention"] = scores.max().item()
metrics["lookup_attention_untrained"] = scores_untrained.max().item()
print(f"head {layer}.{head} looks up from the {asker_name!r} token: {scores.max():.2f}")

# %% [markdown]
# ### Cut the look-up, or point it elsewhere
#
# In all heads, from the index and the bracket, take away the attention to the element asked for and
# rescale the rest; or take away another element's (the control). Then point every look-up head at
# another element: is that one the answer?

# %%
shift = torch.randint(1, LENGTH, (len(tokens),), generator=torch.Generator().manual_seed(SEED))
other_index = (test["index"] + shift.to(device)) % LENGTH
other_place = test["place"] + (other_index - test["index"]) * 2  # elements are two characters apart
row_number = torch.arange(len(tokens), device=device)
other_answer = tokens[row_number, other_place]
differs = other_answer != answers


def cut(pattern: torch.Tensor, hook: HookPoint, place: torch.Tensor) -> torch.Tensor:
    """pattern: [row, head, query, key]."""
    for asker in askers.values():
        pattern[row_number, :, asker, place] = 0.0
    return pattern / pattern.sum(-1, keepdim=True).clamp_min(1e-9)


def point(pattern: torch.Tensor, hook: HookPoint, place: torch.Tensor) -> torch.Tensor:
    at = hook.name.split(".")[1]  # "blocks.<layer>.attn.hook_pattern"
    for a, asker in enumerate(askers.values()):
        for h in range(HEADS):
            if scores[a, int(at) * HEADS + h] > 0.1:
                pattern[:, h, asker] = F.one_hot(place, size).float()
    return pattern


@torch.no_grad()
def logits_with(edit: object) -> torch.Tensor:
    hooks = [(f"blocks.{number}.attn.hook_pattern", edit) for number in range(LAYERS)]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]


with torch.no_grad():
    clean = model(tokens)[:, -1]
pointed = logits_with(partial(point, place=other_place))
kept = {
    "nothing": accuracy(clean, answers),
    "other cut": accuracy(logits_with(partial(cut, place=other_place)), answers),
    "asked cut": accuracy(logits_with(partial(cut, place=test["place"])), answers),
    "pointed": accuracy(pointed[differs], answers[differs]),
    "new answer": accuracy(pointed[differs], other_answer[differs]),
}
metrics["noop_change"] = (logits_with(lambda pattern, hook: pattern) - clean).abs().max().item()
metrics["cut_accuracy"] = kept["asked cut"]
metrics["cut_other_accuracy"] = kept["other cut"]
metrics["answer_follows"] = kept["new answer"]

# %% [markdown]
# ### By what way does the answer travel?
#
# Patch the residual stream before each layer, at one group of tokens at a time, with that of
# another program, and count how often the answer becomes the other program's. Where it does, the
# answer (not merely the index) is already there. All tokens at once must give the other answer.

# %%
donor = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(SEED)).to(device)
groups = {
    "elements": element_places.flatten().tolist(), "name": [name_places[-1]], "index": [index_place],
    "]": [CLOSE], "all": list(range(size)),
}  # fmt: skip
told_apart = answers[donor] != answers


@torch.no_grad()
def becomes_donor(layer_number: int, places: list[int]) -> float:
    name = f"blocks.{layer_number}.hook_resid_{'pre' if layer_number < LAYERS else 'post'}"
    name = name.replace(f".{LAYERS}.", f".{LAYERS - 1}.")

    def patch(residual: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        residual[:, places] = residual[donor][:, places]  # [row, position, d_model]
        return residual

    logits = model.run_with_hooks(tokens, fwd_hooks=[(name, patch)])[:, -1]
    return accuracy(logits[told_apart], answers[donor][told_apart])


travel = torch.tensor(
    [[becomes_donor(number, places) for places in groups.values()] for number in range(LAYERS + 1)]
)
metrics["patch_all"] = travel[0, -1].item()
metrics["patch_name"] = travel[:, 1].max().item()
metrics["answer_at_index"] = travel[1, 2].item()

# %% [markdown]
# ### Look

# %%
title = "".join(CHARACTERS[t] for t in tokens[0].tolist())
fig, axes = plots.figure(2, 3, f"Code such as {title}: {LAYERS} attention layers")
curves = {"step": history["step"], f"{LAYERS} layers": history["test_loss"],
          "1 layer": history_one["test_loss"]}  # fmt: skip
plots.loss_curves(
    axes[0], curves, [f"{LAYERS} layers", "1 layer"], marks={"guessing": math.log(10)},
    title=f"Right: {metrics['test_accuracy']:.1%}; one layer {metrics['one_layer_accuracy']:.1%}",
)  # fmt: skip
names = [f"{number}.{h}" for number in range(LAYERS) for h in range(HEADS)]
plots.heatmap(
    axes[1], scores, "Attention to the element asked for", x="layer.head", y="from",
    x_ticks=names, y_ticks=list(askers), limits=(0, 1), numbers=True,
)  # fmt: skip
with torch.no_grad():
    _, cache = model.run_with_cache(tokens)
from_asker = cache["pattern", layer][:, head, askers[asker_name]]  # [row, key]
shown = [from_asker[test["index"] == i].mean(0) for i in range(LENGTH)]
plots.heatmap(
    axes[2], torch.stack(shown).nan_to_num(), f"Head {layer}.{head} from the {asker_name} token",
    x="attended token", y="index asked for", y_ticks=range(LENGTH), limits=(0, 1),
    x_ticks=[{"v": "·", "i": "i", "n": "n"}.get(c, c) for c in layout],
)  # fmt: skip
plots.bars(
    axes[3], kept, "Answers right with the attention edited", highlight=["asked cut", "new answer"],
    y="share", marks={"guess": metrics["guess_from_elements"]},
)  # fmt: skip
plots.heatmap(
    axes[4], travel, "Answer becomes that of the patched-in program", x="patched tokens",
    y="patched before layer", x_ticks=list(groups), y_ticks=[*range(LAYERS), "end"], limits=(0, 1),
    numbers=True,
)  # fmt: skip
by_index = [accuracy(clean[test["index"] == i], answers[test["index"] == i]) for i in range(LENGTH)]
by_index_one = one(tokens)[:, -1].argmax(-1).eq(answers).float().detach()
plots.bars(
    axes[5], {str(i): by_index[i] for i in range(LENGTH)}, "Accuracy by index", y="accuracy",
    marks={"one layer": by_index_one.mean().item()},
)  # fmt: skip
axes[5].set_xlabel("index asked for", fontsize=9)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
