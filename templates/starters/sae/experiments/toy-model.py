"""A sparse autoencoder on a small language model, beside the controls that it has to beat.

    python experiment.py                               the run that expected.json describes
    python experiment.py --seed 1                      another model, another dictionary
    python experiment.py --site blocks.0.hook_resid_post   another activation

Results, figures, a page of features (features.html) and the settings land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## What does a dictionary find in a model, and what would it find anywhere?
#
# A sparse autoencoder (SAE) writes an activation as a sum of a few directions out of many (Bricken et al.
# 2023; Cunningham et al. 2023, arXiv:2309.08600). It is judged by what is left of the model when the sum
# stands in the activation's place, and by whether its latents mean something. Both are treacherous:
# dictionaries whose decoder is random and frozen can score close to trained ones (Korznikov et al. 2026,
# arXiv:2602.14111), and those of *randomly initialised* transformers can get labels about as good (Heap et
# al. 2025, arXiv:2501.17727), because the text itself is structured. So every score here stands beside three
# controls.

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import interactive, plots, text_plots
from lab.dictionary_metrics import LossRecovered, loss_recovered, measure, next_token_loss
from lab.examples import sampled, strongest
from lab.results import start_run
from lab.sae import Options, SparseAutoencoder
from lab.sae_training import train_sae
from lab.scan import scan
from lab.text import documentation, load_corpus
from lab.train import train

# %% knobs
SEED = 0  # weights of model and dictionaries, batches
SITE = "blocks.0.hook_mlp_out"  # the activation; also blocks.0.hook_resid_post, blocks.0.mlp.hook_post
LATENTS = 512  # of each dictionary
K = 8  # latents that describe one token
SAE_STEPS = 600  # training steps of each dictionary
D_MODEL = 64  # width of the residual stream
D_MLP = 256  # neurons
VOCABULARY = 512  # tokens: frequent words whole, the rest spelled in characters
LENGTH = 32  # tokens in a window
STEPS = 350  # training steps of the model

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### A model and its text
#
# One layer, trained on Python's own documentation. To study another model, replace `model`, `tokens` and
# `test`: everything below takes any TransformerBridge.

# %%
corpus = load_corpus(documentation(), VOCABULARY)
generator = torch.Generator().manual_seed(SEED)


def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=16, n_heads=D_MODEL // 16, n_layers=1, n_ctx=LENGTH, d_vocab=VOCABULARY,
        d_mlp=D_MLP, act_fn="gelu", normalization_type="LN", positional_embedding_type="rotary",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


def loss_at(step: int) -> torch.Tensor:
    batch = corpus.batch(64, LENGTH, generator).to(device)
    return next_token_loss(model(batch), batch)


model, reset = build(SEED), build(SEED + 1000).eval()
train(model, loss_at, steps=STEPS, lr=1e-2, weight_decay=0.1, decay=True)
tokens = corpus.batch(3000, LENGTH, torch.Generator().manual_seed(SEED + 1)).to(device)
test = corpus.held_out(10**9, LENGTH)[::4][:400].to(device)  # documents that nothing was trained on

# %% [markdown]
# ### Four dictionaries
#
# *Trained*; the same with a *random decoder* that stays frozen while the encoder learns; one trained on the
# *reset model*, the same architecture with fresh random weights; and one that is not trained at all. The
# first position of each window is left out: its activations are of another kind.


# %%
@torch.no_grad()
def activations(net: TransformerBridge, rows: torch.Tensor) -> torch.Tensor:
    """[token, d] at the site, without the first position of each window."""
    _, cache = net.run_with_cache(rows, names_filter=SITE)
    return cache[SITE][:, 1:].flatten(0, 1)


acts = {"model": activations(model, tokens), "reset": activations(reset, tokens)}
held = {"model": activations(model, test), "reset": activations(reset, test)}
width = acts["model"].shape[1]


def dictionary(source: str, *, train_it: bool = True, freeze: bool = False) -> SparseAutoencoder:
    """A TopK dictionary of the activations of the model, or of the reset model."""
    x = acts[source]
    sae = SparseAutoencoder(Options(width, LATENTS, k=K, dead_after=20_000), seed=SEED + 7).to(device)
    if freeze:
        sae.decoder_rows.requires_grad_(False)
    draw = torch.Generator().manual_seed(SEED + 2)

    def batch_at(step: int) -> torch.Tensor:
        return x[torch.randint(len(x), (1024,), generator=draw).to(device)]

    if not train_it:
        sae.fit_scale(x[:4096])
        return sae.eval()
    steps = min(SAE_STEPS, 10 * STEPS)  # a short trial run of the script is short here, too
    train_sae(sae, batch_at, steps=steps, revive_every=None if freeze else 100)
    return sae


saes = {
    "trained": dictionary("model"),
    "random decoder": dictionary("model", freeze=True),
    "reset model": dictionary("reset"),
    "untrained": dictionary("model", train_it=False),
}
saes["trained"].save(run.folder / "sae.safetensors")

# %% [markdown]
# ### What is left of the model
#
# Splice the reconstruction in and measure the loss on held-out text. The share recovered depends on its zero,
# so both are given: zero ablation and mean ablation. `principal components` keeps the K of largest size out
# of all: as many numbers per token as the dictionary.


# %%
def components(x: torch.Tensor) -> torch.Tensor:
    """Each token by its K largest principal components: no dictionary, as many numbers."""
    inside = (x - centre) @ basis.T
    kept = inside.abs() >= inside.abs().topk(K, dim=-1).values[..., -1:]
    return (inside * kept) @ basis + centre


centre = acts["model"].mean(0)
basis = torch.linalg.svd(acts["model"][:20_000] - centre, full_matrices=False).Vh
quality = {name: measure(sae, [held["reset" if "reset" in name else "model"]]) for name, sae in saes.items()}
recovered: dict[str, LossRecovered] = {
    name: loss_recovered(model, test, SITE, sae) for name, sae in saes.items() if name != "reset model"
}
recovered["principal components"] = loss_recovered(model, test, SITE, components)
whole = recovered["trained"]
metrics = {
    "loss": whole.clean,
    "loss_spliced": whole.spliced,
    "loss_mean": whole.mean,
    "loss_zero": whole.zero,
    "recovered_mean": whole.against_mean,
    "recovered_components": recovered["principal components"].against_mean,
    "recovered_random_decoder": recovered["random decoder"].against_mean,
    "recovered_untrained": recovered["untrained"].against_mean,
    "explained": quality["trained"].explained_variance,
    "explained_reset": quality["reset model"].explained_variance,
    "l0": quality["trained"].l0,
    "dead": quality["trained"].dead,
}

# %% [markdown]
# ### Editing latents, and the error that the dictionary leaves
#
# With the error put back, splicing is the identity: the no-op. Then a latent can be removed alone. Remove the
# 20 that matter most (largest mean activation), or 20 random live ones; and put the error back in the *wrong
# places*: of equal size, but shuffled between tokens.


# %%
@torch.no_grad()
def loss_with(drop: torch.Tensor | None = None, error: str = "own") -> float:
    """Loss on the test text with latents dropped, and the error kept, shuffled or left out."""

    def edit(value: torch.Tensor, hook) -> torch.Tensor:
        latents = saes["trained"].encode(value)
        left = value - saes["trained"].decode(latents)
        if drop is not None:
            latents = latents.index_fill(-1, drop, 0.0)
        if error == "shuffled":
            mixed = torch.randperm(left[..., 0].numel(), generator=torch.Generator().manual_seed(SEED))
            left = left.flatten(0, 1)[mixed.to(device)].view_as(left)
        return saes["trained"].decode(latents) + (0 if error == "none" else left)

    return next_token_loss(model.run_with_hooks(test, fwd_hooks=[(SITE, edit)]), test).item()


density = quality["trained"].density
with torch.no_grad():
    mean_activation = saes["trained"].encode(held["model"]).mean(0)
top = mean_activation.topk(20).indices
live = (density > 0).nonzero()[:, 0]
chosen = torch.randperm(len(live), generator=torch.Generator().manual_seed(SEED))[:20].to(device)
metrics["noop_change"] = abs(loss_with() - whole.clean)
metrics["damage_top"] = loss_with(top) - whole.clean
metrics["damage_random"] = loss_with(live[chosen]) - whole.clean
metrics["damage_error_shuffled"] = loss_with(error="shuffled") - whole.clean

# %% [markdown]
# ### Do the latents mean something? The same question to all dictionaries
#
# The plainest label is a list of tokens: the current tokens on which a latent fires more often than not, on
# training text. It is scored on held-out text as a detector (F1). Then the share of the latent's variance
# that a table by current token explains: what is left over needs context. 200 random live latents of each
# dictionary.


# %%
@torch.no_grad()
def labels(name: str) -> dict[str, torch.Tensor]:
    """F1 of token-list labels and the variance that a token table explains, of random live latents."""
    source = "reset" if name == "reset model" else "model"
    seen, new = saes[name].encode(acts[source]), saes[name].encode(held[source])
    ids, new_ids = tokens[:, 1:].flatten(), test[:, 1:].flatten()
    enough = (((new > 0).sum(0) >= 10) & ((seen > 0).sum(0) >= 30)).nonzero()[:, 0]
    draw = torch.randperm(len(enough), generator=torch.Generator().manual_seed(SEED))[:200].to(device)
    latents = enough[draw]
    seen, new = seen[:, latents], new[:, latents]
    one_hot = F.one_hot(ids, VOCABULARY).float()
    counts = one_hot.sum(0)[:, None].clamp(min=1)
    listed = (one_hot.T @ (seen > 0).float() / counts) > 0.5  # [token, latent]
    guess, fires = listed[new_ids], new > 0
    f1 = 2 * (guess & fires).sum(0) / (guess.sum(0) + fires.sum(0)).clamp(min=1)
    table = (one_hot.T @ seen / counts)[new_ids]
    r2 = 1 - (new - table).square().sum(0) / (new - new.mean(0)).square().sum(0).clamp(min=1e-9)
    return {"f1": f1, "r2": r2.clamp(min=0)}


told = {name: labels(name) for name in saes}
for name, key in zip(saes, ("", "_random_decoder", "_reset", "_untrained"), strict=True):
    metrics["label_f1" + key] = told[name]["f1"].mean().item() if len(told[name]["f1"]) else 0.0
    metrics["token_r2" + key] = told[name]["r2"].mean().item() if len(told[name]["r2"]) else 0.0

# %% [markdown]
# ### Read features
#
# `scan` finds the strongest examples of all latents and a uniform sample besides: the strongest alone
# flatter. The page features.html in the run's folder has 24 of them to leaf through.

# %%
rows = tokens[:600]
found = scan(model, rows, {SITE: saes["trained"].encode})
units = found.sites[SITE]
often = units.density(found.tokens)
readable = ((often > 0.002) & (often < 0.05)).nonzero()[:, 0].tolist() or live.tolist()
effect = {}
for latent in readable[:: max(1, len(readable) // 40)][:40]:
    effect[latent] = loss_with(torch.tensor([latent], device=device)) - whole.clean
best = sorted(effect, key=effect.__getitem__, reverse=True)[:24]
words = corpus.tokenizer.token
view = interactive.examples(found, rows.cpu(), [(SITE, unit) for unit in best], words, title="Features")
view.save(run.folder / "features.html")
star = best[0]
picture = text_plots.examples(
    {"strongest": strongest(found, rows.cpu(), SITE, star, words, 8),
     "a uniform sample of all places": sampled(found, rows.cpu(), SITE, star, words)},
    f"Latent {star}: active at {often[star]:.2%} of the tokens, removing it costs {effect[star]:.4f} nats",
)  # fmt: skip
run.save(picture, "feature")

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 2, f"{LATENTS} latents on {SITE}, {K} for each token")
plots.bars(
    axes[0], {
        "clean": whole.clean, "trained": whole.spliced,
        "principal\ncomponents": recovered["principal components"].spliced,
        "random\ndecoder": recovered["random decoder"].spliced, "untrained": recovered["untrained"].spliced,
        "mean": whole.mean, "zero": whole.zero,
    }, "What stands in the activation's place", y="loss on held-out text (nats)", highlight=["trained"],
)  # fmt: skip
axes[0].set_ylim(bottom=0.9 * whole.clean)
plots.bars(
    axes[1], {
        "20 strongest\nlatents": metrics["damage_top"], "20 random\nlatents": metrics["damage_random"],
        "error in the\nwrong places": metrics["damage_error_shuffled"], "no-op": metrics["noop_change"],
    }, "What removing latents costs", y="loss added (nats)", highlight=["20 strongest\nlatents"],
)  # fmt: skip
for index, (name, scores) in enumerate(told.items()):
    at = [0.2 * index - 0.3, 1 + 0.2 * index - 0.3]
    heights = [scores[key].mean().item() if len(scores[key]) else 0.0 for key in ("f1", "r2")]
    drawn = axes[2].bar(at, heights, width=0.2, color=plots.COLOURS[index], label=name)
    axes[2].bar_label(drawn, fmt="%.2f", fontsize=7, padding=1)
axes[2].set_xticks([0, 1], ["label as a detector (F1)", "variance explained by token"])
axes[2].set_ylim(0, 1.2)
axes[2].legend(fontsize=8, frameon=False, ncol=2, loc="upper center")
plots.label(axes[2], "Is it the model, or the text?", "", "mean over latents")
for index, name in enumerate(("trained", "random decoder", "reset model")):
    edges, bins = quality[name].density_histogram(24)
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index]}
    axes[3].stairs(bins.cpu(), edges, label=f"{name} ({quality[name].dead:.0%} dead)", **style)
axes[3].legend(fontsize=8, frameon=False, loc="upper left")
axes[3].margins(y=0.3)
plots.label(axes[3], "How often latents fire", "log10 of the share of tokens", "latents")
run.save(fig, "dictionary")

# %%
report = run.finish(metrics)
