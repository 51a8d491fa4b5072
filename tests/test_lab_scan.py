"""Scans: the strongest places of every unit, however the work was cut up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from transformer_lens import TransformerBridgeConfig  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

from mihack.lab import scan as scans  # noqa: E402
from mihack.lab.scan import Scan, Units, head_norms, merge, neurons, scan  # noqa: E402

WIDTH, ROWS, K = 10, 37, 5


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = TransformerBridgeConfig(
        n_layers=2, d_model=16, n_heads=2, d_head=8, d_vocab=30, n_ctx=WIDTH, act_fn="gelu", seed=0
    )
    return TransformerBridge.boot_native(config).eval()


@pytest.fixture(scope="module")
def rows() -> Any:
    return torch.randint(0, 30, (ROWS, WIDTH), generator=torch.Generator().manual_seed(0))


def same(one: Scan, two: Scan) -> bool:
    """Bit for bit."""
    return (one.width, one.k, one.tokens, one.batches) == (two.width, two.k, two.tokens, two.batches) and all(
        torch.equal(getattr(one.sites[site], name), getattr(two.sites[site], name))
        for site in one.sites
        for name in Units.__dataclass_fields__
    )


class TestWhatItFinds:
    def test_the_strongest_places_and_the_statistics_are_those_of_all_activations(
        self, model: Any, rows: Any
    ) -> None:
        found = scan(model, rows, neurons(model), k=K, rows_at_once=4)
        with torch.no_grad():
            _, cache = model.run_with_cache(rows)
        for site in neurons(model):
            everything = cache[site].flatten(0, 1)
            units = found.sites[site]
            torch.testing.assert_close(units.top, everything.topk(K, dim=0).values, atol=1e-5, rtol=1e-5)
            at = everything.gather(0, units.place)
            torch.testing.assert_close(at, units.top, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                units.mean(found.tokens).float(), everything.mean(0), atol=1e-5, rtol=1e-4
            )
            torch.testing.assert_close(
                units.variance(found.tokens).float(), everything.var(0, correction=0), atol=1e-3, rtol=1e-2
            )
            torch.testing.assert_close(
                units.density(found.tokens), (everything > 0).double().mean(0), atol=2e-3, rtol=0
            )
        assert found.tokens == rows.numel()

    def test_a_place_leads_back_to_its_token(self, model: Any, rows: Any) -> None:
        found = scan(model, rows, neurons(model), k=K)
        place = int(found.sites["blocks.1.mlp.hook_post"].place[0, 3])
        row, position = found.where(place)
        tokens, index = found.context(rows, place, before=3, after=2)
        assert tokens[index] == rows[row, position]
        assert len(tokens) <= 6

    def test_heads_are_scanned_by_what_they_write(self, model: Any, rows: Any) -> None:
        found = scan(model, rows, {"blocks.0.attn.hook_z": head_norms}, k=K)
        assert found.sites["blocks.0.attn.hook_z"].top.shape == (K, 2)

    def test_the_sample_is_of_all_levels_and_the_same_for_all_units(self, model: Any, rows: Any) -> None:
        found = scan(model, rows, neurons(model), sample=64)
        units = found.sites["blocks.0.mlp.hook_post"]
        assert units.sample.shape == (64, 64)
        assert len(set(units.sample_place.tolist())) == 64
        low, middle, high = (value for value, _ in units.quantiles(0, [0, 0.5, 1]))
        assert low <= middle <= high

    def test_the_sample_is_uniform_over_places(self) -> None:
        counts = torch.zeros(10)
        for start in range(200):
            places = torch.arange(start * 1000, (start + 1) * 1000)
            kept = places[scans._drawn(places, 100)] - start * 1000
            counts += torch.bincount(kept // 100, minlength=10)
        assert counts.min() > 0.93 * counts.mean()
        assert counts.max() < 1.07 * counts.mean()

    def test_the_model_is_left_as_it_was(self, model: Any, rows: Any) -> None:
        with torch.no_grad():
            before = model(rows)
            scan(model, rows, neurons(model))
            assert torch.equal(model(rows), before)


class TestCuttingUp:
    @pytest.fixture(scope="class")
    def whole(self, model: Any, rows: Any) -> Scan:
        return scan(model, rows, neurons(model), k=K, sample=50, rows_at_once=3)

    @pytest.mark.parametrize("shards", [2, 4, 5])
    def test_shards_merge_to_the_unbroken_scan(self, model: Any, rows: Any, whole: Scan, shards: int) -> None:
        parts = [
            scan(model, rows, neurons(model), k=K, sample=50, rows_at_once=3, shard=(part, shards))
            for part in range(shards)
        ]
        assert same(merge(list(reversed(parts)), sample=50), whole)

    def test_a_missing_shard_is_noticed(self, model: Any, rows: Any) -> None:
        parts = [scan(model, rows, neurons(model), rows_at_once=3, shard=(part, 4)) for part in (0, 2)]
        with pytest.raises(ValueError, match="a shard is missing"):
            merge(parts)

    @pytest.mark.parametrize("killed_at", [1, 4, 9])
    def test_a_scan_that_was_killed_goes_on(
        self,
        model: Any,
        rows: Any,
        whole: Scan,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        killed_at: int,
    ) -> None:
        state, real, calls = tmp_path / "scan.safetensors", scans._seen, [0]

        def dies(*arguments: Any) -> Units:
            calls[0] += 1
            if calls[0] > 2 * killed_at:  # two sites in each batch
                raise KeyboardInterrupt
            return real(*arguments)

        def again() -> Scan:
            return scan(
                model, rows, neurons(model), k=K, sample=50, rows_at_once=3, state=state, save_every=2
            )

        with monkeypatch.context() as patch:
            patch.setattr(scans, "_seen", dies)
            with pytest.raises(KeyboardInterrupt):
                again()
        assert same(again(), whole)
        assert same(again(), whole)  # finished: nothing is run twice
        assert list(tmp_path.iterdir()) == [state]

    def test_a_state_of_another_scan_is_refused(self, model: Any, rows: Any, tmp_path: Path) -> None:
        state = tmp_path / "scan.safetensors"
        scan(model, rows, neurons(model), k=K, state=state)
        with pytest.raises(ValueError, match="of another scan"):
            scan(model, rows, neurons(model), k=K + 1, state=state)

    def test_what_is_kept_does_not_grow_with_the_tokens(self, model: Any, rows: Any) -> None:
        def kept(times: int) -> int:
            found = scan(model, rows.repeat(times, 1), neurons(model), k=K, sample=50)
            return sum(
                getattr(units, name).numel()
                for units in found.sites.values()
                for name in Units.__dataclass_fields__
            )

        assert kept(1) == kept(20)

    @given(
        st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=60), st.integers(1, 7), st.integers(1, 9)
    )
    @settings(max_examples=100, deadline=None)
    def test_any_activations_in_any_batches(self, values: list[float], k: int, size: int) -> None:
        """Equal values too: the places kept are a set of the strongest, and none is named twice."""
        column = torch.tensor(values)[:, None]
        units = Units.empty(1, k)
        for start in range(0, len(values), size):
            units = scans._seen(units, column[start : start + size], start, 8, 0.0)
        top = sorted(values, reverse=True)[:k]
        kept = units.place[:, 0][units.place[:, 0] >= 0]
        assert units.top[: len(top), 0].tolist() == pytest.approx(top)
        assert [values[int(place)] for place in kept] == pytest.approx(top)
        assert len(set(kept.tolist())) == len(top)
