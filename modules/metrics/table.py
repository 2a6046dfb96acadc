"""Tables of measured values as aligned Markdown, for logs and documents alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown table whose columns are padded to equal width; ends in a line break."""
    lines = [header, *rows]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(map(str.ljust, cells, widths))} |\n" for cells in lines)


def mean_and_deviation(values: Sequence[float], digits: int = 4) -> str:
    """Mean and sample standard deviation of values as text; the mean alone for one value, nothing for none."""
    if not values:
        return ""
    mean = f"{fmean(values):.{digits}g}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values):.2g}"
