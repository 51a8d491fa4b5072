"""What a catalogue may say: one pydantic model per kind of card, strict, unknown fields refused.

Only authoring commands import this module.  ``docs/authoring.md`` describes the same fields in
prose, and a test compares the two.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mihack.catalog.fields import (
    Arxiv,
    Basis,
    Coding,
    Compute,
    Day,
    Difficulty,
    Distinct,
    Doi,
    Hours,
    KnobName,
    Letter,
    Moment,
    OneLine,
    Paragraph,
    ProblemId,
    Scalar,
    Slug,
    Status,
    Url,
    Year,
)

ANSWERED = ("partly answered", "largely answered")


class Strict(BaseModel):
    """No coercion, no unknown field: a typing slip must not pass for an answer."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class Link(Strict):
    """A page, and the words to show for it."""

    label: OneLine = Field(description="The words to show for the link.")
    url: Url = Field(description="A full http:// or https:// address.")


class Source(Link):
    """Where a problem was posed or a rating comes from."""


class WorkRef(Strict):
    """A work that bears on a problem, and how."""

    work: Slug = Field(description="A key of works.yaml.")
    bearing: Paragraph = Field(description="One sentence: what this work settles or adds for the problem.")


class StarterRef(Strict):
    """Which starter a problem uses, and its parameters."""

    name: Slug = Field(description="A folder of templates/starters.")
    parameters: dict[KnobName, Scalar] = Field(
        description="The starter's selector (task or study) and any of that experiment's knobs."
    )
    fit: Literal["exact", "near"] = Field(
        default="exact",
        description="exact: the experiment opens this very question; near: it warms up the method, "
        "and the question is still the team's to set up.",
    )
    note: Paragraph | None = Field(
        default=None,
        description="With near: what to replace in the experiment to get to the question. It stands in the "
        "repo's README, under What to replace.",
    )

    @model_validator(mode="after")
    def _note_needs_near(self) -> StarterRef:
        if self.note is not None and self.fit != "near":
            raise ValueError("note says what to replace, so it needs fit: near")
        return self


class Problem(Strict):
    """The front matter of problems/<area>/<id>-<slug>.md."""

    id: ProblemId = Field(
        description='What people cite, in quotes: "3.1"; new ones have a series prefix, "NP001".'
    )
    post_id: ProblemId | None = Field(
        default=None,
        description="The number in the original post; null or absent if there is none.",
    )
    title: OneLine = Field(
        description="Our own title, one line; in the shipped catalogue at most 90 characters, no full stop."
    )
    area: Slug = Field(description="A file of areas/, without .md.")
    subarea: OneLine = Field(description="The heading under which the source lists the problem.")
    difficulty: Difficulty = Field(description="A letter, A (easiest) to D, or a range such as B-C.")
    difficulty_basis: Basis = Field(
        description="Who rated it: posted (the post), community (the community list), recalled "
        "(from memory of the post), estimated (us)."
    )
    difficulty_reason: Paragraph | None = Field(
        default=None,
        validate_default=True,
        description="Why we rated it so; required with difficulty_basis estimated, else absent.",
    )
    community_letter: Letter | None = Field(
        default=None, description="The community list's letter; absent if unknown."
    )
    starred: bool = Field(default=False, description="Whether the post starred the problem.")
    status: Status = Field(
        description="How far it is answered; open only if somebody searched and found nothing."
    )
    reviewed: Day = Field(description="The day when status and works were last reviewed.")
    works: Annotated[list[WorkRef], Field(max_length=30)] = Field(
        description="The works that bear on it; may be empty only for open and unknown."
    )
    remains: Paragraph = Field(description="One sentence: what is left for a team.")
    hours: Hours = Field(description="Our estimate of the hours to a first own result: [low, high].")
    compute: Compute = Field(description="The least machine on which it can be done.")
    coding: Coding = Field(description="How much code a team writes beyond the starter.")
    concepts: Annotated[list[Slug], Distinct] = Field(
        description="What to understand first: files of concepts/, without .md."
    )
    models: Annotated[list[OneLine], Distinct] = Field(description="The models to study, in words.")
    resources: Annotated[list[Slug], Distinct] = Field(
        default=[], description="Keys of resources.yaml worth opening for it."
    )
    related: Annotated[list[ProblemId], Distinct] = Field(
        default=[], description="The ids of neighbouring problems, in quotes."
    )
    tags: Annotated[list[Slug], Distinct] = Field(default=[], description="Words to filter by.")
    starter: StarterRef | None = Field(
        description="What `mihack new` starts the repo from; null where no experiment comes near yet."
    )
    sources: Annotated[list[Source], Field(min_length=1)] = Field(
        description="Where the problem was posed; at least one."
    )

    @field_validator("difficulty_reason")
    @classmethod
    def _reason_iff_estimated(cls, reason: str | None, info: ValidationInfo) -> str | None:
        basis = info.data.get("difficulty_basis")
        if basis == "estimated" and reason is None:
            raise ValueError("is missing: an estimated difficulty needs its reason")
        if basis is not None and basis != "estimated" and reason is not None:
            raise ValueError(f"belongs to difficulty_basis estimated only, and this is {basis}")
        return reason

    @field_validator("works")
    @classmethod
    def _works_support_status(cls, works: list[WorkRef], info: ValidationInfo) -> list[WorkRef]:
        status = info.data.get("status")
        if status in ANSWERED and not works:
            raise ValueError(f"is empty, but status is {status!r}: name the works that answer it")
        keys = [ref.work for ref in works]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"names {key!r} twice; put both bearings into one entry")
        return works


class Area(Strict):
    """The front matter of areas/<slug>.md."""

    title: OneLine = Field(description="The area's name.")
    summary: Paragraph = Field(description="What the area is, in a sentence or two.")
    order: Annotated[int, Field(ge=0, le=999)] = Field(description="Its place in lists.")
    coding: Coding = Field(description="How much code its problems usually ask for.")
    post: Url | None = Field(default=None, description="The post that opened the area.")


class Concept(Strict):
    """The front matter of concepts/<slug>.md; its body is optional and read after the summary."""

    term: OneLine = Field(description="The term as people write it.")
    aliases: Annotated[list[OneLine], Distinct] = Field(
        default=[], description="Other words for the same thing; `mihack explain` finds them too."
    )
    summary: Paragraph = Field(description="The definition, in about two sentences.")
    formula: Paragraph | None = Field(default=None, description="A formula, a shape, or both, as plain text.")
    transformer_lens: Paragraph | None = Field(
        default=None, description="The TransformerLens call or the activation's name."
    )
    see_also: Annotated[list[Slug], Distinct] = Field(
        default=[], description="Neighbouring concepts: files of concepts/, without .md."
    )
    links: list[Link] = Field(default=[], description="Where to read more.")


class Resource(Strict):
    """An entry of resources.yaml."""

    title: OneLine = Field(description="Its title.")
    kind: Literal["demo", "tutorial", "paper", "video", "tool", "reference", "puzzle"] = Field(
        description="What it is."
    )
    by: OneLine = Field(description="Who made it.")
    year: Year | None = Field(default=None, description="The year; null if unknown.")
    url: Url = Field(description="A full http:// or https:// address.")
    what_for: Paragraph = Field(description="One sentence: what a team gets from it.")
    minutes: Annotated[int, Field(gt=0, le=10000)] | None = Field(
        default=None,
        description="Our estimate of a first useful pass, in minutes; null if unknown.",
    )
    works_on_tl4: Literal["yes", "no", "unknown", "not code"] = Field(
        description="Whether its code runs on TransformerLens 4; not code for prose and videos."
    )
    note: Paragraph | None = Field(default=None, description="What to watch out for.")


class Work(Strict):
    """An entry of works.yaml: a paper or post that bears on some problem."""

    authors: OneLine = Field(description="Authors as one would cite them: Nanda et al.")
    year: Year = Field(description="The year of publication.")
    title: OneLine = Field(description="Its title.")
    arxiv: Arxiv | None = Field(default=None, description="The arXiv number, in quotes.")
    doi: Doi | None = Field(default=None, description="The DOI.")
    url: Url | None = Field(default=None, description="Its page, where there is no arXiv or DOI.")
    confirmed: bool = Field(
        description="Whether somebody opened its page and saw this title and these authors."
    )
    note: Paragraph | None = Field(default=None, description="How it was confirmed; what is odd.")

    @model_validator(mode="after")
    def _reachable(self) -> Work:
        if not (self.arxiv or self.doi or self.url):
            raise ValueError("has none of arxiv, doi and url; give one, so that a reader finds it")
        return self


class Event(Strict):
    """What an organiser's catalogue is for."""

    name: OneLine = Field(description="The event's name.")
    starts: Day = Field(description="Its first day, as YYYY-MM-DD.")
    ends: Day = Field(description="Its last day, as YYYY-MM-DD.")
    until: Moment | None = Field(
        default=None,
        description="When hand-in closes: 2026-12-06T16:00; with +01:00 behind it for all zones.",
    )
    url: Url | None = Field(default=None, description="Its page.")
    note: OneLine | None = Field(default=None, description="What a team must know: a deadline, a room.")

    @field_validator("ends")
    @classmethod
    def _after_starts(cls, ends: str, info: ValidationInfo) -> str:
        if ends < info.data.get("starts", ""):
            raise ValueError(f"is {ends}, before the event starts on {info.data['starts']}")
        return ends


class Change(Strict):
    """Ratings of one problem that differ at this event; what is left out stays as it is."""

    problem: ProblemId = Field(description="The id of the problem, in quotes.")
    difficulty: Difficulty | None = Field(default=None, description="The rating here.")
    hours: Hours | None = Field(default=None, description="The estimate here: [low, high].")
    compute: Compute | None = Field(default=None, description="The least machine here.")
    coding: Coding | None = Field(default=None, description="How much code it takes here.")
    reason: OneLine = Field(description="Why; `mihack show` prints it beside the rating that it replaces.")

    @model_validator(mode="after")
    def _changes_something(self) -> Change:
        if not (self.difficulty or self.hours or self.compute or self.coding):
            raise ValueError("changes nothing; give difficulty, hours, compute or coding")
        return self


class Overlay(Strict):
    """overlay.yaml: what a folder says about the catalogue below it."""

    event: Event | None = Field(default=None, description="The event that this catalogue is for.")
    only: Annotated[list[ProblemId], Distinct] = Field(
        default=[],
        description="The ids that stay, in quotes; all others go, but for the folder's own problems.",
    )
    hide: Annotated[list[ProblemId], Distinct] = Field(
        default=[], description="The ids of problems to hide, in quotes."
    )
    hide_areas: Annotated[list[Slug], Distinct] = Field(
        default=[], description="Areas whose problems are hidden, but for the folder's own."
    )
    change: list[Change] = Field(default=[], description="Problems that are rated otherwise here.")

    @field_validator("change")
    @classmethod
    def _once_each(cls, changes: list[Change]) -> list[Change]:
        ids = [change.problem for change in changes]
        for number in ids:
            if ids.count(number) > 1:
                raise ValueError(f"names {number!r} twice; put both changes into one entry")
        return changes
