"""Head scores: 1 for a head that does it, 0 for one that does something close to it."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
warnings.filterwarnings("ignore")

from test_lab_patching import gpt2, llama, native  # noqa: E402
from transformer_lens import TransformerBridgeConfig  # noqa: E402
from transformer_lens.head_detector import detect_head  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

from mihack.lab import heads  # noqa: E402
from mihack.lab.heads import KINDS, head_scores, repeated_tokens, table  # noqa: E402

WORDS, PLACES = 12, 24


def repeated(period: int, copies: int = 2) -> Any:
    """Two rows of a block of different tokens, repeated."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randperm(50, generator=generator)[:period].repeat(copies) for _ in range(2)]
    return torch.stack(rows)


def looking_back(tokens: Any, distance: int) -> Any:
    """A pattern whose only head looks ``distance`` places back, or at the start if that is too far."""
    size = tokens.shape[1]
    keys = (torch.arange(size) - distance).clamp_min(0)
    return torch.nn.functional.one_hot(keys, size).float().expand(len(tokens), 1, -1, -1)


def scores_of(pattern: Any, tokens: Any) -> dict[str, float]:
    return {kind: heads.attention_to(pattern, keys(tokens)).item() for kind, keys in KINDS.items()}


class TestHandMadePatterns:
    def test_a_perfect_previous_token_head(self) -> None:
        tokens = repeated(8)
        found = scores_of(looking_back(tokens, 1), tokens)
        assert found["previous token"] == 1
        assert found["induction"] == found["duplicate token"] == 0

    def test_a_perfect_duplicate_token_head(self) -> None:
        tokens = repeated(8)
        found = scores_of(looking_back(tokens, 8), tokens)
        assert found["duplicate token"] == 1
        assert found["induction"] == 0
        assert found["previous token"] == pytest.approx(
            1 / 15
        )  # the second query has but one place to look at

    def test_a_perfect_induction_head(self) -> None:
        tokens = repeated(8)
        found = scores_of(looking_back(tokens, 8 - 1), tokens)
        assert found["induction"] == 1
        assert found["duplicate token"] == 0

    @pytest.mark.parametrize("distance", [8, 8 - 2], ids=["duplicate", "one too far on"])
    def test_one_place_off_is_no_induction(self, distance: int) -> None:
        tokens = repeated(8)
        assert heads.induction_score(looking_back(tokens, distance), tokens).item() == 0

    def test_several_copies_all_count(self) -> None:
        tokens = repeated(5, copies=3)
        assert heads.induction_score(looking_back(tokens, 4), tokens).item() == 1
        shared = (looking_back(tokens, 4) + looking_back(tokens, 9)) / 2
        late = heads.attention_to(shared[:, :, 10:], heads.induction_keys(tokens)[:, 10:])
        assert late.item() == 1

    def test_a_uniform_head_scores_what_chance_gives(self) -> None:
        tokens = repeated(8)
        uniform = torch.ones(16, 16).tril()
        uniform = (uniform / uniform.sum(-1, keepdim=True)).expand(2, 1, -1, -1)
        by_chance = sum(1 / (query + 1) for query in range(8, 16)) / 8
        found = scores_of(uniform, tokens)
        assert found["induction"] == pytest.approx(by_chance)
        assert found["duplicate token"] == pytest.approx(by_chance)

    def test_other_offsets_and_the_first_token(self) -> None:
        tokens = repeated(8)
        for offset in (0, 1, 3):
            pattern = looking_back(tokens, offset)
            assert heads.attention_to(pattern, heads.offset_keys(tokens, offset)).item() == 1
            assert heads.attention_to(pattern, heads.offset_keys(tokens, offset + 1))[0] < 0.1
        assert scores_of(looking_back(tokens, 99), tokens)["first token"] == 1

    def test_no_repetition_no_score(self) -> None:
        tokens = torch.arange(6)[None]
        assert heads.induction_score(looking_back(tokens, 1), tokens).isnan().all()


def built() -> Any:
    """A two-layer model whose weights ARE a previous-token head (0.0) and an induction head (1.0).

    The stream holds the token, the place, and room for the previous token, one-hot each.
    """
    width = WORDS + PLACES + WORDS
    config = TransformerBridgeConfig(
        n_layers=2, d_model=2 * PLACES, n_heads=2, d_head=PLACES, d_vocab=WORDS, n_ctx=PLACES,
        normalization_type=None, attn_only=True, seed=0,
    )  # fmt: skip
    assert width == 2 * PLACES
    model = TransformerBridge.boot_native(config).eval()
    token, place, before = (
        torch.arange(start, start + size)
        for start, size in ((0, WORDS), (WORDS, PLACES), (WORDS + PLACES, WORDS))
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "head." not in name:
                weight.zero_()
        embed, places = (part.original_component.weight for part in (model.embed, model.pos_embed))
        embed[torch.arange(WORDS), token] = 1
        places[torch.arange(PLACES), place] = 1
        first, second = (
            {part: getattr(block.attn, part).original_component.weight for part in "qkvo"}
            for block in model.blocks
        )
        first["q"][torch.arange(1, PLACES) - 1, place[1:]] = 1000  # asks for the place before
        first["k"][torch.arange(PLACES), place] = 1
        first["v"][torch.arange(WORDS), token] = 1
        first["o"][before, torch.arange(WORDS)] = 1
        second["q"][torch.arange(WORDS), token] = 1000  # asks for the token ...
        second["k"][torch.arange(WORDS), before] = 1  # ... that stood before,
        # but not at the first place: nothing stands before it, so the first head gives it itself
        second["k"][:WORDS, place[0]] = -1
    return model


class TestModels:
    def test_weights_that_are_a_previous_token_and_an_induction_head(self) -> None:
        model = built()
        tokens = repeated_tokens(model, 8)
        assert tokens.shape == (8, PLACES)
        found = head_scores(model, tokens)
        assert found["previous token"][0, 0] == pytest.approx(1, abs=1e-4)
        assert found["induction"][1, 0] == pytest.approx(1, abs=1e-4)
        assert found["induction"][0].max() < 0.25  # uniform, and the previous-token head
        assert found["previous token"][1].max() < 0.25
        assert found["duplicate token"].max() < 0.25

    def test_a_random_model_has_none(self) -> None:
        found = head_scores(native(n_ctx=60), repeated_tokens(native(n_ctx=60), 8))
        for kind in ("previous token", "duplicate token", "induction"):
            assert found[kind].min() >= 0
            assert found[kind].max() < 0.25

    @pytest.mark.parametrize("made", [gpt2, llama])
    def test_the_scores_are_those_of_the_cached_patterns(self, made: Any, tmp_path: Path) -> None:
        model = made(tmp_path)
        tokens = repeated_tokens(model, 5)
        found = head_scores(model, tokens, rows_at_once=2)
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
        for layer in range(3):
            pattern = cache["pattern", layer]
            wanted = heads.induction_score(pattern, tokens)
            torch.testing.assert_close(found["induction"][layer], wanted, atol=1e-5, rtol=1e-4)
            wanted = heads.previous_token_score(pattern, tokens)
            torch.testing.assert_close(found["previous token"][layer], wanted, atol=1e-5, rtol=1e-4)

    def test_a_model_without_patterns_is_refused(self) -> None:
        class Silent:
            blocks, cfg = (1, 2), type("cfg", (), {"n_heads": 2})

            def hooks(self, **_: Any) -> Any:
                return contextlib.nullcontext()

            def __call__(self, *_: Any, **__: Any) -> None: ...

        with pytest.raises(ValueError, match="2 layers show no attention pattern"):
            head_scores(Silent(), torch.zeros(1, 4, dtype=torch.long))

    def test_equal_to_transformer_lens_but_for_what_it_divides_by(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``detect_head`` divides by all queries, ours by those that have such a key."""
        model = gpt2(tmp_path)
        tokens = repeated_tokens(model, 1, 12)
        monkeypatch.setattr(model, "to_tokens", lambda _: tokens)  # it insists on text
        ours = head_scores(model, tokens)
        for kind, name in (
            ("previous token", "previous_token_head"),
            ("duplicate token", "duplicate_token_head"),
            ("induction", "induction_head"),
        ):
            theirs = detect_head(model, "", name)
            share = KINDS[kind](tokens).any(-1).sum() / tokens.shape[1]
            torch.testing.assert_close(ours[kind] * share, theirs, atol=1e-4, rtol=1e-4)


class TestRepeatedTokens:
    def test_every_row_repeats_with_a_period_of_its_own(self) -> None:
        tokens = repeated_tokens(native(d_vocab=100, n_ctx=64), 16)
        periods = set()
        for row in tokens:
            period = next(n for n in range(1, 64) if torch.equal(row[n:], row[:-n]))
            assert 16 <= period <= 32
            assert len(set(row.tolist())) == period
            periods.add(period)
        assert len(periods) > 5

    def test_the_same_seed_gives_the_same_rows(self) -> None:
        model = native()
        assert torch.equal(repeated_tokens(model, seed=3), repeated_tokens(model, seed=3))
        assert not torch.equal(repeated_tokens(model, seed=3), repeated_tokens(model, seed=4))

    def test_bos_stands_first_and_nowhere_else_if_the_tokenizer_puts_it_there(self, tmp_path: Path) -> None:
        tokens = repeated_tokens(gpt2(tmp_path), 8)
        assert (tokens[:, 0] == 0).all()
        assert (tokens[:, 1:] != 0).all()
        assert (repeated_tokens(native(), 64) == 0).any()

    def test_a_small_vocabulary_will_do(self) -> None:
        tokens = repeated_tokens(native(d_vocab=3, n_ctx=40))
        assert tokens.shape == (16, 40)
        assert tokens.max() < 3


class TestTable:
    def test_the_strongest_heads_stand_first(self) -> None:
        score = torch.tensor([[0.1, 0.9], [0.5, torch.nan]])
        assert table({"induction": score}, 3) == "induction  0.1 0.90  1.0 0.50  0.0 0.10"

    def test_it_fits_a_terminal(self) -> None:
        many = torch.arange(48 * 64).view(48, 64).float()
        text = table({"previous token": many, "OV eigenvalues": -many}, count=30)
        assert max(map(len, text.splitlines())) <= 80
        assert text.splitlines()[0].startswith("previous token  47.63 3071.00")
