"""The small Othello: its rules against known counts and positions, its games against its rules."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mihack.lab import othello  # noqa: E402


def children(mine: othello.Bits, theirs: othello.Bits, size: int) -> tuple[othello.Bits, othello.Bits]:
    """All positions one token further, and so all games if this is repeated."""
    legal = othello.legal_tokens(othello.state_from_bits(mine, theirs, size))
    rows, tokens = legal.nonzero(as_tuple=True)
    return othello.play(mine[rows.numpy()], theirs[rows.numpy()], tokens, size)


def test_counts_of_games_on_the_full_board_are_the_known_ones() -> None:
    """Positions after 1 .. 6 moves from the opening, as every Othello program counts them."""
    position, counts = othello.start(8), []
    for _ in range(6):
        position = children(*position, 8)
        counts.append(len(position[0]))
    assert counts == [4, 12, 56, 244, 1396, 8200]


def test_the_small_board_has_60060_games_and_none_is_longer_than_17_tokens() -> None:
    mine, theirs = othello.start(4)
    finished, length = 0, 0
    while len(mine):
        legal = othello.legal_tokens(othello.state_from_bits(mine, theirs, 4))
        finished += int((~legal.any(1)).sum())
        mine, theirs = children(mine, theirs, 4)
        length += len(mine) > 0
    assert finished == 60060
    assert length == 17


def test_the_first_move_turns_one_piece_and_hands_the_board_over() -> None:
    names = othello.names(4)
    black, white = othello.start(4)
    legal = othello.legal_tokens(othello.state_from_bits(black, white, 4))[0]
    assert [names[t] for t in legal.nonzero()[:, 0].tolist()] == ["b1", "a2", "d3", "c4"]
    mine, theirs = othello.play(black, white, torch.tensor([names.index("b1")]), 4)
    state = othello.state_from_bits(mine, theirs, 4)[0].reshape(4, 4).tolist()
    # white moves next, so white is 1; b1, b2, c2, b3 are black
    assert state == [[0, -1, 0, 0], [0, -1, -1, 0], [0, -1, 1, 0], [0, 0, 0, 0]]


def board(text: str) -> torch.Tensor:
    """``x`` mine, ``o`` theirs, ``.`` empty."""
    return torch.tensor([{"x": 1, "o": -1, ".": 0}[c] for c in text.split() for c in c])


def legal_names(text: str) -> list[str]:
    names = othello.names(4)
    return [names[t] for t in othello.legal_tokens(board(text)).nonzero()[:, 0].tolist()]


def test_rows_do_not_wrap_round_the_edge() -> None:
    # d1 and a2 are neighbours in the numbering of squares, not on the board
    assert legal_names("..xo o... .... ....") == ["pass"]  # not b2; and they could take c1 from b1
    assert legal_names("...x oo.. .... ....") == []  # not c2


def test_all_eight_directions_turn_at_once_but_only_closed_rows() -> None:
    # the move at b2 closes rows to the right, below and along the diagonal; the row to the left is open
    mine, theirs = (np.array([b], dtype=np.uint64) for b in (0, 0))
    state = board(".... o.ox .oo. .x.x").reshape(1, 16)
    for square, value in enumerate(state[0].tolist()):
        if value:
            (mine if value == 1 else theirs)[0] |= np.uint64(1 << square)
    after_mine, after_theirs = othello.play(mine, theirs, torch.tensor([5]), 4)
    turned = othello.state_from_bits(after_mine, after_theirs, 4)[0]
    assert turned.tolist() == (-board(".... oxxx .xx. .x.x")).tolist()


def test_a_pass_is_legal_only_if_the_other_side_can_move() -> None:
    assert legal_names("xxxx xxxx xxo. xxxx") == ["d3"]
    assert legal_names("oooo oooo oox. oooo") == ["pass"]
    assert legal_names("xxxx xxxx xxxx xxx.") == []


@pytest.mark.parametrize("size", [4, 6])
def test_games_are_legal_alternate_and_repeat_with_their_seed(size: int) -> None:
    games = othello.random_games(500, size, 14, torch.Generator().manual_seed(3))
    again = othello.random_games(500, size, 14, torch.Generator().manual_seed(3))
    assert torch.equal(games.tokens, again.tokens)
    made = games.legal[:, :-1].gather(-1, games.tokens[:, 1:, None])[..., 0]
    assert torch.equal(made, games.going[:, :-1])  # a legal token while the game goes on, then the end
    assert bool((games.tokens[:, 1:][~games.going[:, :-1]] == size**2 + 1).all())
    assert torch.equal(othello.legal_tokens(games.state), games.legal)
    assert torch.equal(games.colours[:, 0], -games.state[:, 0])  # white moves after the first move
    assert torch.equal(games.colours[:, 1], games.state[:, 1])
    subset = games[torch.tensor([4, 2])]
    assert torch.equal(subset.tokens, games.tokens[[4, 2]])


def test_moves_are_uniform_over_the_legal_ones() -> None:
    games = othello.random_games(8000, 4, 1, torch.Generator().manual_seed(0))
    shares = torch.bincount(games.tokens[:, 0], minlength=18)[[1, 4, 11, 14]] / 8000
    assert float((shares - 0.25).abs().max()) < 0.02  # four standard errors


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="4, 6 or 8 wide"):
        othello.start(5)
