"""Paths in small trees: a transformer follows pointers, one edge at a time.

    python experiment.py                            the run that expected.json describes
    python experiment.py --edges parent-child       another input format: does the circuit change?
    python experiment.py --seed 1                   another seed

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## From a node to the root
#
# A tree is written down as a list of edges in random order, then a node; the model must write the path
# from that node up to the root. Each step is a look-up: find the edge that starts at the current node,
# and say where it leads. Brinkmann et al. (2024, arXiv:2402.11917) found such backward chaining in a
# transformer trained on trees. Two layers can do a look-up much as they do induction: one head tells each
# place what stood beside it, another finds the place by that. One layer cannot.

# %%
from functools import partial

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import heads, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # weights and data
EDGES = "child-parent"  # how an edge is written: child-parent or parent-child
NODES = 7  # nodes of a tree
LABELS = 12  # names that nodes are drawn from
LAYERS = 2  # layers of the main model; a one-layer model is always trained beside it
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
BATCH = 64  # trees in a step
STEPS = 400  # training steps
LR = 5e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: edges in random order, a bar, the deepest node, and its path to the root
#
# `wanted[row, position]` marks where the next token is a step of the path; the loss is taken there.

# %%
COMMA, BAR, PAD = LABELS, LABELS + 1, LABELS + 2
LENGTH = 3 * (NODES - 1) + 1 + NODES  # edges with commas, the bar, the longest path


def sample(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Tokens [row, position], the mask of path steps, and each tree's parents and edge places."""
    names = torch.rand(rows, LABELS, generator=generator).argsort(-1)[:, :NODES]
    draws = torch.rand(rows, NODES, generator=generator)
    parent = (draws * torch.arange(NODES)).long()  # the parent of node i is one of 0 .. i - 1
    depth = torch.zeros(rows, NODES, dtype=torch.long)
    for node in range(1, NODES):
        depth[:, node] = depth.gather(1, parent[:, node : node + 1])[:, 0] + 1
    order = torch.rand(rows, NODES - 1, generator=generator).argsort(-1) + 1  # edges, by their child
    child_names = names.gather(1, order)
    parent_names = names.gather(1, parent.gather(1, order))
    first, second = (child_names, parent_names) if EDGES == "child-parent" else (parent_names, child_names)
    tokens = torch.full((rows, LENGTH), PAD)
    start = 3 * (NODES - 1)
    tokens[:, 0:start:3], tokens[:, 1:start:3], tokens[:, 2:start:3] = first, second, COMMA
    tokens[:, start] = BAR
    # which edge, in the order written, belongs to each node: where a look-up must end
    edge = torch.zeros(rows, NODES, dtype=torch.long)
    edge.scatter_(1, order, torch.arange(NODES - 1).expand(rows, -1))
    node = depth.argmax(-1)
    wanted = torch.zeros(rows, LENGTH - 1, dtype=torch.bool)
    target = torch.full((rows, LENGTH - 1), -1)
    for step in range(NODES):
        here = start + 1 + step
        alive = (node >= 0) if step else torch.ones(rows, dtype=torch.bool)
        current = node.clamp_min(0)
        tokens[alive, here] = names[alive, current[alive]]
        more = alive & (node > 0)  # the root has no edge
        if here < LENGTH - 1:
            wanted[more, here] = True
            target[more, here] = edge[more, current[more]]
        up = parent.gather(1, current[:, None])[:, 0]
        node = torch.where(more, up, torch.full_like(node, -1))
    out = {"tokens": tokens, "wanted": wanted, "target": target}
    return {name: value.to(device) for name, value in out.items()}


test = sample(512, torch.Generator().manual_seed(10_000 + SEED))
tokens, wanted, target = test["tokens"], test["wanted"], test["target"]
LABEL = [chr(97 + n) for n in range(LABELS)] + [",", "|", "_"]
print("one tree:", " ".join(LABEL[t] for t in tokens[0].tolist()))

# %% [markdown]
# ### Train it, and a one-layer model on the same trees


# %%
def build(layers: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=layers, n_ctx=LENGTH,
        d_vocab=LABELS + 3, attn_only=True, normalization_type="LN", positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def path_loss(logits: torch.Tensor, trees: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean loss (nats) over the steps of the paths."""
    return F.cross_entropy(logits[:, :-1][trees["wanted"]], trees["tokens"][:, 1:][trees["wanted"]])


def step_accuracy(logits: torch.Tensor) -> float:
    right = logits[:, :-1].argmax(-1) == tokens[:, 1:]
    return right[wanted].float().mean().item()


def whole_paths(logits: torch.Tensor) -> float:
    """Share of trees whose every step is right."""
    right = (logits[:, :-1].argmax(-1) == tokens[:, 1:]) | ~wanted
    return right.all(-1).float().mean().item()


def fit(layers: int, steps: int) -> tuple[TransformerBridge, dict[str, list[float]]]:
    model = build(layers)
    generator = torch.Generator().manual_seed(SEED)

    def loss_at(step: int) -> torch.Tensor:
        trees = sample(BATCH, generator)
        return path_loss(model(trees["tokens"]), trees)

    def evaluate() -> dict[str, float]:
        return {"step_accuracy": step_accuracy(model(tokens))}

    return model, train(
        model, loss_at, steps=steps, lr=LR, weight_decay=0.01, decay=True, evaluate=evaluate,
        every=max(1, steps // 40), label=f"{layers} layer(s)",
    )  # fmt: skip


one, history_one = fit(1, STEPS)
model, history = fit(LAYERS, STEPS)

# %% [markdown]
# ### Which head looks the parent up?
#
# At each step of the path there is one right place to look: the current node's edge, which is three
# tokens wide (two nodes and a comma; a comma can hold what earlier heads gathered about its edge).

# %%
with torch.no_grad():
    logits, cache = model.run_with_cache(tokens)
    one_logits, one_cache = one.run_with_cache(tokens)
    _, random_cache = build(LAYERS).run_with_cache(tokens)
right_edge = F.one_hot(target.clamp_min(0), NODES - 1).bool() & wanted[..., None]  # [row, query, edge]
keys = F.pad(right_edge.repeat_interleave(3, -1), (0, LENGTH - 3 * (NODES - 1), 0, 1))  # [row, query, key]


def lookup_scores(activations, layers: int) -> torch.Tensor:
    """Attention from each path step to the right edge, [layer, head]."""
    return torch.stack([heads.attention_to(activations["pattern", l], keys) for l in range(layers)])


lookup = lookup_scores(cache, LAYERS)
neighbour = torch.stack([heads.previous_token_score(cache["pattern", l], tokens) for l in range(LAYERS)])
layer, head = divmod(int(lookup.argmax()), HEADS)
metrics = {
    "step_accuracy": step_accuracy(logits),
    "whole_paths": whole_paths(logits),
    "one_layer_accuracy": step_accuracy(one_logits),
    "lookup_score": lookup.max().item(),
    "lookup_score_one_layer": lookup_scores(one_cache, 1).max().item(),
    "lookup_score_untrained": lookup_scores(random_cache, LAYERS).max().item(),
}
print(f"look-up head {layer}.{head}")

# %% [markdown]
# ### Ablate the look-up heads
#
# Mean ablation of `hook_z`: all look-up heads, one of them only, and the layer that feeds them.


# %%
def mean_ablate(z: torch.Tensor, hook: HookPoint, head: int) -> torch.Tensor:
    """z: [row, position, head, d_head]."""
    z[:, :, head] = z[:, :, head].mean(dim=(0, 1), keepdim=True)
    return z


@torch.no_grad()
def accuracy_without(group: list) -> float:
    hooks = [(f"blocks.{l}.attn.hook_z", partial(mean_ablate, head=h)) for l, h in group]
    return step_accuracy(model.run_with_hooks(tokens, fwd_hooks=hooks))


finders = [tuple(pair) for pair in (lookup > 0.5 * lookup.max()).nonzero().tolist()]
first_layer = [(0, h) for h in range(HEADS)]
with torch.no_grad():
    noop = model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z)])
conditions = {
    "as it is": metrics["step_accuracy"],
    "no look-up": accuracy_without(finders),
    "no single head": accuracy_without([finders[0]]),
    "no layer 0": accuracy_without(first_layer),
}
metrics["without_lookup"] = conditions["no look-up"]
metrics["without_one"] = conditions["no single head"]
metrics["without_layer_0"] = conditions["no layer 0"]
metrics["noop_change"] = (noop - logits).abs().max().item()

# %% [markdown]
# ### Redirect it: is the attention the pointer?
#
# Swap, in every head of the look-up layer, the attention to the right edge with that to another edge. If
# it is the pointer, the answer becomes the other edge's parent, wrong as it is.

# %%
pick = torch.randint(NODES - 1, target.shape, generator=torch.Generator().manual_seed(SEED)).to(device)


def swap_edges(pattern: torch.Tensor, hook: HookPoint, other: torch.Tensor) -> torch.Tensor:
    """pattern: [row, head, query, key]; at path steps the two edges' columns change places."""
    for part in range(3):
        mine, theirs = 3 * target.clamp_min(0) + part, 3 * other + part  # [row, query]
        index = torch.stack([mine, theirs], -1)[:, None].expand(-1, HEADS, -1, -1)
        both = pattern[:, :, :-1].gather(-1, index)
        swapped = pattern[:, :, :-1].scatter(-1, index, both.flip(-1))
        pattern[:, :, :-1] = torch.where(wanted[:, None, :, None], swapped, pattern[:, :, :-1])
    return pattern


@torch.no_grad()
def answers_when(other: torch.Tensor) -> torch.Tensor:
    hook = (f"blocks.{layer}.attn.hook_pattern", partial(swap_edges, other=other))
    return model.run_with_hooks(tokens, fwd_hooks=[hook])[:, :-1].argmax(-1)


named = tokens.gather(1, 3 * pick + (1 if EDGES == "child-parent" else 0))  # the other edge's parent
differs = wanted & (named != tokens[:, 1:])
metrics["follows_redirect"] = (answers_when(pick) == named)[differs].float().mean().item()
metrics["not_redirected"] = (logits[:, :-1].argmax(-1) == named)[differs].float().mean().item()

# %%
fig, axes = plots.figure(2, 3, f"Paths in trees, edges written {EDGES}")
curves = {"step": history["step"], f"{LAYERS} layers": history["step_accuracy"]}
curves["1 layer"] = history_one["step_accuracy"]
plots.loss_curves(
    axes[0], curves, [f"{LAYERS} layers", "1 layer"], title="Steps of the path right", y="accuracy",
    log=False, marks={"guessing a node of the tree": 1 / NODES},
)  # fmt: skip
text = [LABEL[t] for t in tokens[0].tolist()]
plots.heatmap(
    axes[1], cache["pattern", layer][0, head][3 * (NODES - 1) :], f"Look-up head {layer}.{head}, one tree",
    x="edges, bar, path", y="path", x_ticks=text, y_ticks=text[3 * (NODES - 1) :], limits=(0, 1),
)  # fmt: skip
axes[1].tick_params(labelsize=6)
plots.heatmap(
    axes[2], torch.cat([lookup, neighbour]), "Head scores", x="head", limits=(0, 1), numbers=True,
    y_ticks=[f"look-up {l}" for l in range(LAYERS)] + [f"previous {l}" for l in range(LAYERS)],
)  # fmt: skip
plots.bars(
    axes[3], conditions, "Steps right, heads mean-ablated", y="accuracy", highlight=["no look-up"],
    marks={"guessing a node of the tree": 1 / NODES},
)  # fmt: skip
plots.bars(
    axes[4],
    {"attention swapped": metrics["follows_redirect"], "as it is": metrics["not_redirected"]},
    "Answer is another edge's parent", y="share", highlight=["as it is"],
)  # fmt: skip
by_step = [(logits[:, :-1].argmax(-1) == tokens[:, 1:])[:, 3 * (NODES - 1) + 1 + s] for s in range(NODES - 2)]
masks = [wanted[:, 3 * (NODES - 1) + 1 + s] for s in range(NODES - 2)]
steps_right = {
    str(s + 1): right[mask].float().mean().item()
    for s, (right, mask) in enumerate(zip(by_step, masks, strict=True))
    if mask.sum() >= 5
}
plots.bars(axes[5], steps_right, "Accuracy by step of the path", y="accuracy")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
