# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Rows as aligned text."""

from collections.abc import Mapping, Sequence


def render_table(rows: Sequence[Mapping[str, object]], *, markdown: bool = False) -> str:
    """Rows of equal keys as an aligned table; the first column to the left, numbers to the right.

    Args:
        rows (`Sequence[Mapping[str, object]]`):
            Column titles are the keys of the first row. Floats get three digits, `None` a dash, others their `str`.
        markdown (`bool`, *optional*, defaults to `False`):
            Whether to draw a GitHub table instead of plain text.

    Returns:
        `str`: lines without a newline at the end.

    Raises:
        ValueError: if there is no row, or the rows differ in their keys.
    """
    if not rows:
        raise ValueError("`rows` is empty; a table needs at least one row.")
    titles = list(rows[0])
    for number, row in enumerate(rows):
        if list(row) != titles:
            raise ValueError(f"Row {number} has the columns {list(row)}; all rows must have those of row 0: {titles}.")
    cells = [[_cell(title) for title in titles], *([_cell(row[title]) for title in titles] for row in rows)]
    least = 2 if markdown else 1  # GitHub takes a colon without a dash for text, and then shows no table
    widths = [max(least, *(len(line[column]) for line in cells)) for column in range(len(titles))]
    lines = [
        [cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs)]
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]
    if markdown:
        rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
        return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(line).rstrip() for line in [lines[0], rule, *lines[1:]])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "\\|")
