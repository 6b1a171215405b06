"""Tables as Markdown text."""

from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """A Markdown table of some columns; numbers with four significant digits, nothing as a dash."""
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    lines = [list(columns), ["-" * width for width in widths], *cells]
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)


def cell(value: object) -> str:
    """A value as it stands in a table; text cannot break out of its cell."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split()).replace("|", r"\|")
