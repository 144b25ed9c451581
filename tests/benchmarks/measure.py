"""Rounds, ratios and the lines of the table.

Peers take turns inside a round, and a ratio is taken inside a round: what slows the machine down for a while slows all
of them. The figure that is shown is the median over the rounds.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

Peer = Callable[[], float]
"""Does its work once and gives a figure: mostly how much it did in a second."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure is held to."""

    relation: Literal["≥", "≤"]
    value: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.relation} {self.value:g}{self.unit}"

    def is_met(self, figure: float) -> bool:
        return figure >= self.value if self.relation == "≥" else figure <= self.value


def at_least(value: float) -> Goal:
    return Goal("≥", value)


def at_most(value: float, unit: str = "") -> Goal:
    return Goal("≤", value, unit)


class Line(NamedTuple):
    """One line of the table.

    Attributes:
        row: What was measured.
        database: On which database; empty when on none.
        ours: Runfold's figure.
        peer: Whose figure it is compared with, and that figure.
        ratio: Ours to theirs; for a goal without a peer, the figure itself.
        goal: None when it is shown for information.
    """

    row: str
    database: str
    ours: str
    peer: str
    ratio: float
    goal: Goal | None = None

    @property
    def is_met(self) -> bool | None:
        return None if self.goal is None else self.goal.is_met(round(self.ratio, 2))


@dataclass(frozen=True, slots=True)
class Turns:
    """What each peer reached in each round."""

    figures: Mapping[str, Sequence[float]]

    def median(self, peer: str) -> float:
        return median(self.figures[peer])

    def ratio(self, ours: str, peer: str) -> float:
        return median(a / b for a, b in zip(self.figures[ours], self.figures[peer], strict=True))


def take_turns(peers: Mapping[str, Peer], *, rounds: int) -> Turns:
    """Let peers work in turn, each round beginning with another one.

    Args:
        peers: By their name.
        rounds: How often each works.
    """
    names = list(peers)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            figures[name].append(peers[name]())
    return Turns(figures)


def rate_line(
    row: str, database: str, turns: Turns, peer: str, goal: Goal | None = None, *, ours: str = "ours"
) -> Line:
    """Compare two rates a second."""
    return Line(
        row,
        database,
        f"{turns.median(ours):,.0f}/s",
        f"{peer}: {turns.median(peer):,.0f}/s",
        turns.ratio(ours, peer),
        goal,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the value below which this part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def table(lines: Sequence[Line]) -> str:
    """Write lines as a Markdown table."""
    rows = ["| measured | database | ours | peer | ratio | goal | met |", "|---|---|---:|---:|---:|---:|---|"]
    rows += [
        f"| {line.row} | {line.database} | {line.ours} | {line.peer} | {line.ratio:.2f} |"
        f" {line.goal or ''} | {_MET[line.is_met]} |"
        for line in lines
    ]
    return "\n".join(rows)


_MET: Mapping[bool | None, str] = {None: "", True: "yes", False: "**no**"}
