"""What do the neurons of a one-layer model detect? Four ways to look, each checked on text not looked at.

    python experiment.py                          the run that expected.json describes
    python experiment.py --look-for types         which neurons detect digits, capitals, code ...
    python experiment.py --look-for survey        guesses from top examples, scored by forecasts
    python experiment.py --look-for polysemantic  neurons with two unrelated triggers
    python experiment.py --look-for regex         a regular expression in place of a neuron

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## Labels for neurons, and how to check them
#
# The usual way is to read a neuron's strongest examples and name what they share. It misses recall, weak
# firings and second triggers (Gurnee et al. 2023, arXiv:2305.01610; Foote et al. 2023, arXiv:2305.19911, test
# automatic descriptions against true activations). Here every claim is chosen on one text and scored on
# another, beside an untrained model, shuffled labels or other neurons.

# %%
import re

import torch
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from lab import plots
from lab.results import start_run
from lab.text import documentation, load_corpus
from lab.train import train

# %% knobs
LOOK_FOR = "types"  # types, survey, polysemantic or regex
SEED = 0  # weights, batches, shuffles and random neurons
D_MODEL = 48  # width of the residual stream
D_MLP = 96  # neurons in a layer
HEADS = 4  # attention heads in a layer
VOCABULARY = 512  # tokens: frequent words whole, the rest spelled in characters
LENGTH = 32  # tokens in a window
BATCH = 64  # windows in a step
STEPS = 220  # training steps
LR = 1e-2  # AdamW, cosine down to zero
WEIGHT_DECAY = 0.1  # decoupled, of AdamW
ROWS = 320  # windows to choose on, and as many held-out ones to report on
SURVEYED = 40  # survey: neurons drawn at random
ATOMS = 30  # regex: alternatives in the expression at most

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
# ### Activations, and when a neuron fires
#
# "Fires" means above a quarter of its 99.9th percentile on the text for choosing. <start> is left out.

# %%
untrained = build()
for net in (model, untrained):
    net.enable_compatibility_mode()  # folds LayerNorm, centres the writes; once for each model
POST = "blocks.0.mlp.hook_post"
texts = corpus.tokenizer.vocabulary
word = corpus.tokenizer.token


@torch.no_grad()
def activations(net: TransformerBridge, tokens: torch.Tensor, hooks: list | None = None) -> torch.Tensor:
    """[row * (position - 1), neuron]"""
    seen = {}
    keep = (POST, lambda value, hook: seen.update(post=value))
    net.run_with_hooks(tokens, fwd_hooks=[*(hooks or []), keep])
    return seen["post"][:, 1:].flatten(0, 1)


@torch.no_grad()
def loss_with(neuron: int, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Loss at each token but <start>, with one neuron's activations replaced there."""

    def replace(acts: torch.Tensor, hook) -> torch.Tensor:
        acts = acts.clone()
        acts[:, 1:, neuron] = values.view(-1, LENGTH - 1) if values.numel() > 1 else values
        return acts

    return losses(model.run_with_hooks(tokens, fwd_hooks=[(POST, replace)]), tokens)[:, 1:]


chosen, shown = activations(model, fit), activations(model, test)
with torch.no_grad():
    clean = losses(model(test), test)[:, 1:]
noop = max((loss_with(n, shown[:, n], test) - clean).abs().max().item() for n in (0, D_MLP - 1))
mean, threshold = chosen.mean(0), chosen.quantile(0.999, dim=0) / 4
rate = (chosen > threshold).float().mean(0)
now = {"fit": fit[:, 1:].flatten(), "test": test[:, 1:].flatten()}
before = {"fit": fit[:, :-1].flatten(), "test": test[:, :-1].flatten()}
dice = torch.Generator().manual_seed(SEED + 1)
metrics = {"loss": clean.mean().item(), "noop_change": noop}
fig, axes = plots.figure(2, 2, f"Neurons that detect something: {LOOK_FOR}", size=(12, 8.5))


def auroc(label: torch.Tensor, acts: torch.Tensor) -> torch.Tensor:
    """P(a marked token has a larger activation than an unmarked one); acts [token, neuron] -> [neuron]."""
    ranks = acts.argsort(0).argsort(0).float() + 1
    n = label.sum()
    top = ranks[label].sum(0) - n * (n + 1) / 2
    return top / (n * (~label).sum()).clamp_min(1)


def example(index: int) -> str:
    """The text around one token of the test, the token itself in brackets."""
    row, position = divmod(index, LENGTH - 1)
    ids = test[row].tolist()
    left = corpus.tokenizer.decode(ids[max(1, position - 5) : position + 1])
    right = corpus.tokenizer.decode(ids[position + 2 : position + 4])
    return repr(f"{left}[{corpus.tokenizer.decode([ids[position + 1]])}]{right}")


# %% [markdown]
# ### Token classes, written as programs
#
# Each token falls in one class of the first list. The second list needs context: inside double quotes, and in
# a line that looks like code. "even place" is something no language model needs: a check on luck.

# %%
CLASSES = {
    "digit": lambda t: t.strip().isdigit(),
    "line break": lambda t: "\n" in t,
    "indent": lambda t: len(t) > 1 and not t.strip(" "),
    "letter": lambda t: t == " " or (t.strip().isalpha() and len(t.strip()) == 1),  # " ": a word begins
    "capital": lambda t: t.strip()[:1].isupper(),
    "word": lambda t: t.strip().isalpha(),
    "stop or comma": lambda t: t.strip() in {".", ",", ";", ":"},
    "sign": lambda t: True,
}
names = list(CLASSES)
kind = torch.tensor([next(i for i, n in enumerate(names) if CLASSES[n](t)) for t in texts], device=device)


def in_context(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels that need the window so far, [row * (position - 1)]."""
    quoted, code = [], []
    for row in tokens.tolist():
        inside, line = False, ""
        for token in row[1:]:
            line = line.rpartition("\n")[2] + texts[token]
            inside = inside ^ (texts[token].count('"') % 2 == 1)
            quoted.append(inside and '"' not in texts[token])
            code.append(line.startswith((">>>", "...", "    ")) and len(line) > 4)
    even = (torch.arange(1, LENGTH) % 2 == 0).repeat(len(tokens))
    labels = {"in quotes": torch.tensor(quoted), "code line": torch.tensor(code), "even place": even}
    return {name: value.to(device) for name, value in labels.items()}


# %% [markdown]
# ### types: does a single neuron tell marked from unmarked tokens?
#
# The winner of a hundred candidates looks good by luck, so: choose on one text, report on the other. The
# kinds of neuron are a wish list in the spirit of the SoLU paper (Elhage et al. 2022). Then, for the best
# entry: replace the heads' output by its mean for the current token (heads read that token too). What
# survives is a list of tokens; what is lost was context.

# %%
if LOOK_FOR == "types":
    marks = {}
    for part, tokens in (("fit", fit), ("test", test)):
        plain = {n: kind[now[part]] == i for i, n in enumerate(names) if n != "sign"}
        marks[part] = plain | in_context(tokens)
    raw_fit, raw_test = activations(untrained, fit), activations(untrained, test)
    rows, winners = {}, {}
    for name, label in marks["fit"].items():
        target = marks["test"][name]
        n = int(auroc(label, chosen).argmax())
        mixed = label[torch.randperm(len(label), generator=dice).to(device)]
        rows[name] = [
            auroc(target, shown[:, [n]]).item(),
            auroc(target, raw_test[:, [int(auroc(label, raw_fit).argmax())]]).item(),
            auroc(target, shown[:, [int(auroc(mixed, chosen).argmax())]]).item(),
        ]  # trained, untrained, chosen for shuffled labels
        winners[name] = n
        fires = shown[:, n] > threshold[n]
        hits = (fires & target).sum().item()
        precision, recall = hits / max(1, int(fires.sum())), hits / max(1, int(target.sum()))
        print(f"{name:14} neuron {n:3}  AUROC {rows[name][0]:.3f}", end="  ")
        print(f"precision {precision:.2f}  recall {recall:.2f}")
    scores = torch.tensor(list(rows.values()))  # [class, (trained, untrained, shuffled)]
    wanted = [i for i, name in enumerate(rows) if name != "even place"]
    best = max((name for name in rows if name not in ("in quotes", "code line", "even place")),
               key=lambda name: rows[name][0])  # fmt: skip
    n, target = winners[best], marks["test"][best]
    name = "blocks.0.hook_attn_out"
    with torch.no_grad():
        brought = model.run_with_cache(fit, names_filter=name)[1][name].flatten(0, 1)
    by_token = torch.zeros(VOCABULARY, D_MODEL, device=device).index_add_(0, fit.flatten(), brought)
    by_token += 3 * brought.mean(0)  # rare tokens are pulled towards the mean
    by_token /= torch.bincount(fit.flatten(), minlength=VOCABULARY)[:, None] + 3
    blind = activations(model, test, [(name, lambda value, hook: by_token[test])])[:, [n]]
    flat = activations(model, test, [(name, lambda value, hook: brought.mean(0).expand_as(value))])[:, [n]]
    token_only, headless = auroc(target, blind).item(), auroc(target, flat).item()
    lost = loss_with(n, mean[n], test) - clean
    on = target.view(-1, LENGTH - 1)[:, :-1]
    metrics |= {
        "auroc_trained": scores[wanted, 0].mean().item(),
        "auroc_untrained": scores[wanted, 1].mean().item(),
        "auroc_shuffled": scores[wanted, 2].mean().item(),
        "auroc_even_place": rows["even place"][0],
        "auroc_best": rows[best][0],
        "auroc_best_token_only": token_only,
        "auroc_best_without_heads": headless,
        "damage_on_type": lost[on].mean().item(),
        "damage_off_type": lost[~on].mean().item(),
    }
    spots = torch.arange(len(rows))
    colours = {"trained": plots.COLOURS[1], "untrained": plots.COLOURS[0], "for shuffled labels": "0.6"}
    for i, (title, colour) in enumerate(colours.items()):
        axes[0].barh(spots + 0.27 * (i - 1), scores[:, i] - 0.5, 0.25, left=0.5, color=colour, label=title)
    axes[0].set_yticks(spots, [f"{name} ({winners[name]})" for name in rows])
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=8, frameon=False)
    plots.label(axes[0], "Best single neuron (its number), on new text", "AUROC")
    edges = torch.linspace(shown[:, n].min().item(), shown[:, n].max().item(), 40).numpy()
    for mask, title, colour in ((~target, f"not {best}", "0.6"), (target, best, plots.COLOURS[1])):
        axes[1].hist(shown[mask, n].cpu(), edges, density=True, alpha=0.7, color=colour, label=title)
    axes[1].set_yscale("log")
    axes[1].legend(fontsize=8, frameon=False)
    plots.label(axes[1], f"Neuron {n}, the best entry", "activation", "density")
    values = {"as it is": rows[best][0], "no context": token_only, "no heads": headless}
    plots.bars(axes[2], values, f"'{best}': a list of tokens, or context?", y="AUROC", marks={"chance": 0.5})
    values = {f"on {best}": metrics["damage_on_type"], "elsewhere": metrics["damage_off_type"]}
    plots.bars(axes[3], values, f"Mean-ablating neuron {n}", y="loss added at the next token (nats)")

# %% [markdown]
# ### survey: a guess from the strongest examples, and a forecast
#
# For neurons drawn at random: the guess is the set of current tokens in the twenty strongest firings on the
# first text. The forecast: on the second text the neuron fires on those tokens. How often is that so, how
# much of the middling firings (half to nine tenths of the maximum) does the guess cover, and how often would
# other neurons have passed the same forecast?

# %%
if LOOK_FOR == "survey":
    sample = torch.randperm(D_MLP, generator=dice)[:SURVEYED].tolist()
    columns = {name: [] for name in ("forecast", "control", "recall", "middling", "lookup", "effect")}
    table = torch.zeros(VOCABULARY, D_MLP, device=device).index_add_(0, now["fit"], chosen - mean)
    table = table / (torch.bincount(now["fit"], minlength=VOCABULARY)[:, None] + 3.0) + mean
    fires = shown > threshold
    for n in sample:
        guess = torch.zeros(VOCABULARY, dtype=torch.bool, device=device)
        guess[now["fit"][chosen[:, n].topk(20).indices]] = True
        hit = guess[now["test"]]
        top = chosen[:, n].max()
        middle = guess[now["fit"][(chosen[:, n] > 0.5 * top) & (chosen[:, n] < 0.9 * top)]].float()
        others = [m for m in torch.randperm(D_MLP, generator=dice)[:6].tolist() if m != n][:5]
        columns["forecast"].append(fires[hit, n].float().mean().nan_to_num().item())
        columns["control"].append(fires[hit][:, others].float().mean().nan_to_num().item())
        columns["recall"].append(hit[fires[:, n]].float().mean().nan_to_num().item())
        columns["middling"].append(middle.mean().nan_to_num().item())
        error = (shown[:, n] - table[now["test"], n]).var() / shown[:, n].var().clamp_min(1e-9)
        columns["lookup"].append(1 - error.item())
        columns["effect"].append((loss_with(n, mean[n], test) - clean).mean().item())
    score = {name: torch.tensor(values, dtype=torch.float) for name, values in columns.items()}
    centred = (shown - shown.mean(0)) / shown.std(0).clamp_min(1e-9)
    raw = activations(untrained, test)
    raw = (raw - raw.mean(0)) / raw.std(0).clamp_min(1e-9)
    metrics |= {
        "forecast": score["forecast"].mean().item(),
        "forecast_control": score["control"].mean().item(),
        "recall": score["recall"].mean().item(),
        "middling_covered": score["middling"].mean().item(),
        "lookup_r2": score["lookup"].mean().item(),
        "effect": score["effect"].mean().item(),
        "kurtosis": centred.pow(4).mean(0).median().item(),
        "kurtosis_untrained": raw.pow(4).mean(0).median().item(),
        "fires_rate": rate[sample].mean().item(),
    }
    shortlist = (score["forecast"] * score["recall"]).sqrt().topk(min(3, len(sample))).indices.tolist()
    for i in shortlist:
        print(f"neuron {sample[i]}: forecast {score['forecast'][i]:.2f}, recall {score['recall'][i]:.2f}")
        for index in shown[:, sample[i]].topk(5).indices.tolist():
            print("   ", example(index))
    axes[0].scatter(score["control"], score["forecast"], s=16, color=plots.COLOURS[0])
    axes[0].axline((0, 0), slope=1, color="0.5", linewidth=0.8, linestyle=":")
    for i in shortlist:
        axes[0].annotate(f" {sample[i]}", (score["control"][i].item(), score["forecast"][i].item()))
    plots.label(axes[0], f"Forecasts, {len(sample)} random neurons", "others pass", "it fires as forecast")
    axes[1].scatter(score["middling"], score["recall"], s=16, color=plots.COLOURS[0])
    plots.label(axes[1], "What the guess leaves out", "middling firings covered", "all new firings covered")
    order = score["lookup"].argsort(descending=True)
    axes[2].bar(range(len(sample)), score["lookup"][order], color=plots.COLOURS[0])
    plots.label(axes[2], "A look-up of the current token?", "neuron, sorted", "share of variance explained")
    axes[3].scatter(rate[sample].cpu(), score["effect"], s=16, color=plots.COLOURS[0])
    axes[3].axhline(0, color="0.5", linewidth=0.8, linestyle=":")
    plots.label(axes[3], "What they are worth", "share of tokens that fire it", "loss added (nats)")

# %% [markdown]
# ### polysemantic: two triggers on one neuron, and why
#
# Sort each neuron's firings into five families of tokens that share nothing on the page: digits, white space,
# letters of spelled words, whole words, signs. exp(entropy) counts how many families it serves. Take the
# neuron whose second family is largest, all taken as if families were equally common, and test three
# reasons: the groups never meet, they want the same output, or other neurons tell them apart anyway.

# %%
if LOOK_FOR == "polysemantic":
    family = {"digit": 0, "line break": 1, "indent": 1, "letter": 2, "capital": 3, "word": 3}
    kind = torch.tensor([family.get(names[i], 4) for i in kind.tolist()], device=device)
    names = ["digit", "white space", "spelled letter", "whole word", "sign"]
    onehot = F.one_hot(kind, len(names)).float()
    base = onehot[now["fit"]].mean(0)

    def profile(acts: torch.Tensor, tokens: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
        """Share of the firings in each class, as if all classes were equally common, [neuron, class]."""
        share = (acts > limit).float().T @ onehot[tokens] / base.clamp_min(0.01)
        return share / share.sum(-1, keepdim=True).clamp_min(1e-9)

    def served(share: torch.Tensor) -> torch.Tensor:
        return (-(share * share.clamp_min(1e-9).log()).sum(-1)).exp()

    raw = activations(untrained, fit)
    share = profile(chosen, now["fit"], threshold)
    share_raw = profile(raw, now["fit"], raw.quantile(0.999, dim=0) / 4)
    share_new = profile(shown, now["test"], threshold)
    both = share.topk(2, dim=-1)
    neuron = int((both.values[:, 1] - (rate > 0.3).float()).argmax())
    first, second = both.indices[neuron].tolist()
    fires = shown[:, neuron] > threshold[neuron]
    groups = [fires & (kind[now["test"]] == g) for g in (first, second)]
    for g, group in zip((first, second), groups, strict=True):
        sample = (shown[:, neuron] * group).topk(4).indices.tolist()
        print(f"neuron {neuron}, {names[g]}, {int(group.sum())} firings:", *map(example, sample), sep="\n   ")
    # never together? rate of windows with both, against independence; the null: groups of two other neurons
    in_window = [g.view(-1, LENGTH - 1).any(1).float() for g in groups]
    expected = in_window[0].mean() * in_window[1].mean()
    together = (in_window[0] * in_window[1]).mean() / expected.clamp_min(1e-9)
    # the same output? what the neuron adds to the logit of the true next token, for each group
    said = (model.W_out[0] @ model.W_U).detach()  # [neuron, token]
    ends = torch.arange(1, LENGTH, device=device).repeat(len(test)) == LENGTH - 1
    following = test.roll(-1, 1)[:, 1:].flatten()
    wants = [said[neuron, following[g & ~ends]].mean().item() for g in groups]
    random_wants = [said[m, following[g & ~ends]].mean().item() for g in groups
                    for m in torch.randperm(D_MLP, generator=dice)[:20].tolist()]  # fmt: skip
    # told apart? the best other neuron, chosen on the first text
    fires_fit = chosen[:, neuron] > threshold[neuron]
    two_fit = fires_fit & ((kind[now["fit"]] == first) | (kind[now["fit"]] == second))
    two = groups[0] | groups[1]
    apart_fit = auroc(kind[now["fit"]][two_fit] == first, chosen[two_fit])
    apart_fit[neuron] = 0.5
    partner = int((apart_fit - 0.5).abs().argmax())
    sides = auroc(kind[now["test"]][two] == first, shown[two])
    sides = torch.maximum(sides, 1 - sides)
    lost = (loss_with(neuron, mean[neuron], test) - clean).flatten()
    again = torch.corrcoef(torch.stack([served(share), served(share_new)]))[0, 1]
    damage = [lost[g[~ends]].mean().nan_to_num().item() for g in groups]
    metrics |= {
        "families_trained": served(share).median().item(),
        "families_untrained": served(share_raw).median().item(),
        "families_again": again.nan_to_num().item(),
        "second_family_share": share_new[neuron, second].item(),
        "both_families_share": (share_new[neuron, first] + share_new[neuron, second]).item(),
        "together_over_chance": together.item(),
        "wants_first": wants[0],
        "wants_second": wants[1],
        "wants_random": sum(random_wants) / len(random_wants),
        "told_apart_by_partner": sides[partner].item(),
        "told_apart_by_itself": sides[neuron].item(),
        "damage_first": damage[0],
        "damage_second": damage[1],
    }
    edges = torch.linspace(1, len(names), 29).numpy()
    for values, title, colour in ((share, "trained", plots.COLOURS[1]), (share_raw, "untrained", "0.6")):
        axes[0].hist(served(values).cpu(), edges, alpha=0.7, color=colour, label=title)
    axes[0].legend(fontsize=8, frameon=False)
    plots.label(axes[0], "How many families fire a neuron", "exp(entropy over families)", "neurons")
    values = dict(zip(names, share_new[neuron].tolist(), strict=True))
    plots.bars(axes[1], values, f"Neuron {neuron} on new text, families made equally common",
               y="share of firings", highlight=[names[first], names[second]])  # fmt: skip
    values = {names[first]: wants[0], names[second]: wants[1], "random neurons": metrics["wants_random"]}
    plots.bars(axes[2], values, "Same output? Its push on the true next token", y="W_out @ W_U of that token")
    for g, group, colour in zip((first, second), groups, plots.COLOURS, strict=False):
        x, y = shown[group, neuron].cpu(), shown[group, partner].cpu()
        axes[3].scatter(x, y, s=6, alpha=0.5, color=colour, label=names[g])
    axes[3].legend(fontsize=8, frameon=False)
    title = f"Does neuron {partner} tell them apart? AUROC {sides[partner]:.2f}"
    plots.label(axes[3], title, f"activation of neuron {neuron}", f"activation of neuron {partner}")

# %% [markdown]
# ### regex: a program in place of a neuron
#
# The neuron: of the ten that a list of tokens fits best, the one whose mean-ablation costs most, all on the
# first text. A token joins the expression if the neuron fires on most of its occurrences; a token that fires
# it sometimes joins behind those neighbours that make it fire. The expression is then run on plain text, up
# to and with the current token, so it can go wrong where the text does not show token borders. Detection,
# regression, substitution: three standards, each stricter.

# %%
if LOOK_FOR == "regex":
    fires = chosen > threshold
    count = torch.bincount(now["fit"], minlength=VOCABULARY).float()
    tally = torch.zeros(VOCABULARY, D_MLP, device=device).index_add_(0, now["fit"], fires.float())
    member = tally / (count[:, None] + 1) > 0.5  # [token, neuron]
    found = member[now["fit"]]
    f1 = 2 * (found & fires).sum(0) / (found.sum(0) + fires.sum(0)).clamp_min(1)
    candidates = (f1 - ((rate > 0.2) | (member.sum(0) > ATOMS)).float()).topk(10).indices.tolist()
    worth = [loss_with(n, mean[n], fit).mean().item() for n in candidates]
    neuron = candidates[worth.index(max(worth))]  # of the ten best fits, the one that matters most
    tokens_in = member[:, neuron].nonzero()[:, 0].tolist()
    hit = fires[:, neuron]
    pairs = before["fit"] * VOCABULARY + now["fit"]
    pair_count = torch.bincount(pairs, minlength=VOCABULARY**2)
    pair_hits = torch.bincount(pairs, weights=hit.float(), minlength=VOCABULARY**2)
    useful = (pair_hits / (pair_count + 1) > 0.6) & (pair_hits >= 3)
    order = (pair_hits * useful).argsort(descending=True)[:200].tolist()
    behind = [code for code in order if useful[code] and not member[code % VOCABULARY, neuron]]
    behind = behind[: max(0, ATOMS - len(tokens_in))]

    def piece(text: str) -> str:
        """A token as a regular expression; one that starts with a letter must not continue a word."""
        return (r"(?<![A-Za-z])" if text[:1].isalpha() and len(text) > 1 else "") + re.escape(text)

    atoms = [piece(texts[t]) for t in tokens_in]
    atoms += [piece(texts[code // VOCABULARY]) + re.escape(texts[code % VOCABULARY]) for code in behind]
    pattern = "(?:" + "|".join(atoms or ["(?!)"]) + r")\Z"
    print(f"neuron {neuron}: {pattern}")

    def program(tokens: torch.Tensor) -> torch.Tensor:
        """Where the expression matches, on text up to and with each token but <start>."""
        found = []
        for row in tokens.tolist():
            for end in range(2, len(row) + 1):
                text = corpus.tokenizer.decode(row[max(1, end - 4) : end])
                found.append(re.search(pattern, text) is not None)
        return torch.tensor(found, device=device)

    says, says_fit = program(test), program(fit)
    truth = shown[:, neuron] > threshold[neuron]
    others = [m for m in torch.randperm(D_MLP, generator=dice).tolist() if m != neuron][:20]

    def scores(predicted: torch.Tensor, fired: torch.Tensor) -> tuple[float, float]:
        both = (predicted & fired).sum().item()
        return both / max(1, int(predicted.sum())), both / max(1, int(fired.sum()))

    precision, recall = scores(says, truth)
    control = torch.tensor([scores(says, shown[:, m] > threshold[m]) for m in others])
    table = torch.bincount(now["fit"], weights=chosen[:, neuron] - mean[neuron], minlength=VOCABULARY)
    table = (table / (count + 3) + mean[neuron]).float()
    zero = torch.zeros(1, device=device)
    level = [torch.cat([chosen[says_fit == value, neuron], zero]).mean() for value in (False, True)]
    mixed = says[torch.randperm(len(says), generator=dice).to(device)]
    stand_ins = {
        "expression": torch.where(says, level[1], level[0]),
        "token table": table[now["test"]],
        "shuffled": torch.where(mixed, level[1], level[0]),
    }
    whole = (loss_with(neuron, mean[neuron], test) - clean).mean().item()
    squared = {"mean": (shown[:, neuron] - mean[neuron]).pow(2).mean()}
    squared |= {name: (shown[:, neuron] - value).pow(2).mean() for name, value in stand_ins.items()}
    r2 = {name: 1 - (squared[name] / squared["mean"]).item() for name in stand_ins}
    repaired = {
        name: 1 - (loss_with(neuron, value, test) - clean).mean().item() / (whole or 1e-9)
        for name, value in stand_ins.items()
    }
    broken = says.float()[:, None] + torch.rand(len(says), 1, generator=dice).to(device) / 2  # ties at random
    metrics |= {
        "precision": precision,
        "recall": recall,
        "precision_other_neurons": control[:, 0].mean().item(),
        "recall_other_neurons": control[:, 1].mean().item(),
        "auroc": auroc(truth, broken).item(),
        "r2_expression": r2["expression"],
        "r2_table": r2["token table"],
        "r2_shuffled": r2["shuffled"],
        "damage": whole,
        "repaired_by_expression": repaired["expression"],
        "repaired_by_shuffled": repaired["shuffled"],
        "alternatives": float(len(atoms)),
    }
    values = {"precision": precision, "recall": recall}
    for name in ("precision", "recall"):
        values[f"{name},\nother neurons"] = metrics[f"{name}_other_neurons"]
    plots.bars(axes[0], values, f"Detection: {len(atoms)} alternatives, neuron {neuron}", y="on new text",
               highlight=["precision", "recall"])  # fmt: skip
    edges = torch.linspace(shown[:, neuron].min(), shown[:, neuron].max(), 40).cpu().numpy()
    for mask, title, colour in ((~says, "no match", "0.6"), (says, "match", plots.COLOURS[1])):
        axes[1].hist(shown[mask, neuron].cpu(), edges, alpha=0.7, color=colour, label=title)
    axes[1].axvline(threshold[neuron].item(), color="black", linestyle=":", label="threshold")
    axes[1].set_yscale("log")
    axes[1].legend(fontsize=8, frameon=False)
    plots.label(axes[1], "The neuron where the expression matches", "activation", "tokens")
    plots.bars(axes[2], r2, "Regression: activation explained", y="R² on new text", highlight=["expression"])
    title = f"Substitution (the mean costs {whole:.4f} nats)"
    plots.bars(axes[3], repaired, title, y="share of the damage repaired", highlight=["expression"])

# %%
run.save(fig, "mechanism")

# %%
report = run.finish(metrics)
