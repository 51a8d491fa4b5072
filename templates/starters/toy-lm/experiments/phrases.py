"""Which neurons complete a three-token phrase, and how? A one-layer model on real text.

    python experiment.py            the run that expected.json describes
    python experiment.py --seed 1   another model

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## a, b, therefore c
#
# In some phrases the third token is likely after the first two and unlikely after the second alone. A bigram
# table cannot do that. A head can bring the first token along, but then its evidence for c is the same
# whatever b is (skip-trigrams: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits). To
# insist on both tokens takes something nonlinear: the MLP. Gurnee et al. (2023, arXiv:2305.01610) find early
# neurons of larger models that serve many n-grams at once. Which neurons do it here, and are they shared?

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.text import bigram_log_probs, documentation, load_corpus
from lab.train import train

# %% knobs
SEED = 0  # weights, batches, random tokens and random neurons
D_MODEL = 48  # width of the residual stream
D_MLP = 96  # neurons in a layer
HEADS = 4  # attention heads in a layer
VOCABULARY = 512  # tokens: frequent words whole, the rest spelled in characters
LENGTH = 32  # tokens in a window
BATCH = 64  # windows in a step
STEPS = 220  # training steps
LR = 1e-2  # AdamW, cosine down to zero
WEIGHT_DECAY = 0.1  # decoupled, of AdamW
ROWS = 200  # held-out windows, for the loss and the mean activations
PHRASES = 12  # phrases to study
CONTEXTS = 24  # texts for each phrase; half find the neurons, half test them
TOP = 6  # neurons taken for each phrase

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Text, model, training
#
# Python's own documentation, so that nothing is downloaded. GELU neurons, rotary positions (so the residual
# stream holds tokens only), and a tenth of the documents held out.

# %%
corpus = load_corpus(documentation(), VOCABULARY)
word = corpus.tokenizer.token
test = corpus.held_out(10**9, LENGTH)[::6][:ROWS].to(device)  # from all held-out documents
fit = corpus.batch(ROWS, LENGTH, torch.Generator().manual_seed(SEED + 1)).to(device)


def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=1, n_ctx=LENGTH,
        d_vocab=VOCABULARY, d_mlp=D_MLP, act_fn="gelu", attn_only=False, normalization_type="LN",
        positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Next-token loss in nats, [row, position - 1]."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


model = build()
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    tokens = corpus.batch(BATCH, LENGTH, generator).to(device)
    return losses(model(tokens), tokens).mean()


train(model, loss_at, steps=STEPS, lr=LR, weight_decay=WEIGHT_DECAY, decay=True)

# %% [markdown]
# ### Phrases, from counts alone
#
# P(c | a, b) at least 0.5, P(c | b) at most 0.2, twice CONTEXTS occurrences, and one phrase for each
# c. The list owes nothing to the model. The most frequent ones are taken. Many are pieces of words, as the
# small vocabulary spells most words in letters: gluing the pieces is what language models do first.

# %%
stream, V = corpus.train, VOCABULARY
word = corpus.tokenizer.token
pair = stream[:-1] * V + stream[1:]
triple, counts = (pair[:-1] * V + stream[2:]).unique(return_counts=True)
pair_counts = torch.bincount(pair, minlength=V * V)
bigram = bigram_log_probs(stream, V)
after_two = counts / pair_counts[triple // V]
after_one = bigram[triple // V % V, triple % V].exp()
good = (after_two > 0.5) & (after_one < 0.2) & (counts >= 2 * CONTEXTS) & (triple >= V * V)
phrases: list[tuple[int, int, int]] = []
for code in triple[good][counts[good].argsort(descending=True)].tolist():
    a, b, c = code // (V * V), code // V % V, code % V
    if all(c != p[2] for p in phrases):
        phrases.append((a, b, c))
phrases = phrases[:PHRASES]
titles = ["".join(word(t) for t in phrase) for phrase in phrases]

# %% [markdown]
# ### Contexts, and the three ways to spoil them
#
# Real windows that end in a, b. For the controls a, b or both are replaced by tokens drawn from the text. The
# interaction is logit(ab) - logit(xb) - logit(ax) + logit(xx) for c: what only both together bring.

# %%
dice = torch.Generator().manual_seed(SEED + 1)
windows = []  # [phrase] of [context, LENGTH]
for a, b, c in phrases:
    here = (stream[LENGTH - 2 : -2] == a) & (stream[LENGTH - 1 : -1] == b) & (stream[LENGTH:] == c)
    ends = here.nonzero()[:, 0]
    ends = ends[torch.randperm(len(ends), generator=dice)[:CONTEXTS]] + LENGTH
    windows.append(stream[ends[:, None] + torch.arange(-LENGTH, 0)])
ab = torch.stack(windows).to(device)  # [phrase, context, position]
ab[..., 0] = corpus.tokenizer.start
random_tokens = stream[torch.randint(len(stream), (2, *ab.shape[:2]), generator=dice)].to(device)
xb, ax, xx = ab.clone(), ab.clone(), ab.clone()
xb[..., -2] = xx[..., -2] = random_tokens[0]
ax[..., -1] = xx[..., -1] = random_tokens[1]
conditions = {"a b": ab, "x b": xb, "a x": ax, "x x": xx}
target = torch.tensor([p[2] for p in phrases], device=device)


def at_end(values: torch.Tensor) -> torch.Tensor:
    """The last position, as [phrase, context, ...]."""
    return values[:, -1].unflatten(0, ab.shape[:2])


def of_c(logits: torch.Tensor) -> torch.Tensor:
    """From logits [phrase, context, token] the one of each phrase's c, [phrase, context]."""
    return logits.gather(-1, target[:, None, None].expand(*ab.shape[:2], 1))[..., 0]


def interaction(of: dict[str, torch.Tensor]) -> torch.Tensor:
    return of["a b"] - of["x b"] - of["a x"] + of["x x"]


# %%
untrained = build()
model.enable_compatibility_mode()  # folds LayerNorm and centres the unembedding; once only
POST, Z = "blocks.0.mlp.hook_post", "blocks.0.attn.hook_z"
with torch.no_grad():
    logits, caches = {}, {}
    for name, tokens in conditions.items():
        out, caches[name] = model.run_with_cache(tokens.flatten(0, 1))
        logits[name] = at_end(out)
    plain = {name: at_end(untrained(tokens.flatten(0, 1))) for name, tokens in conditions.items()}
    average = model.run_with_cache(test, names_filter=[POST, Z])[1]
    mean_post, mean_z = average[POST].mean((0, 1)), average[Z].mean((0, 1))
    held_out = losses(model(test), test).mean().item()
log_prob = of_c(logits["a b"].log_softmax(-1))  # [phrase, context]
by_bigram = torch.stack([bigram[b, c] for a, b, c in phrases]).to(device)
centred_c = {name: of_c(out - out.mean(-1, keepdim=True)) for name, out in logits.items()}
whole = interaction(centred_c).mean(1)  # [phrase]
whole_untrained = interaction({k: of_c(v - v.mean(-1, keepdim=True)) for k, v in plain.items()}).mean(1)

# %% [markdown]
# ### Split the interaction: heads and direct path against neurons
#
# A logit is a sum of writes, divided by the final LayerNorm scale. Each neuron's term is its activation times
# `W_out @ W_U[:, c]`. What is left over is the heads' (softmax attention is not quite additive) and the
# scale's.

# %%
says = (model.W_out[0] @ model.W_U)[:, target].T.detach()  # [phrase, neuron]
post = {name: at_end(cache["post", 0]) for name, cache in caches.items()}
scale = {name: at_end(cache["ln_final.hook_scale"]) for name, cache in caches.items()}
terms = {name: post[name] * says[:, None] / scale[name] for name in conditions}  # [phrase, context, neuron]
by_neuron = interaction(terms)  # of the same shape
half = CONTEXTS // 2
chosen = by_neuron[:, :half].mean(1).topk(TOP).indices  # [phrase, TOP], found on half of the contexts
best = by_neuron.mean(1).sort(descending=True).values.clamp_min(0)
concentration = (best[:, :TOP].sum(-1) / best.sum(-1).clamp_min(1e-9)).mean().item()

# %% [markdown]
# ### Ablate on the other half of the contexts
#
# Mean-ablate the phrase's own neurons; as many random ones; as many random ones of those with the largest
# write at this place; each head; all neurons. And the own neurons again while the model reads other phrases.


# %%
@torch.no_grad()
def drop(phrase: int, hook_name: str, units: list[int], replacement: torch.Tensor) -> float:
    """Fall of log P(c) in nats on the test contexts, with some units set to their mean."""

    def ablate(value: torch.Tensor, hook) -> torch.Tensor:
        value = value.clone()
        value[:, -1, units] = replacement[units]
        return value

    out = model.run_with_hooks(ab[phrase, half:], fwd_hooks=[(hook_name, ablate)])[:, -1]
    after = out.log_softmax(-1)[:, target[phrase]]
    return (log_prob[phrase, half:] - after).mean().item()


everyone = list(range(len(phrases)))
table = {"own": [], "random": [], "as active": [], "other phrase's": [], "all": []}
for p in everyone:
    own = chosen[p].tolist()
    rest = [n for n in torch.randperm(D_MLP, generator=dice).tolist() if n not in own]
    size = (post["a b"][p].mean(0) - mean_post).abs() * model.W_out[0].detach().norm(dim=-1)
    active = [n for n in size.argsort(descending=True).tolist() if n not in own][: 3 * TOP]
    active = [active[i] for i in torch.randperm(len(active), generator=dice)[:TOP].tolist()]
    table["own"].append(drop(p, POST, own, mean_post))
    table["random"].append(drop(p, POST, rest[:TOP], mean_post))
    table["as active"].append(drop(p, POST, active, mean_post))
    table["other phrase's"].append(drop(p, POST, chosen[p - 1].tolist(), mean_post))
    table["all"].append(drop(p, POST, list(range(D_MLP)), mean_post))
heads = torch.tensor([[drop(p, Z, [h], mean_z) for h in range(HEADS)] for p in everyone])  # [phrase, head]
looks = torch.stack([caches["a b"]["pattern", 0][:, h, -1, -2].unflatten(0, ab.shape[:2]).mean(1)
                     for h in range(HEADS)], dim=1)  # fmt: skip
drops = {name: torch.tensor(values) for name, values in table.items()}
with torch.no_grad():
    same = model.run_with_hooks(ab[0], fwd_hooks=[(POST, lambda value, hook: value.clone())])[:, -1]
shared = torch.stack([(chosen == n).any(1).sum() for n in range(D_MLP)])  # phrases that each neuron serves
used = shared[shared > 0].float()
metrics = {
    "loss": held_out,
    "phrase_gain": (log_prob.mean(1) - by_bigram).mean().item(),
    "interaction": whole.mean().item(),
    "interaction_untrained": whole_untrained.abs().mean().item(),
    "mlp_share": (by_neuron.sum(-1).mean(1).mean() / whole.mean().clamp_min(0.1)).item(),
    "top_neurons_share": concentration,
    "drop_own": drops["own"].mean().item(),
    "drop_random": drops["random"].mean().item(),
    "drop_as_active": drops["as active"].mean().item(),
    "drop_other_phrase": drops["other phrase's"].mean().item(),
    "drop_all_neurons": drops["all"].mean().item(),
    "drop_best_head": heads.max(1).values.mean().item(),
    "attention_to_a": looks.max(1).values.mean().item(),
    "phrases_per_neuron": used.mean().item(),
    "noop_change": (same - logits["a b"][0]).abs().max().item(),
}

# %% [markdown]
# ### How one neuron does it, from the weights
#
# For the phrase with the largest interaction: pushes on the pre-activation from b's embedding and from a
# through the heads (OV, times the attention really paid), for its first neuron.

# %%
star = int(whole.argmax())
first = int(chosen[star, 0])
a, b, c = phrases[star]
W_in = model.W_in[0, :, first].detach()
ln2 = at_end(caches["a b"]["blocks.0.ln2.hook_scale"])[star].mean()
with torch.no_grad():
    embedded = model.blocks[0].ln1(model.W_E.detach())
    ov = torch.stack([embedded @ model.W_V[0, h] @ model.W_O[0, h] @ W_in for h in range(HEADS)])
    common = torch.bincount(stream, minlength=V).float().to(device)
    ov = ov - (ov * common).sum(-1, keepdim=True) / common.sum()
    direct = model.W_E @ W_in
    direct = direct - (direct * common).sum() / common.sum()
pushes = {f"b = {word(b)}, direct": (direct[b] / ln2).item()}
for h in range(HEADS):
    pushes[f"a, head {h}"] = (looks[star, h] * ov[h, a] / ln2).item()
pre = {name: at_end(cache["pre", 0])[star, :, first].cpu() for name, cache in caches.items()}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"{len(phrases)} three-token phrases and the neurons that complete them")
spots = torch.arange(len(phrases))
axes[0].barh(spots - 0.2, log_prob.mean(1).cpu(), 0.36, color=plots.COLOURS[1], label="the model")
axes[0].barh(spots + 0.2, by_bigram.cpu(), 0.36, color="0.6", label="bigram table")
axes[0].set_yticks(spots, titles)
axes[0].invert_yaxis()
axes[0].set_xlim(1.6 * min(log_prob.mean(1).min().item(), by_bigram.min().item()), 0)
axes[0].legend(fontsize=8, frameon=False, loc="lower left")
plots.label(axes[0], "Log-probability of the third token", "nats")
axes[1].barh(spots - 0.2, whole.cpu(), 0.36, color=plots.COLOURS[1], label="all")
axes[1].barh(spots + 0.2, by_neuron.sum(-1).mean(1).cpu(), 0.36, color="0.6", label="neurons alone")
axes[1].set_yticks(spots, titles)
axes[1].invert_yaxis()
axes[1].legend(fontsize=8, frameon=False)
plots.label(axes[1], "Interaction of a and b", "logit of c (nats)")
for place, values in enumerate(pre.values()):
    axes[2].scatter(torch.full_like(values, place), values, s=14, alpha=0.6, color=plots.COLOURS[place])
axes[2].axhline(0, color="0.5", linewidth=0.8, linestyle=":")
axes[2].set_xticks(range(4), list(pre))
plots.label(axes[2], f"Neuron {first} on '{titles[star]}'", "last two tokens (x: random)", "pre-activation")
plots.bars(axes[3], pushes, f"What pushes neuron {first}, from the weights", y="pre-activation",
           highlight=[f"b = {word(b)}, direct"])  # fmt: skip
shown = {f"{TOP} own": metrics["drop_own"], "other phrase's": metrics["drop_other_phrase"],
         "random": metrics["drop_random"], "random active": metrics["drop_as_active"],
         "best head": metrics["drop_best_head"], "all neurons": metrics["drop_all_neurons"]}  # fmt: skip
plots.bars(axes[4], shown, "Ablation at the last token", y="log P(c) falls by", highlight=[f"{TOP} own"])
order = shared.argsort(descending=True)[:20]
axes[5].bar(range(len(order)), shared[order].cpu(), color=plots.COLOURS[0])
axes[5].set_xticks(range(len(order)), [str(n) for n in order.tolist()], rotation=90)
plots.label(axes[5], f"Phrases served by each neuron (of {len(phrases)})", "neuron", "phrases")
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
