"""What a starter's YAML files may say: the manifest, and one description per experiment."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from mihack.catalog.fields import (
    Distinct,
    KnobName,
    Markdown,
    MetricName,
    OneLine,
    Paragraph,
    Scalar,
    Slug,
)
from mihack.catalog.schema import Strict


class Knob(Strict):
    """A setting of an experiment that a card or --set may change."""

    help: Paragraph = Field(description="What it does, with its unit.")
    choices: Annotated[list[Scalar], Field(min_length=1), Distinct] | None = Field(
        default=None, description="The values that it may take."
    )
    min: int | float | None = Field(default=None, description="The smallest value.")
    max: int | float | None = Field(default=None, description="The largest value.")


class ExpectedRow(Strict):
    """One measured number and what it should be."""

    metric: MetricName = Field(description="The metric's name in metrics.json.")
    label: OneLine = Field(description="Its name for readers.")
    at_least: int | float | None = Field(default=None, description="The least value that passes.")
    at_most: int | float | None = Field(default=None, description="The most that passes.")
    between: Annotated[list[int | float], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="[low, high]: the range that passes."
    )
    unit: OneLine | None = Field(default=None, description="The unit.")
    why: Paragraph | None = Field(default=None, description="Why this number is expected.")
    source: Paragraph | None = Field(default=None, description="Who measured or predicted it.")
    when: dict[KnobName, Scalar] = Field(
        default={}, description="The knob values under which the row applies."
    )

    @model_validator(mode="after")
    def _one_bound(self) -> ExpectedRow:
        bounds: list[Any] = [self.at_least, self.at_most, self.between]
        if sum(bound is not None for bound in bounds) != 1:
            raise ValueError("needs exactly one of at_least, at_most and between")
        if self.between and self.between[0] > self.between[1]:
            raise ValueError("between is [low, high]: the smaller number comes first")
        return self


class Experiment(Strict):
    """templates/starters/<starter>/experiments/<name>.yaml, beside <name>.py."""

    title: OneLine = Field(description="The experiment's name for readers.")
    summary: Paragraph = Field(description="One sentence: what it does.")
    knobs: dict[KnobName, Knob] = Field(
        default={}, description="The script's settings that a card or --set may change."
    )
    seconds: Annotated[int | float, Field(gt=0, le=3600)] = Field(
        description="Measured time of the whole script on 2 laptop cores."
    )
    lab: Annotated[list[KnobName], Distinct] = Field(
        default=[], description="The modules of mihack/lab that the script imports."
    )
    needs: list[OneLine] = Field(default=[], description="Packages beyond those of its starter.")
    models: Annotated[list[Slug], Distinct] = Field(
        default=[], description="The embedded models of mihack/zoo that the repo carries."
    )
    checkpoints: Annotated[list[KnobName], Distinct] = Field(
        default=[], description="Knobs that hold a training step of theirs: these checkpoints come along."
    )
    texts: Annotated[list[Slug], Distinct] = Field(
        default=[], description="The texts of mihack/zoo/texts that the repo carries."
    )
    expected: Annotated[list[ExpectedRow], Field(min_length=1)] = Field(
        description="What the script should measure."
    )
    look_at: Markdown = Field(description="What the figure shows, in Markdown.")
    next: Annotated[list[Paragraph], Field(min_length=1)] = Field(description="What to try next.")
    references: Annotated[list[Slug], Distinct] = Field(default=[], description="Keys of works.yaml.")

    @model_validator(mode="after")
    def _checkpoints_are_knobs(self) -> Experiment:
        if unknown := [name for name in self.checkpoints if name not in self.knobs]:
            raise ValueError(f"checkpoints names {', '.join(unknown)}: no knob of this experiment")
        return self


class Starter(Strict):
    """templates/starters/<name>/starter.yaml."""

    name: Slug = Field(description="The folder's name.")
    summary: Paragraph = Field(description="One line: what the starter does.")
    areas: Annotated[list[Slug], Distinct] = Field(description="The areas that it serves.")
    selector: KnobName = Field(description="The parameter that chooses the experiment.")
    needs: list[OneLine] = Field(description="The packages that it imports.")
