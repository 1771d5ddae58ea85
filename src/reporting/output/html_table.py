"""Write a table as HTML: headings over columns, marks of cells, and a frame that scrolls where it is too wide."""

from html import escape

from src.reporting.tables.table import Mark, Table


def frame(content: str, label: str) -> str:
    """Put a table into a frame that scrolls sideways, also by keyboard."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table>{content}</table></div>'


def write_table(table: Table, label: str) -> str:
    """Write a table; rows of an architecture can be hidden by the page's filter."""
    groups: list[tuple[str, int]] = []
    for column in table.columns:
        if groups and column.group and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    top = "".join(
        f'<th colspan="{span}"{" class=several" if span > 1 else ""}>{escape(group)}</th>' for group, span in groups
    )
    names = "".join(
        f"<th{' class=words' if column.is_words else ''}>{escape(column.name)}</th>" for column in table.columns
    )
    over = f"<tr>{top}</tr>" if any(group for group, _ in groups) else ""
    is_of_architecture = table.columns[0].name == "architecture"
    return frame(
        f"<thead>{over}<tr>{names}</tr></thead>"
        + _body(table, "runs", table.rows, table.marks, is_of_architecture)
        + _body(table, "references", table.references, {}, False),
        label,
    )


def _body(
    table: Table, kind: str, rows: list[list[str]], marks: dict[tuple[int, int], Mark], is_of_architecture: bool
) -> str:
    lines: list[str] = []
    for i, row in enumerate(rows):
        cells: list[str] = []
        for j, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            mark = marks.get((i, j))
            classes = [*(["words"] if column.is_words else []), *([mark.kind] if mark and mark.kind else [])]
            attributes = f' class="{" ".join(classes)}"' if classes else ""
            attributes += f' title="{escape(mark.title)}"' if mark else ""
            cells.append(f"<td{attributes}>{escape(cell)}</td>")
        lines.append(f"<tr{of_architecture(row[0]) if is_of_architecture else ''}>{''.join(cells)}</tr>")
    return f'<tbody class="{kind}">{"".join(lines)}</tbody>' if rows else ""


def of_architecture(name: str) -> str:
    """Return the attribute by which the page's filter finds an element."""
    return f' data-architecture="{escape(name)}"'
