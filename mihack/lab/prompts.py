"""Families of prompts with clean and corrupt versions, checked token by token against a tokenizer.

    prompts = ioi(model.tokenizer, count=32)
    logits = model(prompts.clean)
    prompts.logit_difference(logits).mean()

All rows of a set come from one template and have the same number of tokens, so that position means the
same in each; a word that the tokenizer splits is never used; a set that cannot be made says which words
were at fault.  ``corrupt`` differs from ``clean`` in the words that decide the answer and nowhere else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .prompt_sets import PromptError, PromptSet, Row, Words


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Mary John Tom James Anna Sarah Paul Mark Kate Emma David Peter Alice Robert Michael Daniel Laura Jack "
    "Henry Charles George Martin Simon Richard Susan Linda Lisa William"
)
WOMEN = _words(
    "Mary Anna Sarah Kate Emma Alice Laura Susan Linda Lisa Elizabeth Jane Rachel Helen Maria Karen"
)
MEN = _words("John Tom James Paul Mark David Peter Robert Michael Daniel Jack Henry Charles George Richard")
PLACES = _words("store park school office garden station hospital library")
OBJECTS = _words("drink book ring ball letter key flower picture")
EVENTS = _words("war trial campaign project mission crisis dispute siege")
ARGUMENTS = _words("file size name port text image model table line code group value order state page user")
FILLER = _words(
    "oil column piece crime population unit dark letter mouth music sound river glass metal window paper"
)
SERIES = {
    "days": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "months": _words("January February March April May June July August September October November December"),
    "numbers": _words("one two three four five six seven eight nine ten eleven twelve"),
    "letters": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
}
TITLES = _words(
    "Central Chief Digital Executive Federal General Global Human International Joint Medical National "
    "Office Public Research Royal School Security Social State Technical University Video World"
)


def ioi(tokenizer: Any, count: int = 32, seed: int = 0, corrupt: str = "swap") -> PromptSet:
    """Indirect object identification (Wang et al. 2022, arXiv:2211.00593); as many ABBA as BABA.

    ``corrupt``: ``swap`` repeats the other name, which turns the answer round; ``other names`` repeats
    a third one and leaves none to be found (their ABC).  Raises PromptError.
    """
    if corrupt not in ("swap", "other names"):
        raise PromptError(f"corrupt is 'swap' or 'other names', not {corrupt!r}")
    words = Words(tokenizer)
    draw, rows = random.Random(seed), []
    names, places, objects = words.single(NAMES, 3), words.single(PLACES, 1), words.single(OBJECTS, 1)
    for number in range(count):
        io, s, third = draw.sample(names, 3)
        first, second = (io, s) if number % 2 else (s, io)
        slots = {"first": first, "second": second, "place": draw.choice(places)}
        slots |= {"S2": s, "object": draw.choice(objects)}
        other = {**slots, "S2": io if corrupt == "swap" else third}
        rows.append(Row(slots, other, [" " + io], [" " + s]))
    made = words.fill("ioi", "When {first} and {second} went to the {place}, {S2} gave a {object} to", rows)
    # by role rather than by order
    turn = torch.arange(count) % 2 == 1
    one, two = made.places["first"], made.places["second"]
    roles = {"IO": torch.where(turn, one, two), "S1": torch.where(turn, two, one)}
    return PromptSet(**{**made.__dict__, "places": {**made.places, **roles}})


def greater_than(tokenizer: Any, count: int = 32, seed: int = 0) -> PromptSet:
    """Years that must be later (Hanna et al. 2023, arXiv:2305.00586); corrupt: the year ends in 01.

    Where the tokenizer has two digits in a token, the answers are the years' last two digits; where it
    writes digit by digit, the next digit alone, and the corrupt year ends in 00.  Raises PromptError.
    """
    words = Words(tokenizer)
    draw, rows = random.Random(seed), []
    events = words.single(EVENTS, 1)
    pairs = all(len(words.encode(f" 17{two:02}")) == 2 for two in range(2, 99))
    digits = len(words.encode(" 1732")) - len(words.encode(" 17")) == 2
    if not pairs and not digits:
        raise PromptError(
            "greater-than needs years in two-digit tokens or digit by digit; this tokenizer writes "
            f"' 1732' as {words.tokens(' 1732')}"
        )
    for _ in range(count):
        century = draw.randrange(11, 18)
        slots = {"event": draw.choice(events), "century": str(century)}
        if pairs:
            year = draw.randrange(2, 99)
            later = [f"{other:02}" for other in range(year + 1, 100)]
            earlier = [f"{other:02}" for other in range(2, year + 1)]
            rows.append(Row({**slots, "year": f"{year:02}"}, {**slots, "year": "01"}, later, earlier))
        else:
            year = draw.randrange(2, 8)
            later, earlier = [str(d) for d in range(year + 1, 10)], [str(d) for d in range(year)]
            end = draw.randrange(10)
            rows.append(Row({**slots, "year": f"{year}{end}"}, {**slots, "year": "00"}, later, earlier))
    template = "The {event} lasted from the year {century}<{year}> to the year {century}"
    return words.fill("greater_than", template, rows)


def docstring(tokenizer: Any, count: int = 32, seed: int = 0) -> PromptSet:
    """The next argument of a docstring (Heimersheim & Janiak 2023); corrupt: other arguments in the def.

    Right: the third argument; wrong: the others, each weighing the same.  Raises PromptError.
    """
    words = Words(tokenizer)
    draw, rows = random.Random(seed), []
    arguments, filler = words.single(ARGUMENTS, 10), words.single(FILLER, 4)
    for _ in range(count):
        chosen = draw.sample(arguments, 10)
        a, b, c, d, e, f = chosen[:6]
        text = dict(zip(("w", "x", "y", "z"), draw.sample(filler, 4), strict=True))
        slots = {"a": a, "b": b, "c": c, "d": d, "e": e, "f": f, **text}
        # what is in the docstring stays; the definition has other names where the answer stood
        other = {**slots, "c": chosen[6], "d": chosen[7], "e": chosen[8], "f": chosen[9]}
        wrong = [" " + name for name in (a, b, d, e, f)]
        rows.append(Row(slots, other, [" " + c], wrong))
    template = (
        "def run(self, {d}, {a}, {b}, {c}, {e}, {f}):\n"
        '    """ {w} {x} {y} {z}\n\n    :param {a}: {w} {x}\n    :param {b}: {y} {z}\n    :param'
    )
    return words.fill("docstring", template, rows)


def gendered_pronoun(tokenizer: Any, count: int = 32, seed: int = 0) -> PromptSet:
    """He or she, by the name (Mathwin et al. 2023); corrupt: a name of the other sort. Half of each."""
    words = Words(tokenizer)
    draw, rows = random.Random(seed), []
    women, men = words.single(WOMEN, 1), words.single(MEN, 1)
    for number in range(count):
        she, he = draw.choice(women), draw.choice(men)
        name, other, right, wrong = (she, he, " she", " he") if number % 2 else (he, she, " he", " she")
        rows.append(Row({"name": name}, {"name": other}, [right], [wrong]))
    return words.fill("gendered_pronoun", "So {name} is a really great friend, isn't", rows)


def successor(tokenizer: Any, series: str = "days", count: int = 32, seed: int = 0) -> PromptSet:
    """What comes next (Gould et al. 2023, arXiv:2312.09230): days, months, numbers or letters.

    Corrupt: another stretch of the series.  Wrong: the item that is last in the prompt, which copying
    would give.  Raises PromptError.
    """
    if series not in SERIES:
        raise PromptError(f"no series {series!r}; there are {', '.join(SERIES)}")
    words = Words(tokenizer)
    items = SERIES[series]
    split = [item for item in items if len(words.encode(" " + item)) != 1]
    if split:
        raise PromptError(f"successor: {series} has words of several tokens: {words.shown(split)}")
    draw, rows = random.Random(seed), []
    for _ in range(count):
        start, other = draw.sample(range(len(items) - 3), 2)
        slots = {name: items[start + i] for i, name in enumerate("abc")}
        turned = {name: items[other + i] for i, name in enumerate("abc")}
        rows.append(Row(slots, turned, [" " + items[start + 3]], [" " + items[start + 2]]))
    return words.fill("successor", "The order is {a} {b} {c}", rows)


def acronym(tokenizer: Any, count: int = 32, seed: int = 0) -> PromptSet:
    """The third letter of an acronym (García-Carrasco et al. 2024, arXiv:2405.04156).

    Corrupt: another third word.  Letters are given as separate tokens, whatever the tokenizer would
    have merged.  Wrong: the initial of the corrupt word.  Raises PromptError.
    """
    words = Words(tokenizer)
    draw, rows = random.Random(seed), []
    titles = words.single(TITLES, 6)
    for _ in range(count):
        a, b, c, other = draw.sample(titles, 4)
        while other[0] == c[0]:
            other = draw.choice(titles)
        slots = {"a": a, "b": b, "c": c, "A": a[0], "B": b[0]}
        rows.append(Row(slots, {**slots, "c": other}, [c[0]], [other[0]]))
    return words.fill("acronym", "The {a} {b} {c} (<{A}><{B}>", rows)


def induction(
    vocabulary: int | Sequence[int],
    count: int = 32,
    period: int = 20,
    seed: int = 0,
    bos: int | None = None,
) -> PromptSet:
    """Random tokens, then the same again up to some token: what came next?

    After Olsson et al. 2022 (arXiv:2209.11895).
    ``vocabulary``: ids to draw from, or how many.  Corrupt: the first copy of the last token, and what
    followed it, are other tokens, so that nothing says what comes next.  Wrong: what follows there.
    """
    ids = torch.arange(vocabulary) if isinstance(vocabulary, int) else torch.as_tensor(list(vocabulary))
    ids = ids[ids != bos] if bos is not None else ids
    if len(ids) < period + 2:
        raise PromptError(
            f"induction: {len(ids)} tokens to draw from; a period of {period} needs {period + 2}"
        )
    generator = torch.Generator().manual_seed(seed)
    clean, corrupt, right, wrong, found = [], [], [], [], []
    for _ in range(count):
        drawn = ids[torch.randperm(len(ids), generator=generator)[: period + 2]]
        once, new = drawn[:period], drawn[period:]
        place = int(torch.randint(0, period - 1, (), generator=generator))
        # the repeat ends on the token at `place`; rotating keeps the number of tokens the same
        once = once.roll(period // 2 - place)
        place = period // 2
        row = torch.cat([once, once[: place + 1]])
        other = row.clone()
        other[place : place + 2] = new
        clean.append(row)
        corrupt.append(other)
        right.append((int(once[place + 1]),))
        wrong.append((int(new[1]),))
        found.append(place)
    start = torch.full((count, 1), bos) if bos is not None else torch.zeros(count, 0, dtype=torch.long)
    first = torch.tensor(found) + start.shape[1]
    return PromptSet(
        "induction",
        torch.cat([start, torch.stack(clean)], 1),
        torch.cat([start, torch.stack(corrupt)], 1),
        tuple(right),
        tuple(wrong),
        {"first": first, "next": first + 1},
    )


#: families that need a tokenizer, by name
FAMILIES: dict[str, Callable[..., PromptSet]] = {
    "ioi": ioi,
    "greater_than": greater_than,
    "docstring": docstring,
    "gendered_pronoun": gendered_pronoun,
    "successor": successor,
    "acronym": acronym,
}
