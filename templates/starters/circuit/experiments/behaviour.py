"""From a behaviour to a circuit: prompts, patching, head roles, ablation, faithfulness.

    python experiment.py                                        the run that expected.json describes
    python experiment.py --seed 1                               other prompts
    python experiment.py --model smollm2-135m --task ioi --heads 14
    python experiment.py --model openai-community/gpt2 --task ioi --heads 12
    python experiment.py --model path/to/a/model --task gendered_pronoun

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Which heads do it?
#
# A behaviour is a set of prompts with a right and a wrong next token. A circuit is the part of the model that
# produces it. The way there has six steps, each with a way to be wrong, so each has its control:
#
# 1. Does the model do it at all? (clean against corrupt prompts)
# 2. Where along the depth does the answer appear? (logit lens)
# 3. Which parts write it? (direct logit attribution: adds up exactly)
# 4. Which parts carry what differs between clean and corrupt? (activation patching; attribution patching
#    estimates it from one gradient)
# 5. What do the heads that matter look at? (head scores, on other tokens)
# 6. Are they needed, and do they suffice? (ablation by the mean and by resampling, against as many others)
#
# The embedded model shows it on induction, whose circuit is known (Olsson et al. 2022, arXiv:2209.11895): a
# head looks at the token before, and a later one looks for the token that came after this one last time.

# %%
import sys

import torch

from lab import heads, plots
from lab.agreement import agreement
from lab.gradient_patching import gradient_maps
from lab.lens import lens_difference, logit_attribution
from lab.models import ModelError, load_model
from lab.patching import Patcher, logit_difference
from lab.prompt_sets import PromptError
from lab.prompts import FAMILIES, induction
from lab.results import start_run

# %% knobs
SEED = 0  # of the prompts, and of the random heads
MODEL = "attn-only-2l"  # embedded model, smollm2-135m, a hub name, or a folder
TASK = "induction"  # family of prompts: induction, ioi, gendered_pronoun, successor, acronym, docstring
PROMPTS = 32  # in the set
HEADS = 4  # that the circuit may have
EXACT = 40  # heads to patch exactly; the estimate chooses them where the model has more
DRAWS = 10  # sets of random heads to compare with
STEPS = 0  # nothing is trained here

# %%
run = start_run(globals())
torch.set_grad_enabled(False)
try:
    model = load_model(MODEL, device=run.device)
    bos = getattr(model.tokenizer, "bos_token_id", None)
    if TASK == "induction":
        prompts = induction(model.cfg.d_vocab, PROMPTS, seed=SEED, bos=bos)
    elif TASK in FAMILIES:
        prompts = FAMILIES[TASK](model.tokenizer, count=PROMPTS, seed=SEED)
    else:
        raise PromptError(f"no task {TASK!r}; there are induction, {', '.join(FAMILIES)}")
except (ModelError, PromptError) as error:
    sys.exit(str(error))
prompts = prompts.to(run.device)
n_layers, n_heads = len(model.blocks), model.cfg.n_heads
# one right and one wrong token for each prompt, also where the family knows several
right = torch.tensor([ids[0] for ids in prompts.right]).to(run.device)
wrong = torch.tensor([ids[0] for ids in prompts.wrong]).to(run.device)
metric = logit_difference(right, wrong)

# %% [markdown]
# ### 1. Does it?
#
# The logit difference is the logit of the right token less that of the wrong one, at the last position.
# In `corrupt` the words that decide are others: what is left of it there is not about this behaviour.

# %%
each = model(prompts.clean)[:, -1]
clean, corrupt = metric(each[None]).item(), metric(model(prompts.corrupt)[None, :, -1]).item()
right_more_likely = (each.gather(1, right[:, None]) > each.gather(1, wrong[:, None])).float().mean().item()
print(f"{TASK} in {MODEL}: logit difference {clean:.2f} clean, {corrupt:.2f} corrupt")
if abs(clean - corrupt) < 0.5:
    print("The model hardly does this. What follows is about noise: take another task or another model.")

# %% [markdown]
# ### 2. and 3. Where does the answer appear, and who writes it?
#
# The lens reads the stream as if the model stopped there. Direct logit attribution splits the final
# difference into what each head, MLP, embedding and bias wrote; `logit_attribution` checks that these add up.

# %%
depth = lens_difference(model, prompts.clean, right, wrong).mean(1)  # [entry]
attribution = logit_attribution(model, prompts.clean, right, wrong)
written = attribution.mean()
direct = attribution.heads()[..., -1].mean(-1)  # [layer, head]
for name, share in attribution.top(6):
    print(f"  writes {name:>12}: {share:+.2f}")

# %% [markdown]
# ### 4. Who carries what differs?
#
# Take one head's output from the corrupt run into the clean one: how much of the difference is lost? 0:
# nothing, 1: all of it. (The other direction, clean into corrupt, asks what comes *back*. An early head that
# only points a later one to the right place brings nothing back alone; see Heimersheim & Nanda 2024,
# arXiv:2404.15255.) Attribution patching estimates all heads from one gradient. In a large model it chooses
# which are then patched exactly. Compare the two: where attention is saturated, the gradient sees nothing
# (Kramar et al. 2024, arXiv:2403.00745), and the heads that point are saturated as a rule.

# %%
names = [f"blocks.{layer}.attn.hook_z" for layer in range(n_layers)]
own = model.run_with_cache(prompts.clean, names_filter=lambda name: name in names)[1]
other = model.run_with_cache(prompts.corrupt, names_filter=lambda name: name in names)[1]
generator = torch.Generator().manual_seed(SEED)
shuffle = torch.randperm(len(prompts), generator=generator)
VALUES = {
    "corrupt": {name: other[name] for name in names},
    "mean": {name: own[name].mean(0, keepdim=True).expand_as(own[name]) for name in names},
    "resample": {name: other[name][shuffle] for name in names},
    "own": {name: own[name] for name in names},  # the no-op
}
everything = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]


def without(chosen, kind: str) -> float:
    """Logit difference on the clean prompts with these heads' outputs replaced."""

    def hook(layer: int, mine: list[int]):
        def replace(z, hook):
            z = z.clone()
            z[:, :, mine] = VALUES[kind][names[layer]][:, :, mine]
            return z

        return names[layer], replace

    by_layer = {layer: [h for l, h in chosen if l == layer] for layer, _ in chosen}
    logits = model.run_with_hooks(prompts.clean, fwd_hooks=[hook(*item) for item in by_layer.items()])
    return metric(logits[None, :, -1]).item()


gap = clean - corrupt
with torch.enable_grad():
    into_clean = gradient_maps(model, prompts.corrupt, prompts.clean, metric)
    into_corrupt = gradient_maps(model, prompts.clean, prompts.corrupt, metric)
estimate = (clean - into_clean.heads) / gap  # [layer, head], share lost
back = (into_corrupt.heads - corrupt) / gap  # [layer, head], share that comes back
# what is saturated in one run may not be in the other: a head may stand out in either
outstanding = torch.maximum(estimate.abs(), back.abs()).flatten().topk(min(EXACT, len(everything)))
candidates = [divmod(place, n_heads) for place in outstanding.indices.tolist()]
needed = {place: (clean - without([place], "corrupt")) / gap for place in candidates}
close = agreement(
    {f"{layer}.{head}": value for (layer, head), value in needed.items()},
    {f"{layer}.{head}": estimate[layer, head].item() for layer, head in needed}, baseline=0.0,
)  # fmt: skip
print(close)
circuit = sorted(needed, key=needed.get, reverse=True)[:HEADS]
most = [f"{layer}.{head} {needed[layer, head]:.2f}" for layer, head in circuit]
print("heads without which most is lost:", ", ".join(most))
# the stream before each block, clean into corrupt, by position: exact in a small model, else estimated
if n_layers <= 4:
    places = (Patcher(model, prompts.clean, prompts.corrupt, metric).resid_pre() - corrupt) / gap
else:
    places = (into_corrupt.resid_pre - corrupt) / gap

# %% [markdown]
# ### 5. What do they look at?
#
# On random tokens that repeat, which are not the prompts: a name for a head should hold elsewhere.

# %%
scores = heads.head_scores(model, heads.repeated_tokens(model, rows=8, seed=SEED + 100))
print(heads.table(scores))
roles = {}
for layer, head in circuit:
    kinds = {kind: score[layer, head].item() for kind, score in scores.items()}
    kind = max(kinds, key=kinds.get)
    roles[f"{layer}.{head}"] = f"{kind} {kinds[kind]:.2f}" if kinds[kind] > 0.3 else "none of these"
    print(f"  {layer}.{head}: {roles[f'{layer}.{head}']}")

# %% [markdown]
# ### 6. Needed? Enough?
#
# Needed: replace the circuit's heads by their mean over the prompts (at each position), or by what they say
# on a corrupt prompt that was drawn at random, and see what is left. Enough: replace all OTHER heads by their
# means and see what the circuit does alone. Both against as many heads drawn at random from all.

# %%
if len(circuit) == len(everything):
    sys.exit(f"HEADS={HEADS} is every head of {MODEL}: there are no others to compare with. Take fewer.")
draws = []
while len(draws) < DRAWS:
    some = torch.randperm(len(everything), generator=generator)[: len(circuit)].tolist()
    picked = [everything[i] for i in some]
    if set(picked) != set(circuit):
        draws.append(picked)
lost = {
    "mean": 1 - without(circuit, "mean") / clean,
    "resample": 1 - without(circuit, "resample") / clean,
    "random heads": sum(1 - without(draw, "mean") / clean for draw in draws) / DRAWS,
    "own values": 1 - without(circuit, "own") / clean,
}
none = without(everything, "mean")


def alone(kept) -> float:
    """Faithfulness: what is left with only these heads, between no head (0) and all heads (1)."""
    return (without([place for place in everything if place not in kept], "mean") - none) / (clean - none)


faithful = {"circuit": alone(circuit), "random heads": sum(map(alone, draws)) / DRAWS}
print("lost without the circuit:", {name: round(value, 2) for name, value in lost.items()})
print("left with nothing else:  ", {name: round(value, 2) for name, value in faithful.items()})
metrics = {
    "clean": clean,
    "corrupt": corrupt,
    "right_more_likely": right_more_likely,
    "direct_top_share": (direct.max() / clean).item(),
    "lens_before_last": (depth[-2] / depth[-1]).item(),
    "lost_top": max(needed.values()),
    "lost_median": sorted(needed.values())[len(needed) // 2],
    "estimate_of_top": estimate[circuit[0]].item() / needed[circuit[0]],
    "attribution_pearson": close.pearson,
    "previous_token_score": scores["previous token"].max().item(),
    "induction_score": max(scores["induction"][place].item() for place in circuit),
    "lost_mean": lost["mean"],
    "lost_resample": lost["resample"],
    "lost_random": lost["random heads"],
    "noop_change": abs(lost["own values"]),
    "faithfulness": faithful["circuit"],
    "faithfulness_random": faithful["random heads"],
}

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"{TASK.replace('_', ' ').upper() if TASK == 'ioi' else TASK} in {MODEL}")
entries = [f"{layer}" for layer in range(n_layers)] + ["end"]
axes[0].plot(range(len(depth)), depth.tolist(), marker="o", color=plots.COLOURS[0])
axes[0].set_xticks(range(len(depth)) if len(depth) < 12 else range(0, len(depth), 5))
if len(depth) < 12:
    axes[0].set_xticklabels(entries)
plots.label(axes[0], "Logit lens", "before layer", "logit difference (nats)")
largest = dict(sorted(written.items(), key=lambda item: -abs(item[1]))[:8])
plots.bars(
    axes[1], largest, "Who writes the answer", y="share of the logit difference (nats)",
    highlight=[f"{layer}.{head}" for layer, head in circuit],
)  # fmt: skip
grid = torch.full((n_layers, n_heads), float("nan"))
for place, value in needed.items():
    grid[place] = value
exact_all = len(needed) == len(everything)
plots.head_scores(
    axes[2], grid if exact_all else estimate,
    "Share lost when a head is patched" + ("" if exact_all else " (estimate)"),
    signed=True, numbers=exact_all and len(needed) <= 40,
)  # fmt: skip
columns = places.shape[1]
plots.heatmap(
    axes[3], places, "Stream, clean into corrupt" + ("" if n_layers <= 4 else " (estimate)"),
    x="position", y="layer", signed=True, limits=(-1, 1),
    x_ticks=None if columns > 24 else [str(i) for i in range(columns)],
)  # fmt: skip
exact, guess = list(needed.values()), [estimate[place].item() for place in needed]
axes[4].scatter(exact, guess, s=16, color=plots.COLOURS[0])
reach = [min(exact + guess), max(exact + guess)]
axes[4].plot(reach, reach, color="0.5", linewidth=0.8, linestyle=":")
plots.label(axes[4], "A dot is a head; on the line both agree", "activation patching", "attribution patching")
shown = {
    "lost:\nmean": lost["mean"], "lost:\nresample": lost["resample"], "lost:\nrandom": lost["random heads"],
    "alone": faithful["circuit"], "alone:\nrandom": faithful["random heads"],
}  # fmt: skip
plots.bars(
    axes[5], shown, f"Needed and enough? {len(circuit)} heads of {len(everything)}",
    y="share of the logit difference", highlight=["lost:\nmean", "lost:\nresample", "alone"],
    marks={"all": 1.0},
)  # fmt: skip
run.save(fig, "circuit")

# %%
report = run.finish(metrics)
