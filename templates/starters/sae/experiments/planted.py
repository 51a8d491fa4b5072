"""Planted features: does a sparse autoencoder find what is known to be there, and does a trick help?

    python experiment.py                        the run that expected.json describes
    python experiment.py --seed 1               other directions, other data, other weights
    python experiment.py --trick batchtopk      another change against the same baseline

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A dictionary against the truth
#
# In a real model nobody knows the true features, so a sparse autoencoder (SAE) is judged by stand-ins:
# how much variance it explains, how few latents it uses. Here the features are known, because we plant them:
# more directions than dimensions, few active at once (Sharkey, Braun & Millidge 2022). Then the question
# has an answer: how many of them does the dictionary contain, and do the stand-ins agree?

# %%
import torch

from lab import plots
from lab.dictionary_metrics import baseline_dictionaries, measure, recovery
from lab.planted import Planted
from lab.results import start_run
from lab.sae import Options, SparseAutoencoder
from lab.sae_training import train_sae

# %% knobs
SEED = 0  # planted directions, data, weights
FEATURES = 64  # planted features
DIMENSIONS = 32  # of the activations: half as many as features
CHANCE = 0.05  # how often a feature is active (independent data)
LATENTS = 128  # of the dictionary
K = 3  # latents per example (topk, batchtopk)
L1 = 0.6  # penalty (relu)
TRICK = "relu"  # what is compared with the baseline: relu, batchtopk, no-revival, wider
STEPS = 1000  # training steps of each dictionary
BATCH = 512  # examples per step

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### Four worlds
#
# Real features are not independent. *Groups*: pairs that are active together or not at all. *Nested*: a
# feature that is active only where its parent is. *Both*. Directions are random in each, with the same number
# of active features on average. The seeds of the data and of the dictionary are kept apart: a dictionary that
# starts at the planted directions would find them by doing nothing.

# %%
half, quarter = FEATURES // 2, FEATURES // 4
pairs = [[2 * i, 2 * i + 1] for i in range(half)]
nested = {half + i: i for i in range(half)}  # child -> parent
chance_nested = torch.full((FEATURES,), CHANCE)
chance_nested[:half], chance_nested[half:] = CHANCE * 4 / 3, 0.5  # as many active on average
both = {half + i: quarter + i for i in range(quarter)}  # parents in the second quarter
chance_both = torch.full((FEATURES,), CHANCE)
chance_both[quarter:half], chance_both[half : half + quarter] = CHANCE * 4 / 3, 0.5
common = {"seed": SEED, "noise": 0.01}
worlds = {
    "independent": Planted.draw(FEATURES, DIMENSIONS, probability=CHANCE, **common),
    "groups": Planted.draw(FEATURES, DIMENSIONS, probability=CHANCE, groups=pairs, **common),
    "nested": Planted.draw(FEATURES, DIMENSIONS, probability=chance_nested, parents=nested, **common),
    "both": Planted.draw(
        FEATURES, DIMENSIONS, probability=chance_both, groups=pairs[: quarter // 2], parents=both, **common
    ),
}
FRESH = 10_000_019  # test batches have numbers that training never reaches

# %% [markdown]
# ### Two arms: a baseline, and one change
#
# The baseline is TopK (Gao et al. 2024, arXiv:2406.04093), which keeps the K largest latents of an example.
# Everything else stays equal: the data, the steps, the learning rate, the revival of dead latents.

# %%
ARMS = ("baseline", TRICK)
settings = {"kind": "topk", "k": K, "latents": LATENTS, "l1": 0.0}
tricks = {
    "relu": {"kind": "relu", "l1": L1},
    "batchtopk": {"kind": "batchtopk"},
    "no-revival": {},
    "wider": {"latents": 2 * LATENTS},
}


def dictionary(world: Planted, arm: str, seed: int) -> SparseAutoencoder:
    """An untrained dictionary of this arm, scaled to the world's data."""
    options = settings | (tricks[TRICK] if arm == TRICK else {})
    sae = SparseAutoencoder(Options(DIMENSIONS, dead_after=20 * BATCH, **options), seed=seed).to(device)
    sae.fit_scale(world.activations(0, BATCH).to(device))
    return sae


def trained(world: Planted, arm: str) -> SparseAutoencoder:
    sae = dictionary(world, arm, SEED)
    revive = None if arm == "no-revival" else 100
    train_sae(
        sae, lambda step: world.activations(step, BATCH).to(device),
        steps=STEPS, revive_every=revive, label=f"{arm} on planted features",
    )  # fmt: skip
    return sae


found = {(name, arm): trained(world, arm) for name, world in worlds.items() for arm in ARMS}

# %% [markdown]
# ### How many features are in it?
#
# A feature counts as recovered if a *live* decoder row has a cosine above 0.9 with it. Controls: the same
# dictionary before training, random rows, principal components, and rows of the data. No-op: the planted
# directions themselves, which must score 1.


# %%
def rows(sae: SparseAutoencoder) -> torch.Tensor:
    return sae.decoder[~sae.dead].detach()


def recovered(dictionary_rows: torch.Tensor, world: Planted) -> float:
    return recovery(dictionary_rows, world.directions.to(device)).share(0.9)


def quality(sae: SparseAutoencoder, world: Planted):
    return measure(sae, (world.activations(FRESH + i, 2048).to(device) for i in range(4)))


table = {}  # (world, arm) -> what the stand-ins and the truth say
for (name, arm), sae in found.items():
    stand_in = quality(sae, worlds[name])
    table[name, arm] = {
        "recovered": recovered(rows(sae), worlds[name]),
        "explained": stand_in.explained_variance,
        "l0": stand_in.l0,
        "dead": stand_in.dead,
    }
plain = worlds["independent"]
sample = plain.activations(FRESH + 9, 4096).to(device)
controls = {"untrained": recovered(dictionary(plain, "baseline", SEED).decoder.detach(), plain)}
for name, baseline in baseline_dictionaries(sample, LATENTS, SEED).items():
    controls[name] = recovered(baseline, plain)
metrics = {
    "recovered": table["independent", "baseline"]["recovered"],
    "recovered_trick": table["independent", TRICK]["recovered"],
    "recovered_groups": table["groups", "baseline"]["recovered"],
    "recovered_nested": table["nested", "baseline"]["recovered"],
    "recovered_both": table["both", "baseline"]["recovered"],
    "recovered_untrained": controls["untrained"],
    "recovered_random": controls["random"],
    "recovered_components": controls["principal components"],
    "recovered_truth": recovered(plain.directions.to(device), plain),
    "explained": table["independent", "baseline"]["explained"],
    "explained_groups": table["groups", "baseline"]["explained"],
    "l0": table["independent", "baseline"]["l0"],
    "l0_trick": table["independent", TRICK]["l0"],
}
for name in ("independent", "nested"):
    effect = table[name, TRICK]["recovered"] - table[name, "baseline"]["recovered"]
    metrics[f"effect_{name}"] = effect

# %% [markdown]
# ### Does the matching latent do the work of its feature?
#
# Direction is one thing, firing another. For each feature take the latent with the nearest decoder row. Does
# it fire where the feature is active (F1)? If it is set to zero, does the reconstruction lose that feature,
# and nothing else? The control zeroes another latent that is active at the same place.


# %%
@torch.no_grad()
def firing(sae: SparseAutoencoder, world: Planted) -> dict[str, torch.Tensor]:
    """F1 of each feature's latent, and how far its feature is lost when a latent is zeroed; [feature]."""
    codes = world.codes(FRESH + 20, 8192).to(device)
    latents = sae.encode(world.activations(FRESH + 20, 8192).to(device))
    directions = world.directions.to(device)
    match = (directions @ sae.decoder.T).masked_fill(sae.dead, -1).argmax(1)  # [feature] -> latent
    active, fires = codes > 0, latents[:, match] > 0
    hits = (active & fires).sum(0)
    f1 = 2 * hits / (active.sum(0) + fires.sum(0)).clamp(min=1)
    own, other = torch.zeros(2, len(match), device=device)
    generator = torch.Generator().manual_seed(SEED)
    for feature, latent in enumerate(match.tolist()):
        here = (active[:, feature] & fires[:, feature]).nonzero()[:, 0]
        if not len(here):
            continue
        at, size = latents[here], codes[here, feature]
        others = (at > 0).float()
        others[:, latent] = 0
        drawn = torch.multinomial((others + 1e-9).cpu(), 1, generator=generator)[:, 0].to(device)
        along = sae.directions @ directions[feature]  # what a unit of each latent writes along the feature
        own[feature] = (at[:, latent] * along[latent] / size).mean()
        other[feature] = (at.gather(1, drawn[:, None])[:, 0] * along[drawn] / size).abs().mean()
    return {"f1": f1, "own": own, "other": other}


report = {name: firing(found[name, "baseline"], world) for name, world in worlds.items()}
untrained = firing(dictionary(plain, "baseline", SEED + 1), plain)
metrics["f1"] = report["independent"]["f1"].mean().item()
metrics["f1_untrained"] = untrained["f1"].mean().item()
metrics["lost_own"] = report["independent"]["own"].mean().item()
metrics["lost_other"] = report["independent"]["other"].mean().item()

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 2, f"{FEATURES} planted features in {DIMENSIONS} dimensions, {LATENTS} latents")
for index, arm in enumerate(ARMS):
    at = [i + 0.4 * index - 0.2 for i in range(len(worlds))]
    values = [table[name, arm]["recovered"] for name in worlds]
    axes[0].bar_label(
        axes[0].bar(at, values, width=0.4, color=plots.COLOURS[index], label=arm),
        fmt="%.2f", fontsize=7, padding=1,
    )  # fmt: skip
axes[0].set_xticks(range(len(worlds)), list(worlds))
axes[0].set_ylim(0, 1.25)
axes[0].legend(fontsize=8, frameon=False, ncol=2, loc="upper center")
plots.label(axes[0], "Features recovered (cosine above 0.9)", "", "share of features")
names = {"principal components": "principal\ncomponents"}
plots.bars(
    axes[1], {"trained": metrics["recovered"], **{names.get(n, n): v for n, v in controls.items()}},
    "Independent features: controls", y="share recovered", highlight=["trained"],
)  # fmt: skip
for index, arm in enumerate(ARMS):
    style = {"color": plots.COLOURS[index], "marker": "os"[index], "label": arm, "linestyle": "none"}
    explained = [table[name, arm]["explained"] for name in worlds]
    axes[2].plot(explained, [table[name, arm]["recovered"] for name in worlds], **style)
    for name, x in zip(worlds, explained, strict=True):
        where, side = (4, 4 if index else -9), "left"
        if name == "nested":  # it lies close to "both"
            where, side = (-5, where[1]), "right"
        y = table[name, arm]["recovered"]
        axes[2].annotate(name, (x, y), fontsize=7, ha=side, xytext=where, textcoords="offset points")
axes[2].margins(0.18)
axes[2].legend(fontsize=8, frameon=False)
plots.label(axes[2], "Do the stand-ins agree with the truth?", "explained variance", "share recovered")
axes[3].hist(
    [report["independent"]["f1"].cpu(), report["nested"]["f1"].cpu(), untrained["f1"].cpu()], bins=12,
    range=(0, 1), color=[plots.COLOURS[0], plots.COLOURS[4], "0.6"],
    label=["independent", "nested", "untrained (independent)"],
)  # fmt: skip
axes[3].legend(fontsize=8, frameon=False, loc="upper center")
plots.label(axes[3], "Does the latent fire with its feature?", "F1 of the nearest latent", "features")
run.save(fig, "planted")

# %%
for (name, arm), values in table.items():
    print(f"{name:12} {arm:10}", {key: round(value, 3) for key, value in values.items()})
report = run.finish(metrics)
