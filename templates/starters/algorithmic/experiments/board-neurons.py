"""MLP neurons of an Othello model: how far does one neuron stand for one fact about the board?

    python experiment.py                       the run that expected.json describes
    python experiment.py --seed 1              other games, other weights
    python experiment.py --d-mlp 64            fewer neurons than features: more superposition?

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## What do single neurons say?
#
# A small transformer learns legal moves of 4 x 4 Othello from moves alone. Its residual stream holds the
# board linearly (Nanda, Lee & Wattenberg 2023, arXiv:2309.00941). Do its MLP *neurons* stand for single
# facts, such as "c2 is mine" or "a move at a1 is legal"? Or does each answer to many facts, and each
# fact to many neurons, as superposition predicts (Elhage et al. 2022, arXiv:2209.10652)?

# %%
import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from lab import othello, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # games, weights
LAYERS = 2  # transformer layers
D_MODEL = 64  # width of the residual stream
D_MLP = 256  # neurons per layer
HEADS = 4  # attention heads per layer
GAMES = 100_000  # random games; one opening in ten is held out
LENGTH = 12  # tokens of a game that the model sees (moves and passes)
STEPS = 1400  # training steps
BATCH = 64  # games per step
LR = 6e-3

# %%
run = start_run(globals())
device = run.device

# %% [markdown]
# ### The data: random legal games
#
# A token is a square, or "pass" where a player cannot move. Passes are tokens, so the players take
# turns at every token, and `state` can always be told from the side of the player who moves next:
# 1 mine, -1 theirs, 0 empty. The 4 x 4 board has only 60,060 games, so a new game alone proves little:
# we hold out one in ten of the *openings* (the first five tokens) with all that follows them.

# %%
games = othello.random_games(GAMES, 4, LENGTH, torch.Generator().manual_seed(SEED))
opening = (games.tokens[:, :5] * 18 ** torch.arange(5)).sum(1)
which, opening = opening.unique(return_inverse=True)
held_out = torch.rand(len(which), generator=torch.Generator().manual_seed(SEED + 1)) < 0.1
train_rows = (~held_out[opening]).nonzero()[:, 0]
test, probe_set = games[held_out[opening].nonzero()[:1000, 0]], games[train_rows[:3000]]
SQUARES, VOCABULARY = 16, 18

# %% [markdown]
# ### The model, and its training
#
# Moves are random, so the best possible answer is known: the same probability for every legal token.
# We train towards that distribution. It is next-move prediction with the luck of the draw averaged out.


# %%
def build(seed: int) -> TransformerBridge:
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_MODEL // HEADS, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH,
        d_vocab=VOCABULARY, d_vocab_out=VOCABULARY, d_mlp=D_MLP, act_fn="gelu", normalization_type="LNPre",
        init_mode="gpt2", initializer_range=0.8 / D_MODEL**0.5, seed=seed,
    )  # fmt: skip
    return TransformerBridge.boot_native(config, device=device)


model, untrained = build(SEED), build(SEED + 1).eval()
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    batch = games[train_rows[torch.randint(len(train_rows), (BATCH,), generator=generator)]]
    target = batch.legal / batch.legal.sum(-1, keepdim=True).clamp(min=1)  # [game, step, token]
    log_probs = model(batch.tokens.to(device)).log_softmax(-1)
    return -(log_probs * target.to(device)).sum(-1)[batch.going.to(device)].mean()


def legal_share(logits: torch.Tensor, played: othello.Games) -> float:
    """Share of positions (of games that go on) where the most likely token is legal; [game, step, token]."""
    top_is_legal = played.legal.gather(-1, logits.cpu().argmax(-1, keepdim=True))[..., 0]
    return top_is_legal[played.going].float().mean().item()


def evaluate() -> dict[str, float]:
    return {"legal_share": legal_share(model(test.tokens.to(device)), test)}


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.01, warmup=30, decay=True, clip=1.0,
    evaluate=evaluate, every=max(1, STEPS // 14),
)  # fmt: skip
with torch.no_grad():
    clean = model(test.tokens.to(device))  # [game, step, token]
    legal_untrained = legal_share(untrained(test.tokens.to(device)), test)
empty = test.state == 0
legal_of_empty = (test.legal[..., :SQUARES].sum(-1) / empty.sum(-1).clamp(min=1))[test.going]
metrics = {
    "legal_share": history["legal_share"][-1],
    "legal_any_empty": legal_of_empty.mean().item(),  # playing on any empty square
    "legal_untrained": legal_untrained,
}

# %% [markdown]
# ### Neurons and facts
#
# The activations of all neurons (`mlp.hook_post`) at every position, and a list of yes/no facts about the
# position: each square mine, theirs, or empty; each square legal to move to; each square just played.


# %%
@torch.no_grad()
def neurons(net: TransformerBridge, played: othello.Games) -> torch.Tensor:
    """[position, layer * d_mlp], over positions of games that go on."""
    _, cache = net.run_with_cache(played.tokens.to(device))
    layers = [cache[f"blocks.{l}.mlp.hook_post"] for l in range(LAYERS)]
    return torch.cat(layers, dim=-1)[played.going.to(device)]


def facts(played: othello.Games) -> torch.Tensor:
    """[position, fact] bool, in the order of KINDS, 16 squares each."""
    state, legal = played.state[played.going], played.legal[played.going][:, :SQUARES]
    just = F.one_hot(played.tokens[played.going], VOCABULARY)[:, :SQUARES] > 0
    return torch.cat([state == 1, state == -1, state == 0, legal, just], dim=1).to(device)


KINDS = ["mine", "theirs", "empty", "legal", "just played"]
names = [f"{square} {kind}" for kind in KINDS for square in othello.names(4)[:SQUARES]]
true = {"fit": facts(probe_set), "test": facts(test)}
often = (true["fit"].float().mean(0) > 0.01) & (true["fit"].float().mean(0) < 0.99)  # facts that vary
kept = often.nonzero()[:, 0]
names = [names[i] for i in kept.tolist()]
true = {split: values[:, kept] for split, values in true.items()}
print(f"{LAYERS * D_MLP} neurons, {len(names)} facts")

# %% [markdown]
# ### How well does one neuron tell one fact? AUROC
#
# AUROC: the chance that the neuron is more active at a random position where the fact holds than at one
# where it does not; 0.5 is useless, 1 is perfect (and 0 too, with the sign turned). We choose each neuron's
# best fact on training games, and score it on held-out openings. Controls: an untrained model, and facts
# shuffled over positions (the best of many facts looks good by luck: this is how good). Mind the first:
# an untrained neuron sees little but the last move, and so answers sharply to *that*.


# %%
def auroc(activations: torch.Tensor, holds: torch.Tensor) -> torch.Tensor:
    """AUROC of every neuron for every fact, [neuron, fact], from ranks (Mann and Whitney's U)."""
    ranks = activations.T.contiguous().argsort(1).argsort(1).float() + 1  # [neuron, position]
    yes = holds.float()
    n_yes = yes.sum(0).clamp(min=1)
    n_no = (len(yes) - yes.sum(0)).clamp(min=1)
    return (ranks @ yes - n_yes * (n_yes + 1) / 2) / (n_yes * n_no)


def best_facts(acts: dict[str, torch.Tensor], holds: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Each neuron's best fact on the fit set, and how well it tells it on the test set (0.5 to 1)."""
    on_fit, on_test = (auroc(acts[split], holds[split]) - 0.5 for split in ("fit", "test"))
    fact = on_fit.abs().argmax(1)
    sign = on_fit.gather(1, fact[:, None]).sign()
    return fact, 0.5 + (on_test.gather(1, fact[:, None]) * sign)[:, 0], on_test.abs() + 0.5


acts = {"fit": neurons(model, probe_set)[::7], "test": neurons(model, test)[::2]}
untrained_acts = {"fit": neurons(untrained, probe_set)[::7], "test": neurons(untrained, test)[::2]}
true = {"fit": true["fit"][::7], "test": true["test"][::2]}
mixing = torch.Generator().manual_seed(SEED + 2)
shuffled = {
    split: holds[torch.randperm(len(holds), generator=mixing).to(device)] for split, holds in true.items()
}
fact, told, table = best_facts(acts, true)  # [neuron], [neuron], [neuron, fact]
_, told_untrained, table_untrained = best_facts(untrained_acts, true)
_, told_shuffled, _ = best_facts(acts, shuffled)
metrics["told_median"], metrics["told_untrained"] = told.median().item(), told_untrained.median().item()
metrics["told_shuffled"] = told_shuffled.median().item()
metrics["sharp_share"] = (told > 0.9).float().mean().item()
metrics["sharp_untrained"] = (told_untrained > 0.9).float().mean().item()
for neuron in told.topk(5).indices.tolist():
    print(f"layer {neuron // D_MLP} neuron {neuron % D_MLP:3d}: {names[fact[neuron]]}, {told[neuron]:.3f}")

# %% [markdown]
# ### One fact is not the whole neuron
#
# How much of a neuron's variance does its best fact explain, and how much do all facts together, still
# one by one (linearly)? If the first is small and the second large, the neuron mixes facts; what is left
# over is for facts in combination, like the rules "a1 mine and b1 theirs" that Lin et al. 2024 describe.


# %%
def explained(acts: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Share of each neuron's variance on the test set that a linear map of ``inputs`` explains, [neuron]."""
    x = {split: F.pad(values.float(), (0, 1), value=1.0) for split, values in inputs.items()}
    gram = x["fit"].T @ x["fit"] + 1e-3 * len(x["fit"]) * torch.eye(x["fit"].shape[1], device=device)
    weights = torch.linalg.solve(gram, x["fit"].T @ acts["fit"])
    missed = (acts["test"] - x["test"] @ weights).square().sum(0)
    return 1 - missed / (acts["test"] - acts["test"].mean(0)).square().sum(0).clamp(min=1e-9)


def correlation_squared(acts: torch.Tensor, holds: torch.Tensor) -> torch.Tensor:
    """[neuron, fact]: what one fact alone explains."""
    a = F.normalize(acts - acts.mean(0), dim=0)
    f = F.normalize(holds.float() - holds.float().mean(0), dim=0)
    return (a.T @ f).square()


one = correlation_squared(acts["fit"], true["fit"]).argmax(1)
one = correlation_squared(acts["test"], true["test"]).gather(1, one[:, None])[:, 0]
every = explained(acts, true).clamp(min=0)
every_shuffled = explained(acts, shuffled).clamp(min=0)
metrics["r2_one_fact"], metrics["r2_all_facts"] = one.median().item(), every.median().item()
metrics["r2_all_shuffled"] = every_shuffled.median().item()

# %% [markdown]
# ### Superposition: facts per neuron, neurons per fact
#
# Count, for each neuron, the facts that it tells with an AUROC over 0.7 (a neuron with one meaning would
# have one, or a few that go together), and compare reading a fact from its best neuron with reading it
# from all neurons of the layer by a linear map.

# %%
several = (table > 0.7).float().sum(1)  # facts per neuron
metrics["facts_per_neuron"] = several.mean().item()
best_single = table.max(0).values  # [fact]


def read_auroc(acts: dict[str, torch.Tensor], holds: dict[str, torch.Tensor]) -> torch.Tensor:
    """AUROC of a linear reader of all neurons, for each fact, [fact]."""
    x = {split: F.pad(values, (0, 1), value=1.0) for split, values in acts.items()}
    gram = x["fit"].T @ x["fit"] + 1e-2 * len(x["fit"]) * torch.eye(x["fit"].shape[1], device=device)
    weights = torch.linalg.solve(gram, x["fit"].T @ holds["fit"].float())
    reading = x["test"] @ weights  # [position, fact]
    return torch.stack([auroc(reading[:, [i]], holds["test"][:, [i]])[0, 0] for i in range(len(names))])


population = read_auroc(acts, true)
kind_of = [next(kind for kind in KINDS if name.endswith(" " + kind)) for name in names]


def by_kind(values: torch.Tensor) -> dict[str, float]:
    return {k: values[[i for i, kind in enumerate(kind_of) if kind == k]].mean().item() for k in KINDS}


single_by_kind, population_by_kind = by_kind(best_single), by_kind(population)
single_untrained = by_kind(table_untrained.max(0).values)
metrics["move_best_neuron"] = single_by_kind["legal"]
metrics["move_best_untrained"] = single_untrained["legal"]
owners = [i for i, kind in enumerate(kind_of) if kind in ("mine", "theirs")]
metrics["owner_best_neuron"] = best_single[owners].mean().item()
metrics["owner_population"] = population[owners].mean().item()

# %% [markdown]
# ### Do the neurons for "this move is legal" matter for that move?
#
# For every square, the 32 neurons that best tell "legal here" are set to their mean, and we watch how often
# a legal move there is missed. Controls: 32 random neurons, the 32 of another square, none (no-op), all.

# %%
PER_SQUARE = 32
mean_activation = torch.stack(
    [acts["fit"][:, l * D_MLP : (l + 1) * D_MLP].mean(0) for l in range(LAYERS)]
)  # [layer, d_mlp]


@torch.no_grad()
def logits_without(chosen: torch.Tensor) -> torch.Tensor:
    """Logits with the ``chosen`` neurons (indices over all layers) at their mean; [game, step, token]."""

    def ablate(layer: int):
        mine = chosen[chosen // D_MLP == layer] % D_MLP

        def replace(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
            value[..., mine] = mean_activation[layer][mine]
            return value

        return replace

    hooks = [(f"blocks.{l}.mlp.hook_post", ablate(l)) for l in range(LAYERS)]
    return model.run_with_hooks(test.tokens.to(device), fwd_hooks=hooks)


going = test.going.to(device)
is_legal = test.legal.to(device)[going]  # [position, token]


def probability(logits: torch.Tensor, square: int) -> float:
    """Mean probability of a move at ``square`` where it is legal."""
    return logits.softmax(-1)[going][is_legal[:, square], square].mean().item()


legal_facts = {name.split()[0]: i for i, name in enumerate(names) if name.endswith(" legal")}
order = list(legal_facts)
shares: dict[str, list[float]] = {"none": [], "its own": [], "another square's": [], "random": [], "all": []}
all_neurons = torch.arange(LAYERS * D_MLP)
gone = logits_without(all_neurons)
picks = {s: (table[:, i]).topk(PER_SQUARE).indices.cpu() for s, i in legal_facts.items()}
lost = {s: logits_without(pick) for s, pick in picks.items()}
for index, s in enumerate(order):
    square = othello.names(4).index(s)
    random = torch.randperm(LAYERS * D_MLP, generator=mixing)[:PER_SQUARE]
    base = probability(clean, square)
    shares["none"].append(1.0)
    shares["its own"].append(probability(lost[s], square) / base)
    shares["another square's"].append(probability(lost[order[index - 5]], square) / base)
    shares["random"].append(probability(logits_without(random), square) / base)
    shares["all"].append(probability(gone, square) / base)
metrics["noop_change"] = (logits_without(all_neurons[:0]) - clean).abs().max().item()
left = {name: sum(values) / len(values) for name, values in shares.items()}
metrics["left_own"], metrics["left_other"] = left["its own"], left["another square's"]
metrics["left_random"], metrics["left_all"] = left["random"], left["all"]

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"4 x 4 Othello: {LAYERS * D_MLP} neurons and {len(names)} facts")
plots.loss_curves(
    axes[0], history, ["legal_share"], log=False, y="share of positions", marks={
        "any empty square": metrics["legal_any_empty"], "untrained": metrics["legal_untrained"],
    }, title=f"Held-out openings: {metrics['legal_share']:.1%} of moves legal",
)  # fmt: skip
samples = {"trained": told, "untrained": told_untrained, "shuffled facts": told_shuffled}
for index, (name, values) in enumerate(samples.items()):
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index], "label": name}
    axes[1].hist(values.tolist(), bins=40, range=(0.4, 1), histtype="step", linewidth=1.5, **style)
axes[1].legend(fontsize=8, frameon=False, loc="upper right")
plots.label(axes[1], "Each neuron and its best fact", "AUROC on held-out openings", "neurons")
groups = {
    "best neuron": single_by_kind,
    "all neurons": population_by_kind,
    "best, untrained": single_untrained,
}
for index, (name, by) in enumerate(groups.items()):
    places = [i + 0.28 * (index - 1) for i in range(len(KINDS))]
    axes[2].bar(places, list(by.values()), 0.28, color=plots.COLOURS[index], label=name)
axes[2].set_xticks(range(len(KINDS)), KINDS)
axes[2].set_ylim(0.5, 1.16)
axes[2].legend(fontsize=8, frameon=False, ncols=3, loc="upper center")
plots.label(axes[2], "Telling a fact: one neuron or all", "kind of fact (mean over squares)", "AUROC")
top = int(best_single[list(legal_facts.values())].argmax())
neuron = int(table[:, list(legal_facts.values())[top]].argmax())
signed = auroc(acts["test"][:, [neuron]], true["test"])[0]
portrait = torch.full((len(KINDS), SQUARES), 0.5)
for i, name in enumerate(names):
    square, kind = name.split(" ", 1)
    portrait[KINDS.index(kind), othello.names(4).index(square)] = signed[i]
plots.heatmap(
    axes[3], portrait - 0.5, f"Layer {neuron // D_MLP} neuron {neuron % D_MLP}: AUROC - 0.5",
    x="square", y="", x_ticks=othello.names(4)[:SQUARES], y_ticks=KINDS, signed=True, limits=(-0.5, 0.5),
)  # fmt: skip
axes[4].hist(
    [one.tolist(), every.tolist(), every_shuffled.tolist()], bins=20, range=(0, 1),
    color=plots.COLOURS[:3], label=["its best fact", "all facts together", "all, shuffled"],
)  # fmt: skip
axes[4].set_yscale("log")
axes[4].legend(fontsize=8, frameon=False)
plots.label(axes[4], "How much of a neuron do facts explain?", "share of variance explained (R²)", "neurons")
plots.bars(
    axes[5], {name.replace(" ", "\n"): value for name, value in left.items()},
    f"{PER_SQUARE} neurons of {LAYERS * D_MLP} set to their mean", y="probability of the move, of intact",
    highlight=["its\nown"],
)  # fmt: skip
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
