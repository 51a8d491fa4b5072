"""Examples of a unit, with the text around them."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from test_lab_patching import native  # noqa: E402

from mihack.lab.examples import sampled, strongest, word  # noqa: E402
from mihack.lab.scan import Scan, neurons, scan  # noqa: E402

SITE = "blocks.1.mlp.hook_post"
WORDS = [f"w{n}" for n in range(40)]


@pytest.fixture(scope="module")
def scanned() -> tuple[Any, Any, Scan]:
    model = native()
    rows = torch.randint(0, 40, (20, 10), generator=torch.Generator().manual_seed(0))
    return model, rows, scan(model, rows, neurons(model), k=4, sample=64)


class TestExamples:
    def test_the_marked_token_is_the_one_with_that_activation(self, scanned: tuple[Any, Any, Scan]) -> None:
        model, rows, found = scanned
        with torch.no_grad():
            _, cache = model.run_with_cache(rows)
        activations = cache[SITE][:, :, 5]
        wanted = activations.flatten().topk(4)
        for example, value, place in zip(
            strongest(found, rows, SITE, 5, WORDS), wanted.values, wanted.indices, strict=True
        ):
            assert example.value == pytest.approx(value.item(), abs=1e-5)
            assert example.tokens[example.at] == f"w{rows.flatten()[place]}"

    def test_the_text_around_it_is_that_of_its_row(self, scanned: tuple[Any, Any, Scan]) -> None:
        _, rows, found = scanned
        for example in strongest(found, rows, SITE, 3, WORDS, before=2, after=1):
            assert len(example.tokens) <= 4
            assert example.at <= 2
            text = " ".join(example.tokens) + " "
            assert any(text in " ".join(f"w{token}" for token in row) + " " for row in rows)

    def test_a_sample_runs_through_the_levels(self, scanned: tuple[Any, Any, Scan]) -> None:
        _, rows, found = scanned
        values = [example.value for example in sampled(found, rows, SITE, 3, WORDS)]
        assert values == sorted(values, reverse=True)
        assert len(values) == 6

    def test_fewer_tokens_than_asked_for(self) -> None:
        model = native()
        rows = torch.zeros(1, 2, dtype=torch.long)
        found = scan(model, rows, neurons(model), k=16)
        assert len(strongest(found, rows, SITE, 0, WORDS, count=16)) == 2


class TestWords:
    def test_a_list_a_function_and_an_id_beyond_the_list(self) -> None:
        assert word(WORDS, 3) == "w3"
        assert word(lambda token: f"<{token}>", 3) == "<3>"
        assert word(WORDS, 99) == "[99]"
