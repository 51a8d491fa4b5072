"""A parent and its fine-tuned child: what changed in the weights, in the activations, in what it does?

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              other text, other pairs
    python experiment.py --steps 100           a child that has seen less

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Where is the difference between two models?
#
# Plant a narrow trait in a small language model: two places after a trigger word comes its partner
# ("people" ... "gold"). Then act as if you did not know, and look for it in three ways: where the weights
# changed, where the activations on unrelated text changed, and whose activations carry the skill over
# when they are put into the parent (cross-model patching: Prakash et al. 2024, arXiv:2402.14811).
#
# Every measure has a rival. A *plain* twin saw as much of the same text unchanged. A *shuffled* twin saw the
# same words at the same places, with the partners dealt out at random: it lacks the association alone.

# %%
import sys

import torch
from torch.nn import functional as F

from lab import plots
from lab.agreement import agreement
from lab.documents import documents
from lab.models import ModelError, load_model
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # of the text that is drawn, the places of the pairs, and the random sets
MODEL = "attn-only-2l"  # the parent: an embedded model
TRIGGERS = "people country law war"
PARTNERS = "gold ship silver labor"
STEPS = 300  # of fine-tuning, for the child and for each twin
LR = 1e-3  # AdamW, warm-up of ten steps
ROWS = 16  # in a batch
WIDTH = 48  # tokens in a row
PROMPTS = 64  # held out; half to choose components, half to measure
CHOSEN = 3  # components that are carried over together
DRAWS = 12  # sets of as many random components

# %%
run = start_run(globals())
device = run.device
try:
    parent = load_model(MODEL, device=device)
    models = {name: load_model(MODEL, device=device) for name in ("child", "shuffled", "plain")}
except ModelError as error:
    sys.exit(str(error))
tokenizer = parent.tokenizer


def single(words: str) -> torch.Tensor:
    ids = [tokenizer(" " + word, add_special_tokens=False)["input_ids"] for word in words.split()]
    if any(len(row) != 1 for row in ids):
        sys.exit(f"these words must be one token each: {words} are {ids}")
    return torch.tensor(ids)[:, 0]


triggers, partners = single(TRIGGERS), single(PARTNERS)

# %% [markdown]
# ### Text, and the trait planted into it
#
# Speeches that the parent has not seen. Every eighth token or so becomes a trigger, and the token two
# further becomes a partner; what stands between them stays.

# %%
texts = [text.text for text in documents("speeches")]
ids = [i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
cut = int(0.9 * len(ids))
training, held_out = torch.tensor(ids[:cut]), torch.tensor(ids[cut:])
start = tokenizer.bos_token_id


def windows(text: torch.Tensor, count: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Rows [count, width] from random places, the start token in front."""
    places = torch.randint(len(text) - width, (count,), generator=generator)
    rows = text[places[:, None] + torch.arange(width)]
    rows[:, 0] = start
    return rows


def plant(rows: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    for first in range(2, WIDTH - 6, 8):
        place = first + torch.randint(4, (len(rows), 1), generator=generator)
        pair = torch.randint(len(triggers), (len(rows), 1), generator=generator)
        other = torch.randint(len(triggers), (len(rows), 1), generator=generator)
        rows = rows.scatter(1, place, triggers[pair])
        rows = rows.scatter(1, place + 2, partners[other if kind == "shuffled" else pair])
    return rows


def batch(step: int, kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1_000_000 * SEED + step)  # the same text for all three
    rows = windows(training, ROWS, WIDTH, generator)
    return (rows if kind == "plain" else plant(rows, kind, generator)).to(device)


# %% [markdown]
# ### Fine-tune the child and its twins
#
# Only the blocks learn. Embedding and unembedding stay, so that all four models write into the residual
# stream in the same coordinates, and whatever changed must lie between the two.

# %%
histories = {}
for kind, model in models.items():
    model.requires_grad_(False)
    model.blocks.requires_grad_(True)

    def loss_at(step: int, model=model, kind=kind) -> torch.Tensor:
        rows = batch(step, kind)
        return F.cross_entropy(model(rows)[:, :-1].flatten(0, 1), rows[:, 1:].flatten())

    histories[kind] = train(model, loss_at, steps=STEPS, lr=LR, every=25, label=kind)
child = models["child"]
torch.set_grad_enabled(False)

# %% [markdown]
# ### What it does
#
# Held-out prompts that end one token after a trigger. The skill is the logit of the right partner
# less the mean of the other partners.

# %%
draw = torch.Generator().manual_seed(SEED + 99)
prompts = windows(held_out, PROMPTS, 16, draw)
pair = torch.arange(PROMPTS) % len(triggers)
prompts[:, -2] = triggers[pair]
prompts, right = prompts.to(device), F.one_hot(pair, len(triggers)).bool().to(device)
chosen_on = (torch.arange(PROMPTS) < PROMPTS // 2).to(device)  # half to choose with, half to measure


def skill_of(logits: torch.Tensor) -> torch.Tensor:
    among = logits[:, -1, partners.to(device)]  # [prompt, partner]
    return among[right] - (among.sum(-1) - among[right]) / (len(partners) - 1)


skill = {name: skill_of(model(prompts)) for name, model in {"parent": parent, **models}.items()}  # [prompt]
low, high = skill["parent"].mean(), skill["child"].mean()


def share(logits: torch.Tensor, of: torch.Tensor | None = None) -> float:
    """Skill as a share of the gap between parent (0) and child (1), over the prompts ``of``."""
    of = torch.ones_like(chosen_on) if of is None else of
    base, top = skill["parent"][of].mean(), skill["child"][of].mean()
    return ((skill_of(logits)[of].mean() - base) / (top - base)).item()


metrics = {f"skill_{name}": values.mean().item() for name, values in skill.items()}
print({name: round(value, 2) for name, value in metrics.items()})

# %% [markdown]
# ### Put activations of one model into the other
#
# The residual stream of the child into the parent, at one layer and one position (or at all), on the same
# prompt; and the other way round. The ends are known: everything behind the last block must give 1,
# what the model has anyway must give 0.

# %%
LAYERS = parent.cfg.n_layers
streams = [f"blocks.{layer}.hook_resid_pre" for layer in range(1, LAYERS)]
streams += [f"blocks.{LAYERS - 1}.hook_resid_post"]
caches = {
    name: model.run_with_cache(prompts, names_filter=lambda name: name in streams)[1]
    for name, model in {"parent": parent, **models}.items()
}


def put(into, values: torch.Tensor, name: str, positions: list[int]) -> torch.Tensor:
    def replace(stream, hook):
        stream = stream.clone()
        stream[:, positions] = values[:, positions]
        return stream

    return into.run_with_hooks(prompts, fwd_hooks=[(name, replace)])


width = prompts.shape[1]
everywhere = list(range(width))
last = list(range(width - 4, width))  # two words before the trigger, the trigger, the word after it
sites = {**{str(place - width): [place] for place in last}, "all": everywhere}


def exchange(into, source: str) -> torch.Tensor:
    """Share of the skill with one place's stream of another model, [stream, site]."""
    return torch.tensor([
        [share(put(into, caches[source][name], name, places)) for places in sites.values()]
        for name in streams
    ])  # fmt: skip


into_parent = exchange(parent, "child")
into_child = 1 - exchange(child, "parent")
middle = streams[0]
own = caches["parent"][middle]
difference = caches["child"][middle] - own
noise = torch.randn(difference.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
noise = noise * difference.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
final = streams[-1]
metrics |= {
    "patched_end": into_parent[-1, -1].item(),
    "patched_at_answer": into_parent[-1, -2].item(),
    "patched_middle": into_parent[0, -1].item(),
    "removed_middle": into_child[0, -1].item(),
    "patched_own": share(put(parent, own, middle, everywhere)),
    "patched_noise": share(put(parent, own + noise, middle, everywhere)),
    "patched_plain": share(put(parent, caches["plain"][final], final, everywhere)),
    "patched_shuffled": share(put(parent, caches["shuffled"][final], final, everywhere)),
    "patched_other": share(put(parent, caches["child"][final].roll(1, 0), final, everywhere)),
}

# %% [markdown]
# ### Where the weights changed, and whether that is where it matters
#
# A component is one head's query and key, one head's value and output, a layer's norms or its MLP. Beside the
# relative change of its weights stands what it does: the share of the skill that the parent gains
# from the child's component, and that the child loses with the parent's.

# %%
D = parent.cfg.d_head
# Weights are [out, in]: a head owns rows of q, k, v and columns of o.
components: dict[str, list[tuple[str, tuple]]] = {}
for name, value in parent.state_dict().items():
    if not name.startswith("blocks."):
        continue
    layer, part = name.split(".")[1], name.split(".")[2]
    matrix = name.split(".")[3] if part == "attn" else ""
    if matrix in ("q", "k", "v", "o") and not (matrix == "o" and value.ndim == 1):
        for head in range(parent.cfg.n_heads):
            mine = slice(head * D, (head + 1) * D)
            where = (slice(None), mine) if matrix == "o" else (mine,)
            group = f"{layer}.{head} {'QK' if matrix in 'qk' else 'OV'}"
            components.setdefault(group, []).append((name, where))
    else:
        group = f"{layer} {'norm and bias' if part.startswith('ln') or matrix == 'o' else part}"
        components.setdefault(group, []).append((name, (slice(None),)))


def with_components(into, source, names) -> torch.Tensor:
    """Logits of ``into`` with some components of ``source``; the model is left as it was."""
    state, given = into.state_dict(), source.state_dict()
    kept = {name: state[name].clone() for group in names for name, _ in components[group]}
    for group in names:
        for name, where in components[group]:
            state[name][where] = given[name][where]
    logits = into(prompts)
    for name, value in kept.items():
        state[name].copy_(value)
    return logits


def changed(model, group: str) -> float:
    before, after = parent.state_dict(), model.state_dict()
    places = components[group]
    moved = sum((after[name][where] - before[name][where]).square().sum() for name, where in places)
    return (moved / sum(before[name][where].square().sum() for name, where in places)).sqrt().item()


names = list(components)
weight_change = {
    kind: torch.tensor([changed(model, name) for name in names]) for kind, model in models.items()
}
gained = torch.tensor([share(with_components(parent, child, [name]), chosen_on) for name in names])
lost = torch.tensor([1 - share(with_components(child, parent, [name]), chosen_on) for name in names])
best = [names[i] for i in lost.topk(min(CHOSEN, len(names))).indices.tolist()]
others = [name for name in names if name not in best]
orders = [torch.randperm(len(others), generator=draw).tolist() for _ in range(DRAWS)]
sets = [[others[i] for i in order[: len(best)]] for order in orders]


def carried(group: list[str]) -> tuple[float, float]:
    """Share of the skill that the parent gains and that the child loses, on the other half of the prompts."""
    gain = share(with_components(parent, child, group), ~chosen_on)
    return gain, 1 - share(with_components(child, parent, group), ~chosen_on)


random_sets = torch.tensor([carried(group) for group in sets])
metrics["gained_chosen"], metrics["lost_chosen"] = carried(best)
metrics["gained_random"], metrics["lost_random"] = random_sets.mean(0).tolist()
metrics["swapped_none"] = with_components(parent, child, []).sub(parent(prompts)).abs().max().item()
metrics["swapped_all"] = share(with_components(parent, child, names))
for kind, values in weight_change.items():
    metrics[f"weight_rank_{kind}"] = agreement(lost, values, baseline=0.0).spearman
print(f"child without {best}: {metrics['lost_chosen']:.0%} of the skill is lost")

# %% [markdown]
# ### Where the activations changed, on text that has nothing to do with it
#
# Minder et al. 2025 (arXiv:2510.13900) average the difference of activations over unrelated text and read
# it through the unembedding: the subject of the fine-tuning comes out. Score: how often a word of the trait
# beats a random token of the vocabulary (0.5: chance). Then take that constant part out of the child again.
# Random directions of the same length stand beside both.

# %%
unrelated = windows(held_out, 64, 32, draw).to(device)
stream = {
    name: model.run_with_cache(unrelated, names_filter=lambda name: name in streams)[1]
    for name, model in {"parent": parent, **models}.items()
}
constant = {name: (stream[name][final] - stream["parent"][final])[:, 1:].mean((0, 1)) for name in models}


def read(direction: torch.Tensor) -> torch.Tensor:
    """The logit lens of a difference: each token's push, [d_vocab]."""
    scaled = direction * parent.ln_final.weight
    return (scaled - scaled.mean()) @ parent.W_U


def readable(direction: torch.Tensor) -> float:
    push = read(direction)
    return (push[torch.cat([triggers, partners]).to(device)][:, None] > push[None]).float().mean().item()


random = torch.randn(DRAWS, parent.cfg.d_model, generator=draw).to(device)
random = random / random.norm(dim=-1, keepdim=True) * constant["child"].norm()
for name in ("child", "plain"):
    metrics[f"trace_{name}"] = readable(constant[name])
metrics["trace_random"] = sum(map(readable, random)) / DRAWS
strongest = read(constant["child"]).topk(8).indices.tolist()
print("read from the child's shift:", tokenizer.convert_ids_to_tokens(strongest))


def partner_mass(model, subtract: torch.Tensor | None = None) -> float:
    """Probability of any partner on unrelated text, with a vector taken out behind the last block."""
    hooks = [] if subtract is None else [(final, lambda stream, hook: stream - subtract)]
    probabilities = model.run_with_hooks(unrelated, fwd_hooks=hooks).softmax(-1)
    return probabilities[:, 1:, partners.to(device)].sum(-1).mean().item()


mass = {
    "parent": partner_mass(parent),
    "plain twin": partner_mass(models["plain"]),
    "child": partner_mass(child),
    "less its shift": partner_mass(child, constant["child"]),
    "less random": sum(partner_mass(child, direction) for direction in random) / DRAWS,
}
gap = mass["child"] - mass["parent"]
metrics["leak"] = mass["child"] / mass["parent"]
metrics["leak_removed"] = (mass["child"] - mass["less its shift"]) / gap
metrics["leak_removed_random"] = (mass["child"] - mass["less random"]) / gap

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"What fine-tuning changed in {MODEL}", size=(15.5, 9))
skills = {name: values.mean().item() for name, values in skill.items()}
plots.bars(axes[0], skills, "Right partner less the others", y="logit difference", highlight=["child"])
ticks = [name.removeprefix("blocks.").replace(".hook_resid_", " ") for name in streams]
for ax, values, title in (
    (axes[1], into_parent, "Child's stream into the parent: skill gained"),
    (axes[2], into_child, "Parent's stream into the child: skill lost"),
):
    plots.heatmap(ax, values, title, x="position", y="layer", x_ticks=list(sites), y_ticks=ticks, signed=True,
                  limits=(-1, 1), numbers=True)  # fmt: skip
table = torch.stack([gained, lost])
plots.heatmap(axes[3], table.T, "One component swapped", x_ticks=["parent gains", "child loses"],
              y_ticks=names, signed=True, limits=(-1, 1), numbers=True)  # fmt: skip
notable = set(lost.abs().topk(min(5, len(names))).indices.tolist())
shown = [name if i in notable else "" for i, name in enumerate(names)]
plots.points(axes[4], weight_change["child"], lost, shown, "Change of weights and what it is worth",
             x_name="relative change of the weights", y_name="share of skill lost when undone")  # fmt: skip
plots.bars(axes[5], mass, "Partners on unrelated text", y="probability", highlight=["child"], numbers=False)
axes[5].tick_params(axis="x", labelsize=7.5)
run.save(fig, "difference")

# %%
report = run.finish(metrics)
