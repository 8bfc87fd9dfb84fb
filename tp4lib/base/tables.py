"""A table that is text when printed and HTML where a notebook displays it."""

import html


class TextTable(str):
    """Rows of cells under a head, in aligned columns.

    >>> print(TextTable(["layer", "power"], [["h1", "+0.01"], ["f", "-0.5"]]))
    layer  power
    h1     +0.01
    f      -0.5
    """

    head: list[str]
    body: list[list[str]]

    def __new__(cls, head: list[str], body: list[list[str]]) -> "TextTable":
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *body)]
        table = super().__new__(cls, "\n".join(lines))
        table.head, table.body = head, body
        return table

    def _repr_html_(self) -> str:
        def row(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = "".join(row(cells, "td") for cells in self.body)
        return f"<table><thead>{row(self.head, 'th')}</thead><tbody>{rows}</tbody></table>"
