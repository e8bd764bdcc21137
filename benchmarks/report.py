"""What was measured: cases, their baselines of the same rounds, and targets."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. Seconds are those of one load."""

    rounds: int
    seconds: float
    sizes: tuple[int, ...]
    in_a_row: int
    direct_threads: tuple[int, ...]
    hsms: tuple[int, ...]


FULL = Scale(5, 2.0, (10, 1_000, 10_000), 20, (1, 2, 4, 16), (1, 2, 3))
SMOKE = Scale(1, 0.2, (4, 8), 2, (1, 16), (2,))


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on the median of a case's `value`s, `ratio`s to the baseline, or what they `add`."""

    of: str
    bound: float
    at_least: bool = False

    def holds(self, value: float) -> bool:
        """Tell whether a value is within the bound."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{self.of} {'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Case:
    """One figure: a value of each round beside the baseline's of the same round, if it has one."""

    figure: str
    case: str
    unit: str
    rounds: tuple[float, ...]
    baseline: str = ""
    baseline_rounds: tuple[float, ...] = ()
    target: Target | None = None

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios to the baseline; a slow round is slow for both.

        A round in which the baseline came to nothing, as a short one may on a busy machine, is
        compared with nothing.
        """
        pairs = zip(self.rounds, self.baseline_rounds, strict=True) if self.baseline else ()
        ratios = [own / base for own, base in pairs if base]
        return statistics.median(ratios) if ratios else None

    @property
    def added(self) -> float | None:
        """The median of the rounds' differences to the baseline."""
        pairs = list(zip(self.rounds, self.baseline_rounds, strict=True)) if self.baseline else []
        return statistics.median(own - base for own, base in pairs) if pairs else None

    @property
    def is_met(self) -> bool | None:
        """Whether the target holds; None without one."""
        if self.target is None:
            return None
        judged = {"value": self.value, "ratio": self.ratio, "added": self.added}[self.target.of]
        if judged is None and self.baseline:
            return False
        if judged is None:
            raise ValueError(f"{self.figure} {self.case}: a target without a baseline")
        return self.target.holds(judged)

    def plain(self) -> dict[str, object]:
        """Return the case as JSON has it."""
        return {
            "figure": self.figure,
            "case": self.case,
            "unit": self.unit,
            "median": self.value,
            "rounds": self.rounds,
            "baseline": self.baseline or None,
            "baseline_rounds": self.baseline_rounds,
            "ratio": self.ratio,
            "added": self.added,
            "target": str(self.target) if self.target else None,
            "met": self.is_met,
        }

    def line(self) -> dict[str, object]:
        """Return the case as a line of a table."""
        ratio, added = self.ratio, None if self.unit == "/s" else self.added
        return {
            "figure": self.figure,
            "case": self.case,
            "median": f"{_digits(self.value)} {self.unit}",
            "from-to": f"{_digits(min(self.rounds))}-{_digits(max(self.rounds))}",
            "ratio": "" if ratio is None else f"{ratio:.2f}",
            "added": "" if added is None else _digits(added),
            "to": self.baseline,
            "target": str(self.target) if self.target else "",
            "met": "" if self.is_met is None else "yes" if self.is_met else "NO",
        }


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(slots=True)
class Samples:
    """Values by name, one a round."""

    by_name: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add a round's value."""
        self.by_name.setdefault(name, []).append(value)

    def of(self, name: str) -> tuple[float, ...]:
        """Return the values of all rounds."""
        return tuple(self.by_name[name])

    def best(self, names: Mapping[str, str]) -> str:
        """Return the key of `names` whose values have the highest median."""
        return max(names, key=lambda key: statistics.median(self.by_name[names[key]]))


def machine() -> dict[str, object]:
    """Describe the machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if "model name" in line), "")
    return {
        "processor": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
