"""A transcoder in place of an MLP: which features does the layer compute, and from what?

    python experiment.py                    the run that expected.json describes
    python experiment.py --seed 1           another model
    python experiment.py --latents 1024     a wider transcoder

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## From what goes in to what comes out
#
# A sparse autoencoder on an MLP's output says which features are there, not how they were computed: its
# encoder reads the output itself. A *transcoder* (Dunefsky, Chlenski & Nanda 2024, arXiv:2406.11944) reads
# the MLP's *input* and predicts its output. So each of its latents is a rule, "if the input looks like this,
# write that", and weights connect it to what came before: one can say from weights alone, on any text, which
# tokens switch it on. The price is that it must do the MLP's work, nonlinearity and all, with few latents.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.dictionary_metrics import loss_recovered, measure, next_token_loss
from lab.probe_fits import solve_ridge
from lab.results import start_run
from lab.sae import Options, SparseAutoencoder
from lab.sae_training import train_sae
from lab.text import documentation, load_corpus
from lab.train import train

# %% knobs
SEED = 0  # weights of model and dictionaries, batches
LATENTS = 512  # of each dictionary
K = 8  # latents for each token
DICTIONARY_STEPS = 700  # training steps of each dictionary
D_MODEL = 64  # width of the residual stream
D_MLP = 256  # neurons
VOCABULARY = 512  # tokens
LENGTH = 32  # tokens in a window
STEPS = 350  # training steps of the model

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### A model of one layer
#
# To study another one, replace `model`, `tokens` and `test`: the hooks have these names in any
# TransformerBridge.

# %%
corpus = load_corpus(documentation(), VOCABULARY)
generator = torch.Generator().manual_seed(SEED)
config = TransformerBridgeConfig(
    d_model=D_MODEL, d_head=16, n_heads=D_MODEL // 16, n_layers=1, n_ctx=LENGTH, d_vocab=VOCABULARY,
    d_mlp=D_MLP, act_fn="gelu", normalization_type="LN", positional_embedding_type="rotary",
    init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=SEED,
)  # fmt: skip
model = TransformerBridge.boot_native(config, device=device)


def loss_at(step: int) -> torch.Tensor:
    batch = corpus.batch(64, LENGTH, generator).to(device)
    return next_token_loss(model(batch), batch)


train(model, loss_at, steps=STEPS, lr=1e-2, weight_decay=0.1, decay=True)
IN, OUT = "blocks.0.ln2.hook_out", "blocks.0.hook_mlp_out"
tokens = corpus.batch(3000, LENGTH, torch.Generator().manual_seed(SEED + 1)).to(device)
test = corpus.held_out(10**9, LENGTH)[::4][:400].to(device)  # documents that nothing was trained on


@torch.no_grad()
def sides(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The MLP's input and output, [token, d_model], without the first position of each window."""
    _, cache = model.run_with_cache(rows, names_filter=[IN, OUT])
    return cache[IN][:, 1:].flatten(0, 1), cache[OUT][:, 1:].flatten(0, 1)


x, y = sides(tokens)
x_test, y_test = sides(test)

# %% [markdown]
# ### A transcoder, an autoencoder, and what they must beat
#
# Both have the same number of latents, K of them for each token. Baselines: a linear map from input to output
# (no latents at all: what the MLP does beyond it is nonlinear), a transcoder whose decoder is random and
# frozen, and one that is not trained.


# %%
def dictionary(transcoder: bool, *, train_it: bool = True, freeze: bool = False) -> SparseAutoencoder:
    options = Options(D_MODEL, LATENTS, k=K, d_out=D_MODEL if transcoder else None)
    sae = SparseAutoencoder(options, seed=SEED + 7).to(device)
    sae.decoder_rows.requires_grad_(not freeze)
    draw = torch.Generator().manual_seed(SEED + 2)

    def batch_at(step: int):
        chosen = torch.randint(len(x), (1024,), generator=draw).to(device)
        return (x[chosen], y[chosen]) if transcoder else y[chosen]

    if not train_it:
        sae.fit_scale(*((x, y) if transcoder else (y,)))
        return sae.eval()
    steps = min(DICTIONARY_STEPS, 10 * STEPS)
    train_sae(sae, batch_at, steps=steps, revive_every=None if freeze else 100)
    return sae


transcoder, autoencoder = dictionary(True), dictionary(False)
frozen, untrained = dictionary(True, freeze=True), dictionary(True, train_it=False)
centre_in, centre_out = x.mean(0), y.mean(0)
linear = solve_ridge((x - centre_in).double(), (y - centre_out).double(), penalty=1.0).float()


def straight(value: torch.Tensor) -> torch.Tensor:
    return (value - centre_in) @ linear + centre_out


recovered = {
    "transcoder": loss_recovered(model, test, OUT, transcoder, source=IN),
    "autoencoder": loss_recovered(model, test, OUT, autoencoder),
    "linear map": loss_recovered(model, test, OUT, straight, source=IN),
    "random decoder": loss_recovered(model, test, OUT, frozen, source=IN),
    "untrained": loss_recovered(model, test, OUT, untrained, source=IN),
}
quality = measure(transcoder, [(x_test, y_test)])
whole = recovered["transcoder"]
metrics = {
    "loss": whole.clean,
    "loss_mean": whole.mean,
    "recovered": whole.against_mean,
    "recovered_autoencoder": recovered["autoencoder"].against_mean,
    "recovered_linear": recovered["linear map"].against_mean,
    "recovered_random_decoder": recovered["random decoder"].against_mean,
    "recovered_untrained": recovered["untrained"].against_mean,
    "explained": quality.explained_variance,
    "l0": quality.l0,
    "dead": quality.dead,
}

# %% [markdown]
# ### Rules read from weights, without text
#
# The input of the MLP is the normed sum of the current token's embedding and what the heads brought, of which
# a part is the token itself (by OV matrices, times each head's mean attention to itself). The dot product of
# a latent's encoder row with that sum says which tokens should switch it on. Does this table agree with the
# latent's mean activation by token, on held-out text? Control: another latent's table. The autoencoder has no
# such table: its encoder reads the output, and the way there leads through a nonlinearity.

# %%
with torch.no_grad():
    itself = model.run_with_cache(test)[1]["pattern", 0].diagonal(0, -2, -1).mean((0, 2))  # [head]
    values = torch.einsum("td,hde->hte", model.blocks[0].ln1(model.W_E.detach()), model.W_V[0])
    company = torch.einsum("h,hte,hed->td", itself, values, model.W_O[0])  # the heads' part of the token
    normed = model.blocks[0].ln2(model.W_E.detach() + company)  # [token, d_model]
    drive = transcoder.before_activation(normed)  # [token, latent]
    latents = transcoder.encode(x_test)
    ids = test[:, 1:].flatten()
    counts = torch.bincount(ids, minlength=VOCABULARY)
    common = counts >= 5  # tokens that occur often enough to have a mean
    one_hot = F.one_hot(ids, VOCABULARY).float()
    by_token = one_hot.T @ latents / counts[:, None].clamp(min=1)  # [token, latent]
fires = (latents > 0).float().mean(0)
live = (fires > 0.003).nonzero()[:, 0]


def correlations(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Correlation of corresponding columns."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp(min=1e-9)


seen = by_token[common][:, live]
agree = correlations(drive[common][:, live].clamp(min=0), seen)
agree_other = correlations(drive[common][:, live.roll(1)].clamp(min=0), seen)
metrics["weights_agree"] = agree.mean().item()
metrics["weights_agree_other"] = agree_other.mean().item()

# %% [markdown]
# ### Is it the same mechanism? Edit the input
#
# A stand-in that only agrees on ordinary text may agree for the wrong reasons. So change the input: move the
# MLP's input at one position towards that of another token (half-way), where neither model was trained. Do
# the true MLP and the transcoder change their output alike? Cosine of the two changes; control: the linear
# map.

# %%
draw = torch.randperm(len(x_test), generator=torch.Generator().manual_seed(SEED)).to(device)
between = 0.5 * (x_test + x_test[draw])
mlp = model.blocks[0].mlp
with torch.no_grad():
    true = mlp(between) - mlp(x_test)
    ours = transcoder(between) - transcoder(x_test)
    plain = straight(between) - straight(x_test)
metrics["edit_cosine"] = F.cosine_similarity(true, ours, dim=1).mean().item()
metrics["edit_cosine_linear"] = F.cosine_similarity(true, plain, dim=1).mean().item()
metrics["edit_cosine_shuffled"] = F.cosine_similarity(true, ours[draw], dim=1).mean().item()

# %% [markdown]
# ### Which rules matter?
#
# Take latents out of the MLP's output (what the transcoder misses stays): the 20 largest by mean activation,
# or 20 random live ones. The no-op takes none.


# %%
@torch.no_grad()
def loss_without(drop: torch.Tensor | None) -> float:
    """Loss on the test text with the transcoder's share of some latents taken out of the MLP's output."""
    read: list[torch.Tensor] = []

    def keep(value: torch.Tensor, hook) -> None:
        read[:] = [value]

    def edit(value: torch.Tensor, hook) -> torch.Tensor:
        code = transcoder.encode(read[0])
        error = value - transcoder.decode(code)
        code = code if drop is None else code.index_fill(-1, drop, 0.0)
        return transcoder.decode(code) + error

    return next_token_loss(model.run_with_hooks(test, fwd_hooks=[(IN, keep), (OUT, edit)]), test).item()


top = latents.mean(0).topk(20).indices
chosen = live[torch.randperm(len(live), generator=torch.Generator().manual_seed(SEED))[:20].to(device)]
metrics["damage_top"] = loss_without(top) - whole.clean
metrics["damage_random"] = loss_without(chosen) - whole.clean
metrics["noop_change"] = abs(loss_without(None) - whole.clean)
word = corpus.tokenizer.token
says = transcoder.directions @ model.W_U.detach()
for latent in live[agree.argsort(descending=True)[:8]].tolist():
    reads = [word(t) for t in drive[:, latent].topk(4).indices.tolist()]
    writes = [word(t) for t in says[latent].topk(4).indices.tolist()]
    print(f"latent {latent}: if the token is one of {reads}, raise {writes}")

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 2, f"A transcoder of {LATENTS} latents, {K} for each token, in place of the MLP")
shown = {name.replace(" ", "\n"): value.spliced for name, value in recovered.items()}
plots.bars(
    axes[0], {"clean": whole.clean, **shown, "mean": whole.mean}, "What stands in the MLP's place",
    y="loss on held-out text (nats)", highlight=["transcoder"],
)  # fmt: skip
axes[0].set_ylim(bottom=0.9 * whole.clean)
axes[1].hist(
    [agree.cpu(), agree_other.cpu()], bins=20, range=(-0.4, 1), color=[plots.COLOURS[0], "0.6"],
    label=["its own weights", "another latent's"],
)  # fmt: skip
axes[1].legend(fontsize=8, frameon=False)
plots.label(axes[1], "Which tokens fire a latent, from weights", "correlation with its firing", "latents")
plots.bars(
    axes[2], {
        "transcoder": metrics["edit_cosine"], "linear\nmap": metrics["edit_cosine_linear"],
        "transcoder,\nother token": metrics["edit_cosine_shuffled"],
    }, "Inputs half-way between two tokens", y="cosine with the MLP's own change", highlight=["transcoder"],
)  # fmt: skip
star = int(live[agree.argmax()])
axes[3].scatter(drive[common][:, star].cpu(), by_token[common][:, star].cpu(), s=14, color=plots.COLOURS[0])
names = common.nonzero()[:, 0]
for t in by_token[common][:, star].topk(min(5, len(names))).indices.tolist():
    where = (drive[names[t], star].item(), by_token[names[t], star].item())
    style = {"fontsize": 8, "xytext": (-4, 3), "textcoords": "offset points", "ha": "right"}
    axes[3].annotate(word(int(names[t])), where, parse_math=False, **style)
plots.label(axes[3], f"Latent {star}: each point a token", "drive, from weights", "mean activation on text")
run.save(fig, "transcoder")

# %%
report = run.finish(metrics)
