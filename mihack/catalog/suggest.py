"""Which problems suit a team: a score with its reasons, by rules that are ours and written out here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mihack.catalog.index import Index
from mihack.catalog.query import CODING, COMPUTE, letters
from mihack.catalog.search import search

# People share the writing and the checking, hardly the thinking: each further one adds half.
SHARED = 0.5
DIFFICULTY = {"A": 2.0, "B": 1.0, "C": -1.0, "D": -3.0}
STATUS = {"open": 1.0, "partly answered": 1.0, "unknown": 0.5, "largely answered": 0.0}
FIT = {"exact": 2.0, "near": 0.5}
INTEREST = 6.0


@dataclass(frozen=True)
class Team:
    """What a team has: hours each, people, coding level, machine, and what it likes."""

    hours: float = 16
    people: int = 2
    coding: str = "some"
    compute: str = "laptop"
    interests: tuple[str, ...] = ()

    @property
    def work(self) -> float:
        """Hours of work that the team gets done by our rule."""
        return self.hours * (1 + SHARED * (self.people - 1))


@dataclass
class Suggestion:
    """A problem with its score and why."""

    id: str
    score: float = 0.0
    reasons: list[str] = field(default_factory=list)

    def add(self, points: float, reason: str = "") -> None:
        """Count ``points``, and say why."""
        self.score += points
        if reason:
            self.reasons.append(reason)


def suggest(index: Index, team: Team) -> list[Suggestion]:
    """Problems that the team's machine and hours allow, the most suitable first."""
    liked = {interest: _shares(index, interest) for interest in team.interests}
    found = [
        _judge(key, item, team, liked)
        for key, item in index.problems.items()
        if COMPUTE.index(item["compute"]) <= COMPUTE.index(team.compute) and item["hours"][0] <= team.work
    ]
    return sorted(found, key=lambda one: -one.score)  # stable: equals keep their natural order


def _shares(index: Index, interest: str) -> dict[str, float]:
    """Problem ids with the share of the best match's score that they reach, in 0..1."""
    hits, _ = search(index, interest)
    return {hit.key: 1 / (1 + place / 10) for place, hit in enumerate(hits)}


def _judge(key: str, item: dict[str, Any], team: Team, liked: dict[str, dict[str, float]]) -> Suggestion:
    one = Suggestion(key)
    for interest, shares in liked.items():
        if key in shares:
            one.add(INTEREST * shares[key], f"about {interest!r}" if shares[key] > 0.4 else "")
    low, high = item["hours"]
    if high <= team.work:
        one.add(2, f"a first result in {low:g} to {high:g} hours fits your {team.work:g}")
    else:
        one.add(0, f"the long end of {low:g} to {high:g} hours is more than your {team.work:g}")
    lack = CODING.index(item["coding"]) - CODING.index(team.coding)
    one.add(-2.0 * max(0, lack), "asks for more programming than you named" if lack > 0 else "")
    span = letters(item["difficulty"])
    one.add(sum(DIFFICULTY[letter] for letter in span) / len(span), f"difficulty {item['difficulty']}")
    one.add(STATUS[item["status"]], _status(item["status"]))
    fit = (item["starter"] or {"fit": "none"})["fit"]
    words = {"exact": "its experiment is ready to run", "near": "a warm-up experiment is ready to run"}
    one.add(FIT.get(fit, -1.0), words.get(fit, "no experiment yet: you start from the card"))
    return one


def _status(status: str) -> str:
    if status == "largely answered":
        return "largely answered: a replication or an extension"
    return {"open": "open: we searched and found nothing", "unknown": "nobody has searched for answers"}.get(
        status, "partly answered"
    )
