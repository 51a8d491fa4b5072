"""How long a team still has: until the time it named, or the end of its event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ..errors import MihackError


@dataclass(frozen=True)
class Deadline:
    """When it ends, in local time, and of which event; ``begins`` if that is known."""

    ends: datetime
    event: str = ""
    begins: datetime | None = None

    def words(self, now: datetime) -> str:
        """How long is left at ``now``, in two units; or since when it is over."""
        when = f"{self.ends:%Y-%m-%d %H:%M}" + (f", {self.event}" if self.event else "")
        if now >= self.ends:
            return f"over since {when}"
        if self.begins and now < self.begins:
            return f"begins in {length(self.begins - now)} and ends {when}"
        return f"{length(self.ends - now)} left, until {when}"


def deadline(event: Mapping[str, Any] | None, until: str = "") -> Deadline | None:
    """``until`` if it is given, else the event's ``until`` or the end of its last day, else None.

    Raises MihackError for an ``until`` that is no time.  Without an offset times are local.
    """
    event = event or {}
    name = str(event.get("name") or "")
    if until:
        return Deadline(_moment(until), name)
    named = str(event.get("until") or event.get("ends") or "")
    if not named:
        return None
    begins = str(event.get("starts") or "")
    return Deadline(_moment(named), name, _moment(begins, start=True) if begins else None)


def length(span: timedelta) -> str:
    """``2 days 3 hours``, ``5 hours 12 minutes``, ``12 minutes``; rounded down."""
    minutes = int(span.total_seconds() // 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return _words((days, "day"), (hours, "hour"))
    return _words((hours, "hour"), (minutes % 60, "minute")) if minutes else "less than a minute"


def _words(*parts: tuple[int, str]) -> str:
    return " ".join(f"{number} {unit}" + "s" * (number != 1) for number, unit in parts if number)


def _moment(text: str, *, start: bool = False) -> datetime:
    """A time with the local offset; a day alone is its end, or its start."""
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        if len(text.strip()) == len("2026-11-30") and not start:
            moment += timedelta(hours=23, minutes=59)
        return moment.astimezone()
    except (ValueError, OverflowError, OSError):
        hint = "Give a day or a time, as in --until 2026-11-30T17:00"
        raise MihackError(f"{text!r} is no time", hint=hint) from None
