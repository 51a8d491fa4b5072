"""Eleven techniques on a model whose circuit was written by hand: who finds it, and what fools whom?

    python experiment.py                   the run that expected.json describes
    python experiment.py --seed 1          other places for the parts, other noise, other prompts
    python experiment.py --sharpness 3     attention that is not saturated

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Marking techniques by a known answer
#
# On a real model nobody knows the circuit, so techniques are compared with each other. Here the weights were
# written by hand (`lab/planted_circuit.py`, worth reading first): `<start> k v k v k v k v q <end>`, and the
# model names the value behind the key q. Three heads of 24 carry the answer: *previous*, *match*, *mover*.
# Four mislead, as parts of language models do: a *constant*, a *crowd*, a *backup*, a *decoy*. The other 17
# are random and weak. Every technique gives each head a score; the circuit is marked against all the rest.

# %%
from functools import partial

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from lab import planted_circuit as lookup_model
from lab import plots
from lab.attribution import edge_attribution, edge_patching, strongest
from lab.gradient_patching import gradient_maps
from lab.lens import logit_attribution
from lab.patching import Patcher, logit_difference
from lab.planted_circuit import lookups, planted_circuit
from lab.probes import probe_map
from lab.results import start_run

# %% knobs
SEED = 0  # places of the parts, random heads, prompts
SHARPNESS = 20.0  # attention score at which the key is found: the larger, the more saturated
NOISE = 0.2  # norm of what a random head writes, where a token has norm 1
PROMPTS = 64  # for every technique but the probes
THRESHOLD = 0.1  # a head counts as found from this share of the technique's largest score on
STEPS = 20  # points between corrupted and clean for integrated gradients

# %%
run = start_run(globals())
device = run.device
planted = planted_circuit(SEED, sharpness=SHARPNESS, noise=NOISE)
model = planted.model.to(device)
layers, heads = lookup_model.LAYERS, lookup_model.HEADS
hooks = [f"blocks.{layer}.attn.hook_z" for layer in range(layers)]
places = [(layer, head) for layer in range(layers) for head in range(heads)]
truth = planted.truth()  # [layer, head]
by_role = {name: planted.roles[name] for name in sorted(planted.roles, key=planted.roles.__getitem__)}
is_random = torch.tensor([planted.role(*place) == "random" for place in places]).view(layers, heads)

# %% [markdown]
# ### Two counterfactuals
#
# For each prompt one in which the key that is asked for has traded places with another (*keys*), and one in
# which their values have (*values*). Both give the same other answer. The metric is the logit of the right
# value less that of the other, per prompt; where a single number stands for a head it is the mean *size* of
# its effect, since effects of opposite sign would cancel in a mean.

# %%
data = {name: lookups(PROMPTS, SEED, name) for name in ("keys", "values")}
keys = data["keys"]
clean, corrupted = keys.tokens.to(device), keys.corrupted.to(device)
answers, others = keys.answers.to(device), keys.others.to(device)
metric = logit_difference(answers, others)


def difference(logits: Tensor) -> Tensor:
    """Right value less the other one, at the last position: [row] in nats."""
    chosen = logits[:, -1].gather(-1, torch.stack([answers, others], -1))
    return chosen[:, 0] - chosen[:, 1]


def accuracy(logits: Tensor) -> float:
    return (logits[:, -1].argmax(-1) == answers).float().mean().item()


@torch.no_grad()
def outputs(tokens: Tensor) -> Tensor:
    """What every head hands on: [layer, row, position, head, d_head]."""
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in hooks)
    return torch.stack([cache[name] for name in hooks])


@torch.no_grad()
def run_with(tokens: Tensor, chosen: list[tuple[int, int]], new: Tensor) -> Tensor:
    """Logits of ``tokens`` where these heads hand on ``new`` [layer, row, position, head, d_head] instead."""

    def put(z: Tensor, hook: HookPoint, layer: int) -> Tensor:
        z = z.clone()
        for head in (head for at, head in chosen if at == layer):
            z[:, :, head] = new[layer, :, :, head]
        return z

    touched = [(hooks[layer], partial(put, layer=layer)) for layer in sorted({layer for layer, _ in chosen})]
    return model.run_with_hooks(tokens, fwd_hooks=touched)



def effects(tokens: Tensor, new: Tensor) -> Tensor:
    """By how much the difference rises when one head hands on ``new``: [layer, head, row] in nats."""
    before = difference(run_with(tokens, [], new))
    found = [difference(run_with(tokens, [place], new)) - before for place in places]
    return torch.stack(found).view(layers, heads, -1).cpu()


def size(effect: Tensor) -> Tensor:
    return effect.abs().mean(-1)


z_clean, z_corrupted = outputs(clean), outputs(corrupted)
z_many = outputs(lookups(1000, SEED + 100).tokens.to(device))
shuffled = z_many[:, torch.randperm(1000, generator=torch.Generator().manual_seed(SEED))[:PROMPTS].to(device)]

# %% [markdown]
# ### The causal techniques: put something else in a head's place
#
# *Patching* takes the clean output into the corrupted run and asks what comes back. *Ablation* takes an
# output out of the clean run, and has to put something there: zero, the mean over prompts, another prompt's.

# %%
exact = effects(corrupted, z_clean)
ablated = {
    "zero ablation": effects(clean, torch.zeros_like(z_clean)),
    "mean ablation": effects(clean, z_many.mean(1, keepdim=True).expand_as(z_clean)),
    "resample ablation": effects(clean, shuffled),
}
scores = {
    "patching, keys traded": size(exact),
    "patching, values traded": size(effects(data["values"].corrupted.to(device), z_clean)),
    **{name: size(effect) for name, effect in ablated.items()},
}
whole = run_with(clean, [], z_clean)
patcher = Patcher(model, clean, corrupted, metric)
metrics = {
    "accuracy": accuracy(whole),
    "noop_change": effects(corrupted, z_corrupted).abs().max().item(),
    "patcher_apart": (patcher.heads().cpu() - patcher.baseline()[1] - exact.mean(-1)).abs().max().item(),
}

# %% [markdown]
# ### The gradient techniques: estimate the same without doing it
#
# *Attribution patching* multiplies the change of an output by the metric's gradient in the corrupted run
# (here prompt by prompt, as the exact effects are). *EAP* does it for edges, *EAP-IG* with gradients at many
# points between the corrupted and the clean embeddings; a head's score is its strongest edge.

# %%
def estimate() -> Tensor:
    """Attribution patching: [layer, head, row] in nats."""
    kept = []

    def keep(z: Tensor, hook: HookPoint) -> Tensor:
        kept.append(z.requires_grad_())
        return z

    with torch.enable_grad():
        total = difference(model.run_with_hooks(corrupted, fwd_hooks=[(name, keep) for name in hooks])).sum()
        gradients = torch.stack(torch.autograd.grad(total, kept))
    return ((z_clean - z_corrupted) * gradients).sum((2, 4)).transpose(1, 2).cpu()


def edge_scores(steps: int, rows: int = 24) -> Tensor:
    """The strongest edge out of every head, its size averaged over single prompts: [layer, head]."""
    found = torch.zeros(layers, heads)
    for row in range(min(rows, PROMPTS)):
        one = slice(row, row + 1)
        alone = logit_difference(answers[one], others[one])
        best = torch.zeros(layers, heads)
        for (writer, _), value in edge_attribution(
            model, clean[one], corrupted[one], alone, steps=steps
        ).items():
            if writer.kind == "head":
                best[writer.layer, writer.head] = max(best[writer.layer, writer.head].item(), abs(value))
        found += best / min(rows, PROMPTS)
    return found


guess = estimate()
scores |= {"attribution patching": size(guess), "EAP": edge_scores(1), "EAP-IG": edge_scores(STEPS)}
metrics["gradient_apart"] = (
    (gradient_maps(model, clean, corrupted, metric).heads.cpu() - patcher.baseline()[1] - guess.mean(-1))
    .abs().max().item()
)  # fmt: skip

# %% [markdown]
# ### The techniques that only look
#
# *Direct logit attribution* projects what a head writes on the unembedding: of the right value, or of the
# right one less the other. A *probe* asks whether the answer can be read off a head's output at q or `<end>`;
# its score is by how much held-out accuracy exceeds that of naming the commonest answer.

# %%
direct = {
    "DLA, logit": logit_attribution(model, clean, answers).heads()[..., -1].cpu(),
    "DLA, difference": logit_attribution(model, clean, answers, others).heads()[..., -1].cpu(),
}  # each [layer, head, row]
scores |= {name: size(value) for name, value in direct.items()}
many = lookups(1000, SEED + 100)
ends = (lookup_model.QUERY, lookup_model.END)
sites = {(*place, at): z_many[place[0], :, at, place[1]].cpu() for place in places for at in ends}
probes = probe_map(sites, many.answers, kind="ridge", penalty=1e-3, repeats=1, seed=SEED)
scores["probe"] = torch.tensor(
    [max(probes[(*place, at)].held_out - probes[(*place, at)].majority for at in ends) for place in places]
).view(layers, heads).clamp_min(0)

# %% [markdown]
# ### Marks
#
# The *area under the ROC curve* is the chance that a head of the circuit scores above one that is not in it,
# 0.5 for random scores. It looks at the order alone. In practice one draws a line: of the heads above it,
# *precision* is the share that belongs to the circuit, and *recall* the share of the circuit that is there.

# %%
def auc(score: Tensor) -> float:
    right, wrong = score[truth == 1], score[truth == 0]
    above = (right[:, None] > wrong[None]).float() + 0.5 * (right[:, None] == wrong[None]).float()
    return above.mean().item()


def above_line(score: Tensor) -> tuple[float, float]:
    """Precision and recall of the heads that score at least ``THRESHOLD`` of the largest."""
    found = score >= THRESHOLD * score.max()
    right = truth[found].sum().item()
    return right / found.sum().item(), right / truth.sum().item()


marks = {name: auc(score) for name, score in scores.items()}
lines = {name: above_line(score) for name, score in scores.items()}
draws = torch.rand(200, layers, heads, generator=torch.Generator().manual_seed(SEED))
marks["random scores"] = sum(map(auc, draws)) / len(draws)
pairs = torch.tensor([above_line(draw) for draw in draws]).mean(0)
lines["random scores"] = (pairs[0].item(), pairs[1].item())
for name, mark in marks.items():
    short = name.replace(", ", "_").replace(" ", "_").replace("-", "_").lower()
    metrics |= {f"auc_{short}": mark, f"precision_{short}": lines[name][0], f"recall_{short}": lines[name][1]}
    print(f"{name:<26}AUC {mark:.2f}   precision {lines[name][0]:.2f}   recall {lines[name][1]:.2f}")

circuit = [planted.roles[name] for name in planted.circuit]
spare = [place for place in places if is_random[place]]
order = torch.randperm(len(spare), generator=torch.Generator().manual_seed(SEED)).tolist()
metrics["circuit_removed"] = accuracy(run_with(clean, circuit, shuffled))
metrics["random_removed"] = accuracy(run_with(clean, [spare[index] for index in order[:3]], shuffled))

# %% [markdown]
# ### Where each one breaks
#
# *Saturation*: the match's softmax is certain, so its gradient is nil and the head that feeds it gets no
# credit, though exchanging it turns the answer round (Kramar et al. 2024, arXiv:2403.00745). *Backup*: with
# the match set to zero another head takes over. *Constant*: zero is not what it writes on any prompt.
# *Crowd*: lifting all values alike looks like support for the right one. *Decoy*: readable is not read.

# %%
def share(effect: Tensor, role: str) -> float:
    """Mean effect of a role's head, as a share of what separates clean from corrupted."""
    return effect[planted.roles[role]].mean().item() / gap


gap = patcher.baseline()[0] - patcher.baseline()[1]
ours, edges = planted.roles["previous"], {}
for steps in (1, STEPS):
    edges[steps] = edge_attribution(model, clean, corrupted, metric, steps=steps)
exact_edges = edge_patching(model, clean, corrupted, metric)
into_match = next(e for e in exact_edges if str(e[0]) == f"{ours[0]}.{ours[1]}" and str(e[1]) == "attn 1")
both = [planted.roles["match"], planted.roles["backup"]]
weak = torch.stack([exact[is_random].flatten(), guess[is_random].flatten()])
metrics |= {
    "previous_exact": share(exact, "previous"),
    "previous_gradient": share(guess, "previous"),
    "previous_edge_ig": edges[STEPS][into_match] / exact_edges[into_match],
    "edges_shared": len({*strongest(edges[STEPS], 4)} & {*strongest(exact_edges, 4)}) / 4,
    "small_correlation": torch.corrcoef(weak)[0, 1].item(),
    "match_zeroed": share(-ablated["zero ablation"], "match"),
    "match_resampled": share(-ablated["resample ablation"], "match"),
    "both_zeroed": accuracy(run_with(clean, both, torch.zeros_like(z_clean))),
    "constant_zeroed": share(-ablated["zero ablation"], "constant"),
    "constant_mean": abs(share(ablated["mean ablation"], "constant")),
    "crowd_logit": direct["DLA, logit"][planted.roles["crowd"]].mean().item(),
    "crowd_difference": abs(direct["DLA, difference"][planted.roles["crowd"]].mean().item()),
    "decoy_probe": probes[(*planted.roles["decoy"], lookup_model.QUERY)].held_out,
    "decoy_patched": abs(share(exact, "decoy")),
    "previous_values": abs(scores["patching, values traded"][ours].item() / gap),
}

# %%
SHARPNESSES = [1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0]
curves: dict[str, list[float]] = {"exact": [], "one gradient": [], f"{STEPS} gradients": []}
for sharpness in SHARPNESSES:
    other = planted_circuit(SEED, sharpness=sharpness, noise=NOISE)
    network = other.model.to(device)
    true = edge_patching(network, clean, corrupted, metric, [into_match])[into_match]
    curves["exact"].append(true)
    for name, steps in zip(list(curves)[1:], (1, STEPS), strict=True):
        curves[name].append(edge_attribution(network, clean, corrupted, metric, steps=steps)[into_match])

# %%
fig, axes = plots.figure(2, 2, "Techniques on a circuit that is known", size=(12.5, 9))
table = torch.stack(
    [torch.stack([score[place] for place in by_role.values()] + [score[is_random].max()]) / score.max()
     for score in scores.values()]
)  # fmt: skip
columns = [name + (" *" if name in planted.circuit else "") for name in by_role] + ["random (most)"]
plots.heatmap(
    axes[0], table, "Score of each part, largest of the technique = 1 (* circuit)", x_ticks=columns,
    y_ticks=list(scores), limits=(0, 1), numbers=True, bar=False,
)  # fmt: skip
axes[0].tick_params(axis="x", labelrotation=30)
rows = list(marks)
plots.heatmap(
    axes[1], [[marks[name], *lines[name]] for name in rows], "Is the circuit told from the rest?",
    x_ticks=["AUC", f"precision above {THRESHOLD:g}", f"recall above {THRESHOLD:g}"], y_ticks=rows,
    limits=(0, 1), numbers=True, bar=False,
)  # fmt: skip
for (name, values), style in zip(curves.items(), ("-", "--", "-."), strict=True):
    axes[2].plot(SHARPNESSES, values, style, marker="o", markersize=4, label=name)
axes[2].axvline(SHARPNESS, color="0.45", linewidth=0.9, linestyle=":")
axes[2].legend(fontsize=8)
plots.label(axes[2], "Edge previous -> match: effect and estimates", "sharpness of the match (score)", "nats")
for mask, name, colour in ((is_random, "random heads", 0), (~is_random, "heads with a role", 1)):
    axes[3].scatter(exact[mask].abs().flatten() + 1e-7, guess[mask].abs().flatten() + 1e-7, s=6, alpha=0.5,
                    color=plots.COLOURS[colour], label=name)  # fmt: skip
axes[3].plot([1e-7, 30], [1e-7, 30], color="0.45", linewidth=0.9, linestyle=":")
axes[3].set(xscale="log", yscale="log", xlim=(1e-5, 40), ylim=(1e-7, 40))
axes[3].legend(fontsize=8, loc="upper left")
plots.label(
    axes[3], "Attribution patching, one point a head and prompt", "exact effect (nats)", "estimate (nats)"
)
run.save(fig, "techniques")

# %%
report = run.finish(metrics)
