"""How much of one head's attention comes from another head: its score split by source, on real inputs.

    python experiment.py                 the run that expected.json describes
    python experiment.py --seed 1        another seed: other heads, same story
    python experiment.py --heads 2       fewer heads: does one source now do all the work?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Who tells a head where to look?
#
# With LayerNorm's scale taken as given, a head's attention score is bilinear in the residual stream: a
# sum over pairs (source at the query, source at the key). So it splits exactly into a table, source by
# source. Here the table of an induction head is made, checked against the model's own pattern, and tested
# by swapping sources. Weights say which heads could talk to each other (Elhage et al. 2021); this says
# which do.

# %%
import math

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
LAYERS = 3  # attention layers
HEADS = 4  # heads in each layer
D_MODEL = 64  # width of the residual stream
VOCABULARY = 32  # random tokens to draw blocks from
SHORTEST = 6  # shortest period, in tokens
LONGEST = 15  # longest period, in tokens
LENGTH = 32  # tokens in a row
BATCH = 64  # rows in a step
STEPS = 350  # training steps
LR = 5e-3  # AdamW, cosine down to zero

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Data and model: repeated random blocks
#
# A task whose circuit is known: a previous-token head feeds the keys of an induction head (Olsson et al.
# 2022, arXiv:2209.11895). So the right answer can be looked up, and the tool tested.


# %%
def sample(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [row, position] and the mask of determined next tokens [row, position - 1]."""
    periods = torch.randint(SHORTEST, LONGEST + 1, (rows, 1), generator=generator)
    block = torch.rand(rows, VOCABULARY, generator=generator).argsort(-1)  # distinct tokens
    position = torch.arange(LENGTH)
    tokens = block.gather(1, position % periods)
    return tokens.to(device), (position[1:] >= periods).to(device)


def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH,
        d_vocab=VOCABULARY, attn_only=True, normalization_type="LN",
        positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def repeat_loss(logits: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in nats on the held-out rows, where the next token is determined."""
    return F.cross_entropy(logits[:, :-1][determined], held_out[:, 1:][determined])


held_out, determined = sample(128, torch.Generator().manual_seed(10_000 + SEED))
model = build()
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    tokens, mask = sample(BATCH, generator)
    return F.cross_entropy(model(tokens)[:, :-1][mask], tokens[:, 1:][mask])


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, decay=True,
    evaluate=lambda: {"held_out": repeat_loss(model(held_out)).item()}, every=max(1, STEPS // 40),
)  # fmt: skip

# %% [markdown]
# ### Choose the head to explain
#
# B is the head with the best induction score above the first layer. `right` marks, for every query whose
# token has occurred before, the keys just after the earlier copies; `wrong` all other earlier keys.

# %%
with torch.no_grad():
    _, cache = model.run_with_cache(held_out)
right = heads.induction_keys(held_out)  # [row, query, key]
wrong = heads.earlier(held_out) & ~right
queries = right.any(-1) & wrong.any(-1)  # [row, query]
induction = torch.stack([heads.induction_score(cache["pattern", l], held_out) for l in range(LAYERS)])
previous = torch.stack([heads.previous_token_score(cache["pattern", l], held_out) for l in range(LAYERS)])
LAYER, HEAD = divmod(int(induction[1:].argmax()) + HEADS, HEADS)
print(f"head {LAYER}.{HEAD}: induction score {induction[LAYER, HEAD]:.2f}")

# %% [markdown]
# ### The sources: everything that was written into the residual stream before B reads it
#
# The embedding, each earlier head, and the output biases. Their sum must be `resid_pre`.

# %%
block = model.blocks[LAYER]
earlier_heads = [(l, h) for l in range(LAYER) for h in range(HEADS)]
names = ["embed", *(f"{l}.{h}" for l, h in earlier_heads), "bias"]
with torch.no_grad():
    writes = [cache["z", l][:, :, h] @ model.W_O[l, h] for l, h in earlier_heads]
    bias = sum(model.blocks[l].attn.b_O for l in range(LAYER)).expand_as(writes[0])
    sources = torch.stack([cache["embed"], *writes, bias])  # [source, row, position, d_model]
    sources_error = (sources.sum(0) - cache["resid_pre", LAYER]).abs().max().item()

# %% [markdown]
# ### Split queries and keys by source, and multiply out
#
# LayerNorm centres each source and divides it by one common scale; its own bias goes to the last source.
# Rotary positions (Su et al. 2021, arXiv:2104.09864) turn queries and keys by their position: linear too.


# %%
def split(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Each source's part of B's queries or keys, rotated: [source, row, position, d_head]."""
    scale = (cache["resid_pre", LAYER].var(-1, unbiased=False, keepdim=True) + model.cfg.eps).sqrt()
    normed = (sources - sources.mean(-1, keepdim=True)) / scale * block.ln1.weight
    parts = normed @ weight
    parts[-1] += block.ln1.bias @ weight + bias
    return rotate(parts)


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Turn dimensions (2i, 2i + 1) at position p by the angle p / 10000^(2i / d_head)."""
    frequency = model.cfg.rotary_base ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    angle = torch.outer(torch.arange(x.shape[-2]), frequency).to(x)
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = (even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin())
    return torch.stack(turned, dim=-1).flatten(-2)


with torch.no_grad():
    attn = block.attn
    q_parts = split(attn.W_Q[HEAD], attn.b_Q.view(HEADS, -1)[HEAD])
    k_parts = split(attn.W_K[HEAD], attn.b_K.view(HEADS, -1)[HEAD])
    scores = torch.einsum("srqd,trkd->strqk", q_parts, k_parts) / math.sqrt(D_MODEL // HEADS)
    total = scores.sum(dim=(0, 1)).masked_fill(~torch.ones(LENGTH, LENGTH).tril().bool().to(device), -1e9)
    pattern_error = (total.softmax(-1) - cache["pattern", LAYER][:, HEAD]).abs().max().item()


def mean_over(keys: torch.Tensor) -> torch.Tensor:
    """The score table [query source, key source], averaged over ``keys`` of the chosen queries."""
    per_query = (scores * keys).sum(-1) / keys.sum(-1).clamp_min(1)
    return per_query[..., queries].mean(-1)


table = mean_over(right) - mean_over(wrong)  # softmax sees differences only
by_key = table.sum(0)  # [source]: how much the keys' sources favour the right key

# %% [markdown]
# ### Swap sources in the keys
#
# Recompute B's keys with one source taken from another row, LayerNorm and all, and write them into
# `hook_k`. (Before the rotation: on a native bridge `hook_k` comes first.) A stronger test than removal
# is to *redirect*: move the source one place earlier, so that position k says "I follow token k". If this
# source is what B reads, B must now attend to the earlier copy itself, not to the token after it: it
# becomes a duplicate-token head.

# %%
duplicate = heads.duplicate_token_keys(held_out)


@torch.no_grad()
def with_keys(replaced: torch.Tensor) -> tuple[float, float, float]:
    """Attention on the right keys, attention on the copies, and loss, with B's keys from ``replaced``."""
    keys = block.ln1(replaced.sum(0)) @ attn.W_K[HEAD] + attn.b_K.view(HEADS, -1)[HEAD]
    seen = {}

    def write(k: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        k = k.clone()
        k.view(*k.shape[:2], HEADS, -1)[:, :, HEAD] = keys
        return k

    def read(pattern: torch.Tensor, hook: HookPoint) -> None:
        seen["pattern"] = pattern

    hooks = [(f"blocks.{LAYER}.attn.hook_k", write), (f"blocks.{LAYER}.attn.hook_pattern", read)]
    loss = repeat_loss(model.run_with_hooks(held_out, fwd_hooks=hooks)).item()
    to_right, to_copy = (
        heads.attention_to(seen["pattern"], keys)[HEAD].item() for keys in (right, duplicate)
    )
    return to_right, to_copy, loss


def changed(which: list[int], how: str) -> torch.Tensor:
    """The sources with some of them taken from the next row, or from the next position."""
    result = sources.clone()
    for index in which:
        result[index] = sources[index].roll(1, 0) if how == "row" else sources[index].roll(-1, 1)
    return result


plain = with_keys(sources)
with torch.no_grad():
    clean_loss = repeat_loss(model(held_out)).item()
head_indices = list(range(1, len(names) - 1))
swapped = [with_keys(changed([i], "row")) for i in range(len(names))]
loss_of_attention = torch.tensor([plain[0] - result[0] for result in swapped])
top = max(head_indices, key=lambda i: by_key[i].item())
bottom = min(head_indices, key=lambda i: abs(by_key[i].item()))
ranked_heads = sorted(head_indices, key=lambda i: -by_key[i].item())
half = len(ranked_heads) // 2
redirected = {
    "unchanged": plain,
    "top head": with_keys(changed(ranked_heads[:1], "position")),
    "top half": with_keys(changed(ranked_heads[:half], "position")),
    "lower half": with_keys(changed(ranked_heads[half:], "position")),
    "all heads": with_keys(changed(head_indices, "position")),
}
# of the attention on the copy and on the token after it, the part on the copy
on_copy = {name: copy / max(copy + after, 1e-9) for name, (after, copy, _) in redirected.items()}
no_heads = with_keys(changed(head_indices, "row"))

# %% [markdown]
# ### Would a cheaper measure have told the same?
#
# The length of a write says nothing about whether B looks there; the composition score looks at B's weights,
# but not at what the model really writes.

# %%
length = (sources - sources.mean(dim=(1, 2), keepdim=True)).norm(dim=-1).mean(dim=(1, 2))
weights = model.all_composition_scores("K").scores.detach()[:LAYER, :, LAYER, HEAD].flatten()


def rank_of_top(values: torch.Tensor) -> float:
    """Where the head that swapping shows to matter most stands in another ranking (1 = on top)."""
    effects = loss_of_attention[head_indices]
    return float((values > values[effects.argmax()]).sum() + 1)


metrics = {
    "induction_score": plain[0],
    "sources_error": sources_error,
    "pattern_error": pattern_error,
    "heads_share": (by_key[head_indices].sum() / by_key.sum()).item(),
    "top_half_share": (by_key[ranked_heads[:half]].sum() / by_key[head_indices].sum()).item(),
    "embed_query_share": (table[0, head_indices].sum() / table[:, head_indices].sum()).item(),
    "rank_in_table": rank_of_top(by_key[head_indices]),
    "rank_in_weights": rank_of_top(weights),
    "rank_in_length": rank_of_top(length[head_indices]),
    "swap_top": swapped[top][0],
    "swap_bottom": swapped[bottom][0],
    "swap_all_heads": no_heads[0],
    "copy_share_before": on_copy["unchanged"],
    "copy_share_all": on_copy["all heads"],
    "copy_share_top": on_copy["top half"],
    "copy_share_lower": on_copy["lower half"],
    "noop_change": abs(plain[2] - clean_loss),
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"Where the attention of induction head {LAYER}.{HEAD} comes from")
plots.loss_curves(axes[0], history, ["held_out"], title="Loss where the next token is determined",
                  marks={"guessing": math.log(VOCABULARY)})  # fmt: skip
plots.heatmap(
    axes[1],
    table,
    "Score of right keys less score of wrong keys",
    x="source at the key",
    y="source at the query",
    x_ticks=names,
    y_ticks=names,
    signed=True,
    numbers=len(names) < 8,
)
plots.bars(axes[2], dict(zip(names, by_key.tolist(), strict=True)), "The same, summed over query sources",
           y="attention score", highlight=[names[i] for i in head_indices])  # fmt: skip
plots.bars(
    axes[3],
    dict(zip(names, [s[0] for s in swapped], strict=True)),
    "Attention on right keys, one key source swapped",
    y="attention",
    highlight=[names[i] for i in head_indices],
    marks={"nothing swapped": plain[0], "all heads swapped": no_heads[0]},
)
proxies = torch.stack([by_key[head_indices], length[head_indices], weights])
proxies = proxies / proxies.abs().amax(1, keepdim=True)
plots.heatmap(axes[4], proxies, "Three rankings of the earlier heads (largest = 1)", x="earlier head",
              x_ticks=[names[i] for i in head_indices], y_ticks=["score table", "length", "weights"],
              signed=True, numbers=True)  # fmt: skip
spots = torch.arange(len(redirected))
for offset, colour, index, text in ((-0.2, 0, 0, "token after the copy"), (0.2, 1, 1, "the copy itself")):
    axes[5].bar(spots + offset, [result[index] for result in redirected.values()], 0.4,
                color=plots.COLOURS[colour], label=text)  # fmt: skip
axes[5].set_xticks(spots, list(redirected))
axes[5].set_ylim(0, 1.2)
axes[5].legend(fontsize=8, frameon=False, ncols=2, loc="upper center")
plots.label(axes[5], "Sources in the keys moved one place earlier", "", "attention")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
