"""Two sides of a race are timed in turn, and what comes of it: ratios, in words and tables.

    >>> from batik_utils.scale import timing
    >>> race = timing.Race({"slow": slow, "fast": fast}, 5, ())
    >>> timing.timed(race)["fast"]
    [0.031, 0.029, 0.030, 0.031, 0.029]

The slow and the fast side follow each other (A, B, A, B, ...) after a warm-up, so that whatever
else the machine does meets both. Introduced in notebook 04, section "How fast".
"""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

COLUMNS = (
    "name",
    "reference",
    "measured",
    "ratio",
    "ratio_min",
    "ratio_max",
    "aim",
    "repetitions",
    "met",
    "limit_s",
    "reference_is",
    "extrapolated",
    "time_goes_into",
)
REPETITION_COLUMNS = ("name", "side", "repetition", "seconds")


@dataclass(frozen=True)
class Ratio:
    """One figure: how many times less the measured side takes than the reference.

    Attributes:
        name: what is done.
        reference: side of the race that is the slow one.
        measured: side that is the fast one.
        aim: the ratio to reach; NaN for none.
        limit_s: seconds that the measured side may take; NaN for no limit.
        reference_is: in words.
        extrapolated: how the reference was extrapolated, or "".
        times: the reference's work is so many times what was timed.
        parts: sides that the measured one consists of, to say what the time goes into.
        reference_parts: the same of the reference.
    """

    name: str
    reference: str
    measured: str
    reference_is: str
    aim: float = math.nan
    limit_s: float = math.nan
    extrapolated: str = ""
    times: float = 1.0
    parts: tuple[str, ...] = ()
    reference_parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Race:
    """Sides that are timed in turn.

    Attributes:
        sides: name to work; the work is called with the number of the repetition, 0 to warm up, and
            may return the seconds that count, where not all of it counts.
        repetitions: after the warm-up.
        ratios: what is made of the times.
    """

    sides: dict[str, Callable[[int], float | None]]
    repetitions: int
    ratios: tuple[Ratio, ...]


def timed(race: Race) -> dict[str, list[float]]:
    """Return the seconds of each side, in turn, without the warm-up."""
    seconds: dict[str, list[float]] = {side: [] for side in race.sides}
    for repetition in range(race.repetitions + 1):
        for side, work in race.sides.items():
            clock = time.perf_counter()
            counted = work(repetition)
            passed = time.perf_counter() - clock if counted is None else counted
            if repetition:
                seconds[side].append(passed)
    return seconds


def as_row(ratio: Ratio, seconds: dict[str, list[float]]) -> dict:
    """Return one row of ``bench.csv``: medians of the times and of the ratios in pairs."""
    slow = [ratio.times * s for s in seconds[ratio.reference]]
    fast = seconds[ratio.measured]
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    middle, measured = statistics.median(ratios), statistics.median(fast)
    # a NaN, no aim, is never missed
    met = not middle < ratio.aim and not measured > ratio.limit_s

    def named(parts: tuple[str, ...]) -> str:
        return ", ".join(f"{part} {in_words(statistics.median(seconds[part]))}" for part in parts)

    goes_into = named(ratio.parts)
    if ratio.reference_parts:
        goes_into += f"; the reference's into: {named(ratio.reference_parts)}"
    return {
        "name": ratio.name,
        "reference": statistics.median(slow),
        "measured": measured,
        "ratio": middle,
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "aim": ratio.aim,
        "repetitions": len(ratios),
        "met": met,
        "limit_s": ratio.limit_s,
        "reference_is": ratio.reference_is,
        "extrapolated": ratio.extrapolated,
        "time_goes_into": goes_into,
    }


def summary(table: pd.DataFrame) -> str:
    """Return the table as text: what was measured beside what was aimed at, and what is missed."""
    lines = [f"{'':50}{'reference':>11}{'measured':>11}{'ratio':>8}{'from':>8}{'to':>8}  aim"]
    for row in table.itertuples():
        aim = "" if math.isnan(row.aim) else f"{row.aim:g}x"
        aim += "" if math.isnan(row.limit_s) else f" under {row.limit_s:g} s"
        line = f"{row.name:50}{in_words(row.reference):>11}{in_words(row.measured):>11}"
        line += f"{row.ratio:8.3g}{row.ratio_min:8.3g}{row.ratio_max:8.3g}  {aim.strip()}"
        lines.append(line if row.met else f"{line}  MISSED")
    for row in table[~table["met"].astype(bool)].itertuples():
        where = row.time_goes_into or "no parts were timed"
        lines.append(f"Missed: {row.name}. The measured side's time goes into: {where}.")
    return "\n".join(lines)


def read(folder: Path, name: str = "bench") -> pd.DataFrame | None:
    """Return ``bench``, ``repetitions``, ``tried`` or ``scale`` of a folder; None if not there."""
    path = folder / f"{name}.csv"
    return pd.read_csv(path, keep_default_na=True) if path.is_file() else None


def describe(table: pd.DataFrame | None) -> str:
    """Return what was measured in Markdown: with what, and what is missed and why."""
    if table is None:
        return "Not measured here: `make bench` does it, in about five minutes."
    facts = table.iloc[0]
    text = (
        f"Measured on {facts['date']} with {facts['cores']} cores ({facts['cpu']}), torch "
        f"{facts['torch']} and onnxruntime {facts['onnxruntime']}."
    )
    aimed = table[table["aim"].notna() | table["limit_s"].notna()]
    missed = aimed[~aimed["met"].astype(bool)]
    text += f" {len(aimed) - len(missed)} of {len(aimed)} aims are reached."
    for row in missed.itertuples():
        aim = f"{row.limit_s:g} s" if math.isnan(row.aim) else f"{_ratio(row.aim)} times"
        got = in_words(row.measured) if math.isnan(row.aim) else f"{_ratio(row.ratio)} times"
        where = row.time_goes_into if isinstance(row.time_goes_into, str) else ""
        text += f"\n- **Missed:** {row.name}: {got} in place of {aim}."
        text += f" The time goes into: {where}." if where else ""
    return text


def machine() -> dict[str, str | int]:
    """Return what the times were measured with."""
    import onnxruntime
    import PIL
    import torch

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "onnxruntime": onnxruntime.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def in_words(value: float) -> str:
    """Return seconds as text, in ms where they are few."""
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table that is complete as soon as it has its name."""
    partial = path.with_suffix(".partial")
    table.to_csv(partial, index=False, float_format="%.5g")
    partial.replace(path)


def _cpu() -> str:
    """Return the processor's name."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _ratio(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
