"""Find a token that a small language model predicts surprisingly well, and explain how.

    python experiment.py              the run that expected.json describes
    python experiment.py --seed 1     another model: another surprise?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A surprising success
#
# Surprise can be measured: on which tokens does the model beat counting? We train a two-layer
# attention-only model on Python's documentation, set it against bigram and trigram counts on held-out
# text, take the token on which it gains most, and ask which heads, looking where, make the difference.
# Without layer norm every logit is a plain sum over heads, so attribution is exact (Elhage et al. 2021,
# A Mathematical Framework for Transformer Circuits).

# %%
from functools import partial

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.text import bigram_log_probs, documentation, load_corpus
from lab.train import train

# %% knobs
SEED = 0  # weights, batches, and the random heads of the controls
LAYERS = 2  # attention layers
HEADS = 4  # heads in a layer
D_MODEL = 64  # width of the residual stream
VOCABULARY = 512  # tokens: frequent words whole, the rest spelled in characters
LENGTH = 48  # tokens in a window
BATCH = 32  # windows in a step
STEPS = 300  # training steps
LR = 1e-2  # AdamW, cosine down to zero
ROWS = 400  # held-out windows: half to find the surprise, half to test the story
OFTEN = 30  # a token must occur this often in the first half to be a candidate

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Text and model

# %%
corpus = load_corpus(documentation(), VOCABULARY)
word = corpus.tokenizer.token
windows = corpus.held_out(ROWS, LENGTH).to(device)
find, check = windows[::2], windows[1::2]


def build() -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH,
        d_vocab=VOCABULARY, attn_only=True, normalization_type=None, positional_embedding_type="rotary",
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


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.05, clip=1.0, decay=True,
    evaluate=lambda: {"held_out_loss": losses(model(find[:64]), find[:64]).mean().item()},
    every=max(1, STEPS // 30),
)  # fmt: skip

# %% [markdown]
# ### The dumb rivals: bigram and trigram counts
#
# The trigram backs off to the bigram, so that it is never worse by much. The rival at each place is the
# better of the two: a surprise must beat both.

# %%
bigram = bigram_log_probs(corpus.train, VOCABULARY)
pairs = corpus.train[:-2] * VOCABULARY + corpus.train[1:-1]
triples, counts = (pairs * VOCABULARY + corpus.train[2:]).unique(return_counts=True)
contexts, totals = pairs.unique(return_counts=True)


def looked_up(keys: torch.Tensor, table: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Counts of ``keys`` in a sorted table, 0 where absent."""
    place = torch.searchsorted(table, keys).clamp_max(len(table) - 1)
    return torch.where(table[place] == keys, values[place], torch.zeros_like(values[place]))


def rival_losses(tokens: torch.Tensor) -> torch.Tensor:
    """Loss (nats) of the better of bigram and trigram, [row, position - 2]."""
    t = tokens.cpu()
    pair = t[:, :-2] * VOCABULARY + t[:, 1:-1]
    two = bigram[t[:, 1:-1], t[:, 2:]]
    seen = looked_up(pair * VOCABULARY + t[:, 2:], triples, counts)
    three = ((seen + 2 * two.exp()) / (looked_up(pair, contexts, totals) + 2)).log()
    return -torch.maximum(two, three).to(device)


@torch.no_grad()
def gain(net: TransformerBridge, tokens: torch.Tensor) -> torch.Tensor:
    """Rival's loss minus the model's, per predicted token, [row, position - 2]."""
    return rival_losses(tokens) - losses(net(tokens), tokens)[:, 1:]


# %% [markdown]
# ### The surprise: the token with the largest mean gain, among those that occur often

# %%
wins, targets = gain(model, find), find[:, 2:]
total = torch.zeros(VOCABULARY, device=device).index_add_(0, targets.flatten(), wins.flatten())
number = torch.bincount(targets.flatten(), minlength=VOCABULARY)
average = torch.where(number >= OFTEN, total / number.clamp_min(1), torch.full_like(total, -9.0))
order = average.argsort(descending=True)
surprise = int(order[0])
print("most surprising:", ", ".join(f"{word(int(t))!r} {average[t]:+.2f}" for t in order[:8]))

asked = check[:, 2:] == surprise  # fresh places where the answer is the surprising token
asked_at = F.pad(asked, (1, 1))  # [row, position]: the query one before the answer
others = F.pad(~asked, (1, 1))
fresh = gain(model, check)
metrics = {
    "loss": losses(model(check), check).detach().mean().item(),
    "bigram_loss": -bigram[check.cpu()[:, :-1], check.cpu()[:, 1:]].mean().item(),
    "gain": fresh[asked].mean().item(),
    "gain_elsewhere": fresh[~asked].mean().item(),
    "gain_advantage": (fresh[asked].mean() - fresh[~asked].mean()).item(),
    "gain_untrained": gain(build(), check)[asked].mean().item(),
}

# %% [markdown]
# ### Who says it? Attribution, head by head
#
# The logit of the surprising token, minus the mean logit, at the places where it is right: each head's
# write `z @ W_O` against the token's column of W_U. The parts add up to the logit exactly.

# %%
heads = [(l, h) for l in range(LAYERS) for h in range(HEADS)]
names = [f"{l}.{h}" for l, h in heads]
with torch.no_grad():
    logits, cache = model.run_with_cache(check)
    direction = model.W_U[:, surprise] - model.W_U.mean(-1)
    says = {
        f"{l}.{h}": (cache["z", l][:, :, h] @ model.W_O[l, h]) @ direction for l, h in heads
    }
    rest = (cache["blocks.0.hook_resid_pre"] + sum(model.b_O[l] for l in range(LAYERS))) @ direction
    centred = (logits - logits.mean(-1, keepdim=True))[..., surprise]
    error = (sum(says.values()) + rest - centred).abs().max().item()
attributed = {name: says[name][asked_at].mean().item() for name in names}
elsewhere = {name: says[name][others].mean().item() for name in names}
lift = {name: attributed[name] - elsewhere[name] for name in names}
metrics["attribution_error"] = error

# %% [markdown]
# ### Is it needed? Mean-ablate each head
#
# The loss at the surprising places, with each head's output replaced by its mean; then the two most
# needed heads together, against two of the others at random.


# %%
def mean_ablate(z: torch.Tensor, hook: HookPoint, head: int) -> torch.Tensor:
    """z: [row, position, head, d_head]."""
    z[:, :, head] = z[:, :, head].mean((0, 1))
    return z


@torch.no_grad()
def loss_without(group: list) -> torch.Tensor:
    """Loss [row, position - 2] with heads at their mean over rows and positions."""
    hooks = [(f"blocks.{l}.attn.hook_z", partial(mean_ablate, head=h)) for l, h in group]
    return losses(model.run_with_hooks(check, fwd_hooks=hooks), check)[:, 1:]


clean = loss_without([])
named = list(zip(names, heads, strict=True))
rise = {name: (loss_without([head]) - clean)[asked].mean().item() for name, head in named}
needed = sorted(names, key=rise.get, reverse=True)
pair = [heads[names.index(name)] for name in needed[:2]]
spare = [heads[names.index(name)] for name in needed[2:]]
draw = torch.randperm(len(spare), generator=torch.Generator().manual_seed(SEED)).tolist()
random_pair = [spare[i] for i in draw[:2]]
metrics["rise_needed"] = (loss_without(pair) - clean)[asked].mean().item()
metrics["rise_random"] = (loss_without(random_pair) - clean)[asked].mean().item()
metrics["rise_needed_elsewhere"] = (loss_without(pair) - clean)[~asked].mean().item()
metrics["noop_change"] = (clean - losses(model(check), check).detach()[:, 1:]).abs().max().item()

# %% [markdown]
# ### Where does the most needed head look?
#
# Collect the attention of that head at the surprising places by the token that it falls on. Then the
# counterfactual: put random tokens in the place of the one that it attends to most, and predict failure.

# %%
layer, head = pair[0]
pattern = cache["pattern", layer][:, head].detach()  # [row, query, key]
rows, queries = asked_at.nonzero(as_tuple=True)
mass = torch.zeros(VOCABULARY, device=device)
mass.index_add_(0, check[rows].flatten(), pattern[rows, queries].flatten())
mass = mass / len(rows)
looked_at = mass.topk(min(8, VOCABULARY)).indices.tolist()


@torch.no_grad()
def loss_with_replaced(keys: torch.Tensor) -> float:
    """Mean loss of the surprising token when one earlier token per place is replaced at random."""
    g = torch.Generator().manual_seed(SEED)
    changed = check[rows].clone()
    changed[torch.arange(len(rows)), keys] = torch.randint(VOCABULARY, (len(rows),), generator=g).to(device)
    out = model(changed)[torch.arange(len(rows)), queries]
    return F.cross_entropy(out, torch.full_like(rows, surprise)).item()


before = clean[asked].mean().item()
history_of = pattern[rows, queries].clone()
history_of[torch.arange(len(rows)), queries] = 0  # not the current token: the rivals see that one too
history_of[torch.arange(len(rows)), (queries - 1).clamp_min(0)] = 0
attended = history_of.argmax(-1)
generator = torch.Generator().manual_seed(SEED + 1)
anywhere = (torch.rand(len(rows), generator=generator).to(device) * (queries - 1).clamp_min(1)).long()
metrics["rise_attended_replaced"] = loss_with_replaced(attended) - before
metrics["rise_other_replaced"] = loss_with_replaced(anywhere) - before

# %%
fig, axes = plots.figure(2, 3, f"A surprising success: {word(surprise)!r} after the right context")
marks = {"bigrams": metrics["bigram_loss"]}
plots.loss_curves(axes[0], history, ["held_out_loss"], title="Learning (all tokens)", marks=marks, log=False)
candidates = {repr(word(int(t)))[1:-1]: average[t].item() for t in order[:8]}
plots.bars(axes[1], candidates, "Mean gain over counting, by token", y="nats", highlight=list(candidates)[:1])
plots.bars(axes[2], lift, "Logit lift at those places, by head", y="logit above elsewhere")
plots.bars(axes[3], rise, "Rise of its loss, one head ablated", y="nats", highlight=needed[:2])
seen = {repr(word(t))[1:-1]: mass[t].item() for t in looked_at}
plots.bars(axes[4], seen, f"What head {needed[0]} looks at", y="share of attention")
plots.bars(
    axes[5],
    {
        "needed heads out": metrics["rise_needed"], "random heads out": metrics["rise_random"],
        "attended changed": metrics["rise_attended_replaced"],
        "other changed": metrics["rise_other_replaced"],
    },
    "Rise of the loss at those places", y="nats", highlight=["random heads out", "other changed"],
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
