"""Flip a piece inside an Othello model, and see whether its moves follow the flipped board.

    python experiment.py                         the run that expected.json describes
    python experiment.py --seed 1                other games, other weights
    python experiment.py --site "MLP 0"          edit the stream between the layers

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Flipping one piece in the model's mind
#
# A small transformer learns legal moves of 4 x 4 Othello from moves alone. A probe that reads the board
# from its residual stream shows that the board is *there*; only an edit shows that it is *used*. Li et al.
# 2022 (arXiv:2210.13382) and Nanda, Lee & Wattenberg 2023 (arXiv:2309.00941) changed the stream so that
# one piece seems to belong to the other side, and the model's legal moves followed. We do that here, with
# controls: the edited board was mostly never played, so the model must compute rather than remember.

# %%
import torch
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
SITE = "attention 1"  # where the stream is edited: after attention 0, MLP 0 or attention 1
STRENGTH = 1.5  # size of the edit; 1 is the size that the regression suggests

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
test, probe_set = games[held_out[opening].nonzero()[:3000, 0]], games[train_rows[:4000]]
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
# ### Two directions for every square
#
# *Decoding*: the weights of a linear probe, which read mine (1) or theirs (-1) off the stream. *Encoding*:
# a regression the other way round, of the stream on the board (owner and presence of every piece, and the
# step), which says how the stream changes if one piece changes hands and the rest stays as it is. A probe's
# weights also cancel whatever happens to vary along with a piece, so the two differ.

# %%
READ = {
    "attention 0": "blocks.0.hook_resid_mid",
    "MLP 0": "blocks.0.hook_resid_post",
    "attention 1": "blocks.1.hook_resid_mid",
}
# Where to write. In TransformerLens 4.3 hook_resid_mid is the input of the MLP's layer norm: an edit there
# never enters the stream itself. So add to the attention's output instead.
WRITE = {
    "attention 0": "blocks.0.hook_attn_out",
    "MLP 0": "blocks.0.hook_resid_post",
    "attention 1": "blocks.1.hook_attn_out",
}


@torch.no_grad()
def streams(played: othello.Games) -> dict[str, torch.Tensor]:
    """The residual stream at each place, [game, step, d_model]."""
    _, cache = model.run_with_cache(played.tokens.to(device))
    return {place: cache[name] for place, name in READ.items()}


def least_squares(inputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Weights [input, output], with a little ridge."""
    gram = inputs.T @ inputs + 1e-3 * len(inputs) * torch.eye(inputs.shape[1], device=device)
    return torch.linalg.solve(gram, inputs.T @ wanted)


fit_streams, test_streams = streams(probe_set), streams(test)
going = probe_set.going.to(device)
owner = probe_set.state.to(device)[going].float()  # [position, square]: 1 mine, -1 theirs, 0 empty
clock = torch.eye(LENGTH, device=device).expand(len(going), LENGTH, LENGTH)[going]
board = torch.cat([owner, owner.abs(), clock], dim=1)
encoding, decoding = {}, {}  # [square, d_model] at each place
for place, stream in fit_streams.items():
    x = stream[going]
    encoding[place] = least_squares(board, x)[:SQUARES]
    centred = x - x.mean(0)
    columns = []
    for square in range(SQUARES):
        taken = owner[:, square] != 0  # the probe need only tell mine from theirs
        columns.append(least_squares(centred[taken], owner[taken, square]))
    decoding[place] = torch.stack(columns)


def unit(directions: torch.Tensor) -> torch.Tensor:
    return directions / directions.norm(dim=-1, keepdim=True).clamp(min=1e-9)


alike = (unit(encoding[SITE]) * unit(decoding[SITE])).sum(-1).mean().item()
metrics["encoding_decoding_cosine"] = alike

# %% [markdown]
# ### The cases: one step of each game, one piece flipped
#
# `othello.legal_tokens` gives the legal moves on the flipped board. Keep the cases in which they differ
# from those on the true board: only they can tell whether the model follows.

# %%
chooser = torch.Generator().manual_seed(SEED + 2)
steps = torch.randint(4, 10, (len(test.tokens),), generator=chooser)
game = test.going[torch.arange(len(steps)), steps].nonzero()[:, 0]  # games still going at that step
steps = steps[game]
state = test.state[game, steps]  # [case, square]
square = torch.multinomial((state != 0).float(), 1, generator=chooser)[:, 0]
flipped = state.clone()
flipped[torch.arange(len(square)), square] *= -1
legal_now, legal_flipped = test.legal[game, steps], othello.legal_tokens(flipped)  # [case, token]
telling = (legal_now != legal_flipped).any(1) & legal_flipped.any(1)
game, steps, square, state = game[telling], steps[telling], square[telling], state[telling]
legal_now, legal_flipped = legal_now[telling], legal_flipped[telling]
case = torch.arange(len(game))
side = state[case, square].float().to(device)[:, None]  # [case, 1]: 1 was mine, -1 was theirs
print(len(game), "cases")


@torch.no_grad()
def edit(change: torch.Tensor, place: str) -> torch.Tensor:
    """Logits [case, token] when ``change`` [case, d_model] is added to the stream at each case's step."""

    def add(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        value[case, steps] = value[case, steps] + change
        return value

    tokens = test.tokens[game].to(device)
    return model.run_with_hooks(tokens, fwd_hooks=[(WRITE[place], add)])[case, steps].cpu()


def errors(logits: torch.Tensor, legal: torch.Tensor) -> float:
    """Li et al.'s measure: call the n likeliest tokens legal, if n are; count false and missed ones."""
    rank = logits.argsort(1, descending=True).argsort(1)
    called = rank < legal.sum(1, keepdim=True)
    return (called != legal).float().sum(1).mean().item()


# %% [markdown]
# ### The edit and its controls, all of the same length
#
# The edit, a mirror image, is twice the encoding of one square, against the present owner. Controls: the
# probe's own weights, the encoding of *another* occupied square, and a random direction. And a full
# replacement: give a position the whole stream of another game's, and its moves should be legal *there*.

# %%
other_weights = (state != 0).float()
other_weights[case, square] = 0
other = torch.multinomial(other_weights, 1, generator=chooser)[:, 0]
randoms = torch.randn(len(case), D_MODEL, generator=chooser).to(device)


def changes(place: str) -> dict[str, torch.Tensor]:
    """What to add to the stream at strength 1: [case, d_model] by kind of edit."""
    main = -2 * side * encoding[place][square]
    length = main.norm(dim=1, keepdim=True)
    other_side = state[case, other].float().to(device)[:, None]
    return {
        "encoding": main,
        "probe weights": -side * unit(decoding[place][square]) * length,
        "another square": -other_side * unit(encoding[place][other]) * length,
        "random": unit(randoms) * length,
    }


strengths = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
sweep = {
    kind: [errors(edit(strength * change, SITE), legal_flipped) for strength in strengths]
    for kind, change in changes(SITE).items()
}
unedited = clean.cpu()[game, steps]
no_op = edit(torch.zeros_like(randoms), SITE)
edited = {kind: edit(STRENGTH * change, SITE) for kind, change in changes(SITE).items()}
after = {kind: errors(logits, legal_flipped) for kind, logits in edited.items()}
before, own = errors(unedited, legal_flipped), errors(unedited, legal_now)
metrics["noop_change"] = (no_op - unedited).abs().max().item()
metrics["errors_own"], metrics["errors_before"] = own, before
metrics["errors_edited"] = after["encoding"]


def closed(found: float) -> float:
    """Share of the way from the unedited errors down to those that the model makes anyway."""
    return (before - found) / max(before - own, 1e-6)


for kind, name in zip(after, ("edited", "probe", "other", "random"), strict=True):
    metrics[f"closed_{name}"] = closed(after[kind])
by_place = {
    place: errors(edit(STRENGTH * changes(place)["encoding"], place), legal_flipped) for place in READ
}

donor = torch.randperm(len(case), generator=chooser)
same_step = (steps[donor] == steps) & (donor != case)  # where swapping is fair
last = "attention 1"  # only an MLP follows, so the position's whole future is in its stream
here = test_streams[last][game, steps]
swapped = edit(here[donor] - here, last)
metrics["errors_replaced"] = errors(swapped[same_step], legal_now[donor][same_step])
metrics["errors_replaced_before"] = errors(unedited[same_step], legal_now[donor][same_step])

# %% [markdown]
# ### What moves: tokens that become legal, tokens that cease to be

# %%
becomes, ceases = legal_flipped & ~legal_now, legal_now & ~legal_flipped


def mean_probability(logits: torch.Tensor, chosen: torch.Tensor) -> float:
    return (logits.softmax(-1)[chosen]).mean().item()


moved = {
    "becomes legal": [mean_probability(logits, becomes) for logits in (unedited, *edited.values())],
    "ceases to be": [mean_probability(logits, ceases) for logits in (unedited, *edited.values())],
}
metrics["gain_becomes_legal"] = moved["becomes legal"][1] - moved["becomes legal"][0]
metrics["gain_ceases_legal"] = moved["ceases to be"][1] - moved["ceases to be"][0]
metrics["gain_becomes_random"] = moved["becomes legal"][4] - moved["becomes legal"][0]

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"Flipping one piece in the stream after {SITE}: {len(case)} cases")
plots.loss_curves(
    axes[0], history, ["legal_share"], log=False, y="share of positions", marks={
        "any empty square": metrics["legal_any_empty"], "untrained": metrics["legal_untrained"],
    }, title=f"Held-out openings: {metrics['legal_share']:.1%} of moves legal",
)  # fmt: skip
for index, (kind, values) in enumerate(sweep.items()):
    style = {"color": plots.COLOURS[index], "linestyle": plots.STYLES[index], "label": kind}
    axes[1].plot(strengths, values, marker="o", **style)
plots.levels(axes[1], {"unedited model on its own board": own})
axes[1].legend(fontsize=7.5, frameon=False)
plots.label(axes[1], "Errors against the flipped board", "strength of the edit", "errors per position")
plots.bars(
    axes[2], {kind.replace(" ", "\n"): closed(value) for kind, value in after.items()},
    f"Share of the errors mended, strength {STRENGTH:g}", y="1: as good as on the true board",
    highlight=["encoding"],
)  # fmt: skip
names = ["no edit", *(kind.replace(" ", "\n") for kind in edited)]
for index, (what, values) in enumerate(moved.items()):
    places = [i + 0.4 * index - 0.2 for i in range(len(names))]
    axes[3].bar(places, values, width=0.4, color=plots.COLOURS[index], label=what)
axes[3].set_xticks(range(len(names)), names)
axes[3].legend(fontsize=8, frameon=False)
plots.label(axes[3], "Tokens whose legality the flip changes", "", "mean probability")
plots.bars(
    axes[4], {"no edit": before, **{place.replace(" ", "\n"): value for place, value in by_place.items()}},
    "Where in the stream to edit", y="errors against the flipped board", highlight=[SITE.replace(" ", "\n")],
)  # fmt: skip
gain = (edited["encoding"].softmax(-1) - unedited.softmax(-1))[:, :SQUARES]
example = int((gain * (becomes.float() - ceases.float())[:, :SQUARES]).sum(1).argmax())
plots.heatmap(
    axes[5], gain[example].reshape(4, 4), "The most telling case: change of probability", x="column", y="row",
    x_ticks="abcd", y_ticks="1234", signed=True,
)  # fmt: skip
signs = {1: "mine", -1: "theirs", 0: ""}
for at in range(SQUARES):
    text = signs[int(state[example, at])]
    text += "\n(flipped)" if at == int(square[example]) else ""
    text += "becomes\nlegal" if becomes[example, at] else "ceases\nto be" if ceases[example, at] else ""
    ink = "white" if gain[example, at].abs() > 0.6 * gain[example].abs().max() else "black"
    axes[5].text(at % 4, at // 4, text, ha="center", va="center", fontsize=7, color=ink)
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
