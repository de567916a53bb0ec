"""The table the demo ends with: what each step promised and what the traffic saw."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measured promise. ``right`` False fails the demo."""

    step: str
    expected: str
    observed: str
    right: bool


def table(rows: list[Row]) -> str:
    """The rows as aligned text, a mark at the end of each."""
    header = ("step", "expected", "observed", "")
    cells = [header, *((row.step, row.expected, row.observed, "ok" if row.right else "WRONG") for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths[:3]))
    return "\n".join(lines)
