"""The embedded models: small, documented, and what their cards say of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from mihack.lab import heads, models, text  # noqa: E402

ZOO = Path(models.__file__).parent.parent / "zoo"
NAMES = sorted(path.parent.name for path in ZOO.glob("*/config.json"))
DEEP = [name for name in NAMES if not name.endswith("-1l")]


@pytest.fixture(scope="module", params=NAMES)
def named(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, models.load_model(request.param)


def scores(model: Any) -> dict[str, Any]:
    return heads.head_scores(model, heads.repeated_tokens(model, rows=8, length=40))


def copies(model: Any, length: int = 64) -> tuple[float, float]:
    """Loss on passages of Python's documentation, and on the same when they come again."""
    rows = []
    for document in text.documentation()[:60]:
        ids = model.tokenizer(document, add_special_tokens=False)["input_ids"]
        if len(ids) >= length:
            rows.append([0, *ids[:length], *ids[:length]])
    tokens = torch.tensor(rows)
    with torch.no_grad():
        losses = F.cross_entropy(model(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return losses[:, 8:length].mean().item(), losses[:, length + 8 :].mean().item()


def test_there_are_embedded_models() -> None:
    assert "attn-only-2l" in NAMES


class TestEveryModel:
    def test_it_is_at_most_four_megabytes(self, named: tuple[str, Any]) -> None:
        assert (ZOO / named[0] / "model.safetensors").stat().st_size <= 4 * 2**20

    def test_its_card_says_data_tokens_licence_seed_and_how_to_retrain(self, named: tuple[str, Any]) -> None:
        card = (ZOO / named[0] / "README.md").read_text(encoding="utf-8")
        for part in ("**Data**", "public domain", "PSF licence", "**Tokens**", "**Seed**", "Retrain:"):
            assert part in card
        assert max(map(len, card.splitlines())) <= 120

    def test_its_curve_ends_where_its_card_does(self, named: tuple[str, Any]) -> None:
        curve = json.loads((ZOO / named[0] / "curve.json").read_text(encoding="utf-8"))
        card = (ZOO / named[0] / "README.md").read_text(encoding="utf-8")
        loss = re.search(r"held-out text.*\| ([\d.]+) \|", card)
        assert loss
        # 48 windows in training, 256 on the card
        assert curve[-1]["held_out_loss"] == pytest.approx(float(loss.group(1)), abs=0.1)

    def test_it_learned_english(self, named: tuple[str, Any]) -> None:
        first, _ = copies(named[1])
        assert first < 6  # chance is 8.3; this text is none that it was trained on as such

    def test_checkpoints_load(self, named: tuple[str, Any]) -> None:
        for step in models.checkpoints(named[0])[:1]:
            early = models.load_model(named[0], checkpoint=step)
            assert copies(early)[0] > copies(named[1])[0] + 1


class TestInduction:
    """Two layers or more have induction heads; one layer cannot (Elhage et al. 2021)."""

    def test_as_the_number_of_layers_says(self, named: tuple[str, Any]) -> None:
        best = scores(named[1])["induction"].max()
        assert best > 0.5 if named[0] in DEEP else best < 0.2

    def test_a_passage_of_real_text_is_cheaper_the_second_time(self, named: tuple[str, Any]) -> None:
        first, second = copies(named[1])
        if named[0] in DEEP:
            assert second < first - 0.7
        else:
            assert second > first - 0.7

    def test_the_head_came_with_training(self) -> None:
        early = models.load_model("attn-only-2l", checkpoint=models.checkpoints("attn-only-2l")[0])
        assert scores(early)["induction"].max() < 0.1
