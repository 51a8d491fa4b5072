"""A small vision transformer: where the class token looks, which heads carry the decision, and patching.

    python experiment.py                       the run that expected.json describes
    python experiment.py --layers 1            is one layer enough?
    python experiment.py --seed 1              other weights, another split

Results, figures and the settings of the run land in results/<time>-seed<seed>/.
"""

# %% [markdown]
# ## A transformer that reads 16 patches
#
# A vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) cuts the picture into patches and reads
# them as a sentence without a mask; a class token collects what it needs. So the methods for language models
# apply: exact shares of a logit, attention, ablation, patching between two inputs. Four questions: which
# parts write the decision, where does the class token look and does it need to, which heads matter, and at
# which depth does the decision pass from the patches to the class token?
#
# The data: 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn (Alpaydin and Kaynak, UCI,
# 1998, CC BY 4.0). Nothing is downloaded.

# %%
import torch
from torch import nn
from torch.nn import functional as F
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from lab import digits, plots
from lab.results import start_run
from lab.train import train

# %% knobs
SEED = 0  # split, weights, pairs
LAYERS = 2  # transformer layers
HEADS = 4  # attention heads per layer
D_MODEL = 48  # width of the residual stream (a multiple of HEADS)
D_MLP = 96  # neurons per layer
PATCH = 2  # pixels along a side of a patch: 2 gives 16 patches, 4 gives 4
STEPS = 1200  # training steps
BATCH = 128  # pictures per step
LR = 5e-3
PAIRS = 200  # pairs of pictures for patching

# %%
run = start_run(globals())
device = run.device
ACROSS = digits.SIZE // PATCH  # patches along a side
PATCHES, D_HEAD = ACROSS**2, D_MODEL // HEADS

# %% [markdown]
# ### The model, with the hook names that TransformerLens uses
#
# Plain PyTorch with `HookPoint`s, so `run_with_cache` and `run_with_hooks` work. Without LayerNorm the logits
# are an exact sum of what each part wrote to the class token, which we check below. Position 0 is the class
# token.


# %%
class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(D_MODEL, 3 * D_MODEL)
        self.out = nn.Linear(D_MODEL, D_MODEL, bias=False)
        self.mlp_in, self.mlp_out = nn.Linear(D_MODEL, D_MLP), nn.Linear(D_MLP, D_MODEL)
        for layer in (self.out, self.mlp_out):
            nn.init.normal_(layer.weight, std=0.02)  # starts close to passing its input on
        self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint()  # [image, token, d_model]
        self.hook_pattern = HookPoint()  # [image, head, query, key]
        self.hook_z = HookPoint()  # [image, token, head, d_head]
        self.hook_mlp_out = HookPoint()  # [image, token, d_model]

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        stream = self.hook_resid_pre(stream)
        q, k, v = self.qkv(stream).unflatten(-1, (3, HEADS, D_HEAD)).unbind(2)  # [image, token, head, d_head]
        scores = torch.einsum("iqhd,ikhd->ihqk", q, k) / D_HEAD**0.5
        z = torch.einsum("ihqk,ikhd->iqhd", self.hook_pattern(scores.softmax(-1)), v)
        stream = stream + self.out(self.hook_z(z).flatten(2))
        stream = stream + self.hook_mlp_out(self.mlp_out(F.gelu(self.mlp_in(stream))))
        return self.hook_resid_post(stream)


class VisionTransformer(HookedRootModule):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Linear(PATCH**2, D_MODEL)
        self.positions = nn.Parameter(0.1 * torch.randn(1 + PATCHES, D_MODEL))
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.classes = nn.Linear(D_MODEL, 10)
        self.setup()  # tells the HookPoints their names

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = F.unfold(images, PATCH, stride=PATCH).mT  # [image, patch, pixel], row by row
        stream = F.pad(self.embed(patches), (0, 0, 1, 0)) + self.positions  # an empty token in front
        for block in self.blocks:
            stream = block(stream)
        return self.classes(stream[:, 0])


data = digits.load(SEED, device)
model = VisionTransformer(SEED).to(device)
untrained = VisionTransformer(SEED + 1).to(device).eval()
generator = torch.Generator().manual_seed(SEED)


def loss_at(step: int) -> torch.Tensor:
    rows = torch.randint(len(data.train), (BATCH,), generator=generator).to(device)
    return F.cross_entropy(model(digits.shifted(data.train[rows], generator)), data.train_labels[rows])


def accuracy(logits: torch.Tensor) -> float:
    return (logits.argmax(-1) == data.test_labels).float().mean().item()


history = train(
    model, loss_at, steps=STEPS, lr=LR, weight_decay=0.05, warmup=50, decay=True, clip=1.0,
    evaluate=lambda: {"test_accuracy": accuracy(model(data.test))}, every=max(1, STEPS // 20),
)  # fmt: skip
with torch.no_grad():
    logits, cache = model.run_with_cache(data.test)
    metrics = {"accuracy": accuracy(logits), "accuracy_untrained": accuracy(untrained(data.test))}

# %% [markdown]
# ### Exact shares: who writes the logit of the right digit?
#
# The class token's stream is a sum: its embedding, each head, each MLP. Times the class weights (centred, so
# that only differences between digits count) these are shares of the logit, and they add up.

# %%
with torch.no_grad():
    reader = (model.classes.weight - model.classes.weight.mean(0))[data.test_labels]  # [image, d_model]
    shares = {"embedding": reader @ model.positions[0]}
    for layer, block in enumerate(model.blocks):
        per_head = block.out.weight.unflatten(1, (HEADS, D_HEAD))  # [d_model, head, d_head]
        written = torch.einsum("ihd,mhd->ihm", cache[f"blocks.{layer}.hook_z"][:, 0], per_head)
        for head in range(HEADS):
            shares[f"{layer}.{head}"] = (written[:, head] * reader).sum(-1)
        shares[f"MLP {layer}"] = (cache[f"blocks.{layer}.hook_mlp_out"][:, 0] * reader).sum(-1)
    constant = (model.classes.bias - model.classes.bias.mean())[data.test_labels]
    centred = logits.gather(1, data.test_labels[:, None])[:, 0] - logits.mean(1)
    metrics["share_error"] = (sum(shares.values()) + constant - centred).abs().max().item()
mean_share = {name: share.mean().item() for name, share in shares.items()}
metrics["last_mlp_share"] = mean_share[f"MLP {LAYERS - 1}"] / sum(mean_share.values())

# %% [markdown]
# ### Where the class token looks, and whether it needs to
#
# Attention of the class token over the patches, against the ink in them. A map says where a head looks, not
# that it matters: so we cut off the patches with the most attention (over all heads, from the class token
# only), and compare with as many patches at random and as many with the least.

# %%
CUT = PATCHES // 4
patterns = torch.stack([cache[f"blocks.{layer}.hook_pattern"][:, :, 0] for layer in range(LAYERS)])
looked = patterns[..., 1:]  # [layer, image, head, patch]; the rest goes to the class token itself
attention = looked.mean((0, 2))  # [image, patch]
ink = F.unfold(data.test, PATCH, stride=PATCH).mean(1)  # [image, patch]


def without(cut: torch.Tensor) -> float:
    """Accuracy when the class token cannot read the patches ``cut`` [image, n] in any head."""
    barred = F.pad(torch.zeros_like(attention).scatter(1, cut, 1.0), (1, 0)).bool()  # [image, key]

    def bar(pattern: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        row = pattern[:, :, 0].masked_fill(barred[:, None], 0)
        pattern[:, :, 0] = row / row.sum(-1, keepdim=True).clamp(min=1e-9)
        return pattern

    with torch.no_grad():
        hooks = [(f"blocks.{layer}.hook_pattern", bar) for layer in range(LAYERS)]
        return accuracy(model.run_with_hooks(data.test, fwd_hooks=hooks))


draws = torch.rand(5, *attention.shape, generator=torch.Generator().manual_seed(SEED)).to(device)
metrics |= {
    "cut_most": without(attention.topk(CUT, 1).indices),
    "cut_least": without((-attention).topk(CUT, 1).indices),
    "cut_random": sum(without(draw.topk(CUT, 1).indices) for draw in draws) / len(draws),
    "cut_none": without(attention.topk(CUT, 1).indices[:, :0]),
}

# %% [markdown]
# ### Which heads matter: mean ablation
#
# A head's output is replaced by its mean over test pictures, at every token, and the accuracy that is lost is
# set beside the head's exact share of the logit. Then the heads of each layer that matter most go together,
# against as many others at random, and against ablating a head that was replaced by itself.

# %%
means = [cache[f"blocks.{layer}.hook_z"].mean(0) for layer in range(LAYERS)]  # [token, head, d_head]


def ablated(heads: list[tuple[int, int]]) -> torch.Tensor:
    """Logits with the output of these (layer, head) at its mean."""

    def hooks(layer: int, head: int):
        def hook(z: torch.Tensor, hook: HookPoint) -> torch.Tensor:
            z[:, :, head] = means[layer][:, head]
            return z

        return f"blocks.{layer}.hook_z", hook

    with torch.no_grad():
        return model.run_with_hooks(data.test, fwd_hooks=[hooks(*head) for head in heads])


every_head = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
damage = {head: metrics["accuracy"] - accuracy(ablated([head])) for head in every_head}
ranked = sorted(every_head, key=lambda head: -damage[head])
half = len(every_head) // 2
draws_of_heads = [torch.randperm(len(every_head), generator=generator)[:half].tolist() for _ in range(8)]
metrics |= {
    "best_head_damage": damage[ranked[0]],
    "top_half_ablated": accuracy(ablated(ranked[:half])),
    "bottom_half_ablated": accuracy(ablated(ranked[half:])),
    "random_half_ablated": sum(accuracy(ablated([every_head[i] for i in d])) for d in draws_of_heads) / 8,
    "all_ablated": accuracy(ablated(every_head)),
}
unchanged = [(name, lambda value, hook: value.clone()) for name in cache if name.endswith("hook_z")]
with torch.no_grad():
    again = model.run_with_hooks(data.test, fwd_hooks=unchanged)
metrics["noop_change"] = (again - logits).abs().max().item()

# %% [markdown]
# ### Patching: when does the decision pass from the patches to the class token?
#
# Pairs of test pictures of different digits, both classified right. Run picture B, put in the stream of
# picture A at some tokens and some depth, and see how far the logit difference moves from B's (0) to A's (1).
# All tokens must give exactly 1. The digits fill the same frame, so patches are aligned. Control: a random
# quarter of the patches, and another picture of B's own digit.

# %%
right = (logits.argmax(-1) == data.test_labels).nonzero()[:, 0]
if len(data.test_labels[right].unique()) < 2:  # a model that has learned nothing: any pictures will do
    right = torch.arange(len(logits), device=device)
chooser = torch.Generator().manual_seed(SEED + 2)
a = right[torch.randint(len(right), (8 * PAIRS,), generator=chooser).to(device)]
b = right[torch.randint(len(right), (8 * PAIRS,), generator=chooser).to(device)]
differ = (data.test_labels[a] != data.test_labels[b]).nonzero()[:PAIRS, 0]
a, b = a[differ], b[differ]
same = (data.test_labels[b][:, None] == data.test_labels[right]) & (b[:, None] != right)
sibling = right[torch.multinomial(same.float().cpu() + 1e-9, 1, generator=chooser)[:, 0].to(device)]


def moved(source: torch.Tensor, layer: int, tokens: torch.Tensor | slice) -> torch.Tensor:
    """How far B's logit difference moves towards A's, [pair], with the stream of ``source`` at ``tokens``."""
    name = f"blocks.{layer}.hook_resid_pre" if layer < LAYERS else f"blocks.{LAYERS - 1}.hook_resid_post"

    def patch(stream: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        stream[:, tokens] = cache[name][source][:, tokens]
        return stream

    with torch.no_grad():
        out = model.run_with_hooks(data.test[b], fwd_hooks=[(name, patch)])

    def difference(x: torch.Tensor) -> torch.Tensor:
        pick = [x.gather(1, data.test_labels[of][:, None])[:, 0] for of in (a, b)]
        return pick[0] - pick[1]

    low, high = difference(logits[b]), difference(logits[a])
    return (difference(out) - low) / (high - low)


quarter = 1 + torch.randperm(PATCHES, generator=chooser)[:CUT]
cases = {
    "class token": (a, slice(0, 1)), "all patches": (a, slice(1, None)), "a quarter of them": (a, quarter),
    "B's digit, patches": (sibling, slice(1, None)),
}  # fmt: skip
curves = {
    name: [moved(source, layer, tokens).mean().item() for layer in range(LAYERS + 1)]
    for name, (source, tokens) in cases.items()
}
middle = LAYERS // 2 if LAYERS > 1 else LAYERS
metrics |= {
    "patches_start": curves["all patches"][0], "class_start": curves["class token"][0],
    "class_middle": curves["class token"][middle], "patches_middle": curves["all patches"][middle],
    "class_end": curves["class token"][-1], "quarter_start": curves["a quarter of them"][0],
    "sibling_start": curves["B's digit, patches"][0],
    "all_tokens_error": (moved(a, middle, slice(None)) - 1).abs().max().item(),
}  # fmt: skip
by_patch = torch.stack([moved(a, 0, slice(1 + p, 2 + p)).mean() for p in range(PATCHES)])  # [patch]

# %% [markdown]
# ### Look

# %%
fig, axes = plots.figure(2, 3, f"A vision transformer with {LAYERS} layers on 8 x 8 digits")
plots.bars(
    axes[0], mean_share, "Exact shares of the right digit's logit", y="logit (centred)",
    highlight=[f"{layer}.{head}" for layer, head in ranked[:2]], numbers=False,
)  # fmt: skip
lost = torch.tensor([[damage[layer, head] for head in range(HEADS)] for layer in range(LAYERS)])
plots.head_scores(axes[1], lost, "Accuracy lost when a head is mean-ablated")
for index, (name, curve) in enumerate(curves.items()):
    axes[2].plot(range(LAYERS + 1), curve, marker="o", color=plots.COLOURS[index],
                 linestyle=plots.STYLES[index], label=name)  # fmt: skip
axes[2].set_xticks(range(LAYERS + 1), [f"before\nblock {n}" for n in range(LAYERS)] + ["end"])
axes[2].legend(fontsize=7.5, frameon=False)
plots.label(axes[2], "Patched from a picture of another digit", "stream patched", "share moved (0 to 1)")
plots.bars(
    axes[3], {"most": metrics["cut_most"], "random": metrics["cut_random"], "least": metrics["cut_least"],
              "none": metrics["cut_none"]},
    f"Class token cut off from {CUT} patches with attention:", y="accuracy", highlight=["most"],
    marks={"guessing": 0.1},
)  # fmt: skip
plots.bars(
    axes[4], {"top half": metrics["top_half_ablated"], "random half": metrics["random_half_ablated"],
              "bottom half": metrics["bottom_half_ablated"], "all": metrics["all_ablated"]},
    "Heads mean-ablated (guessing: 0.1)", y="accuracy", highlight=["top half"],
)  # fmt: skip
plots.heatmap(axes[5], by_patch.unflatten(0, (ACROSS, ACROSS)), "One patch at a time, before block 0",
              x="column", y="row", signed=True, numbers=True)  # fmt: skip
axes[5].set_aspect("equal")
run.save(fig, "decision")

# %%
per_head = looked.permute(1, 0, 2, 3).flatten(1, 2)  # [image, head of all layers, patch]
wide = 1 + len(every_head)
fig, axes = plots.figure(4, wide, "Where each head's class token looks", size=(1.35 * wide, 6.2))
for row in range(4):
    image = int((data.test_labels == 2 * row + 1).nonzero()[0])
    for column, ax in enumerate(axes[row * wide : (row + 1) * wide]):
        if column == 0:
            ax.imshow(data.test[image, 0].cpu(), cmap="gray_r", vmin=0, vmax=1)
            ax.set_title("picture" if row == 0 else "", fontsize=8)
        else:
            looks = per_head[image, column - 1].cpu().reshape(ACROSS, ACROSS)
            ax.imshow(looks, cmap="cividis", vmin=0, vmax=0.5)
            layer, head = every_head[column - 1]
            ax.set_title(f"head {layer}.{head}" if row == 0 else "", fontsize=8)
        ax.set(xticks=[], yticks=[])
run.save(fig, "attention")

# %%
report = run.finish(metrics)
