"""Othello on a small board: random legal games by the hundred thousand, with the board after each move.

A board is two bitboards (whole numbers whose bit i says that square i is taken), so numpy plays all
games at once, one move per pass.  Square ``row * size + column``; token ``size ** 2`` is a pass and
``size ** 2 + 1`` is the end, which fills a sequence once neither side can move.  A pass is a token of
its own, so that the players take turns at every token: black moves at even steps, white at odd ones.

A state is seen by the player who moves next: 1 is *mine*, -1 is *theirs*, 0 is empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Bits = np.ndarray[Any, np.dtype[np.uint64]]
MINE, THEIRS, EMPTY = 1, -1, 0
_STEPS = [(dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1) if (dr, dc) != (0, 0)]


@dataclass(frozen=True)
class Games:
    """Random games, and what holds after each of their moves (tensors on the CPU)."""

    size: int
    tokens: Tensor  # [game, step] int64: the move made at this step
    state: Tensor  # [game, step, square] int8: after the move, seen by the player who moves next
    legal: Tensor  # [game, step, token] bool: what that player may do; never the end
    going: Tensor  # [game, step] bool: after this step there is a move or a pass to come

    @property
    def colours(self) -> Tensor:
        """The boards in absolute colours, [game, step, square] int8: 1 black, -1 white, 0 empty."""
        black_moves_next = torch.arange(self.tokens.shape[1]) % 2 == 1
        sign = torch.where(black_moves_next, 1, -1).to(torch.int8)
        return self.state * sign[:, None]

    def __getitem__(self, rows: Tensor) -> Games:
        """The games at ``rows`` (indices or a mask)."""
        return Games(self.size, self.tokens[rows], self.state[rows], self.legal[rows], self.going[rows])


def random_games(games: int, size: int, steps: int, generator: torch.Generator) -> Games:
    """Play ``games`` games of ``steps`` tokens, each move uniform over the legal ones.

    ``size`` is 4, 6 or 8.  4 x 4 games have 12 moves at most, and a few passes.
    """
    mine, theirs = start(size, games)
    moves = legal_bits(mine, theirs, size)
    tokens, states, legals = [], [], []
    for _ in range(steps):
        allowed = legal_tokens_from_bits(mine, theirs, moves, size)  # [game, token]
        draw = torch.rand(allowed.shape, generator=generator).masked_fill_(~allowed, -1)
        token = torch.where(allowed.any(1), draw.argmax(1), size**2 + 1)
        mine, theirs = play(mine, theirs, token, size)
        moves = legal_bits(mine, theirs, size)
        tokens.append(token)
        states.append(state_from_bits(mine, theirs, size))
        legals.append(legal_tokens_from_bits(mine, theirs, moves, size))
    legal = torch.stack(legals, dim=1)
    return Games(size, torch.stack(tokens, dim=1), torch.stack(states, dim=1), legal, legal.any(-1))


def legal_tokens(state: Tensor) -> Tensor:
    """What the player who moves next may do on any board: [..., square] -> [..., size ** 2 + 2] bool.

    A pass is legal if there is no move but the other side has one; nothing is legal once the game is over.
    """
    size = round(state.shape[-1] ** 0.5)
    flat = state.detach().cpu().reshape(-1, state.shape[-1])
    mine, theirs = _pack(flat == MINE), _pack(flat == THEIRS)
    legal = legal_tokens_from_bits(mine, theirs, legal_bits(mine, theirs, size), size)
    return legal.reshape(*state.shape[:-1], -1).to(state.device)


def names(size: int) -> list[str]:
    """Names of the tokens: a1, b1, ... row by row, then ``pass`` and ``end``."""
    squares = [f"{chr(ord('a') + column)}{row + 1}" for row in range(size) for column in range(size)]
    return [*squares, "pass", "end"]


def start(size: int, games: int = 1) -> tuple[Bits, Bits]:
    """The opening position as (black, white) bitboards, [game]; black moves first."""
    if size not in (4, 6, 8):
        raise ValueError(f"size is {size}: boards are 4, 6 or 8 wide")
    a, b = size // 2 - 1, size // 2
    black = (1 << (a * size + b)) | (1 << (b * size + a))
    white = (1 << (a * size + a)) | (1 << (b * size + b))
    return np.full(games, black, dtype=np.uint64), np.full(games, white, dtype=np.uint64)


def legal_bits(mine: Bits, theirs: Bits, size: int) -> Bits:
    """Squares where the owner of ``mine`` may move, as bits: next to a row of theirs that ends in mine."""
    empty = ~(mine | theirs)
    moves = np.zeros_like(mine)
    for step in _STEPS:
        moves |= _shift(_run(mine, theirs, step, size), step, size) & empty
    return moves


def flipped_bits(mine: Bits, theirs: Bits, move: Bits, size: int) -> Bits:
    """The pieces of ``theirs`` that turn when a piece is put on the square of ``move`` (a single bit)."""
    turned = np.zeros_like(mine)
    for step in _STEPS:
        row = _run(move, theirs, step, size)
        closed = (_shift(row, step, size) & mine) != 0
        turned |= np.where(closed, row, np.uint64(0))
    return turned


def play(mine: Bits, theirs: Bits, token: Tensor, size: int) -> tuple[Bits, Bits]:
    """Make the move ``token`` [game] and hand the board to the other side: the new (mine, theirs)."""
    chosen = token.numpy().astype(np.uint64)
    on_board = chosen < size**2
    move = np.where(on_board, np.uint64(1) << np.where(on_board, chosen, np.uint64(0)), np.uint64(0))
    turned = flipped_bits(mine, theirs, move, size)
    return theirs & ~turned, mine | turned | move


def state_from_bits(mine: Bits, theirs: Bits, size: int) -> Tensor:
    """[game, square] int8: 1 mine, -1 theirs, 0 empty."""
    return _unpack(mine, size).to(torch.int8) - _unpack(theirs, size).to(torch.int8)


def legal_tokens_from_bits(mine: Bits, theirs: Bits, moves: Bits, size: int) -> Tensor:
    """[game, size ** 2 + 2] bool: moves, a pass where it is forced, never the end."""
    stuck = moves == 0
    forced = np.zeros_like(stuck)
    if stuck.any():
        forced[stuck] = legal_bits(theirs[stuck], mine[stuck], size) != 0
    never = np.zeros_like(forced)
    return torch.cat([_unpack(moves, size), torch.from_numpy(np.stack([forced, never], 1))], dim=1)


def _run(origin: Bits, theirs: Bits, step: tuple[int, int], size: int) -> Bits:
    """The unbroken rows of ``theirs`` that begin beside ``origin`` in one direction."""
    row = _shift(origin, step, size) & theirs
    for _ in range(size - 3):  # a row between two pieces has at most size - 2
        row |= _shift(row, step, size) & theirs
    return row


def _shift(bits: Bits, step: tuple[int, int], size: int) -> Bits:
    """Every piece moved one square; those that would leave the board vanish."""
    dr, dc = step
    stays = sum(
        1 << (row * size + column)
        for row in range(size)
        for column in range(size)
        if 0 <= row + dr < size and 0 <= column + dc < size
    )
    distance = dr * size + dc
    kept = bits & np.uint64(stays)
    return kept << np.uint64(distance) if distance > 0 else kept >> np.uint64(-distance)


def _unpack(bits: Bits, size: int) -> Tensor:
    """[game] bitboards -> [game, square] bool."""
    squares = np.arange(size**2, dtype=np.uint64)
    return torch.from_numpy((bits[:, None] >> squares) & np.uint64(1) != 0)


def _pack(taken: Tensor) -> Bits:
    """[game, square] bool -> [game] bitboards."""
    values = np.uint64(1) << np.arange(taken.shape[1], dtype=np.uint64)
    packed: Bits = (taken.numpy() * values).sum(1, dtype=np.uint64)
    return packed
