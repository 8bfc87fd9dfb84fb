"""Small translations on the way to Sphinx: what Jupyter or `help()` reads well, and MyST or reStructuredText does not."""

import json
import re

_SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:", "Yields:", "Note:", "Example:", "Examples:")


def notebook_for_the_web(app, docname, content):
    """Let MyST read the Markdown inside ``<details>``, and MathJax the formulas in captions."""
    if not docname.startswith("notebooks/"):
        return
    book = json.loads(content[0])
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = open_details("".join(cell["source"]))
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output["data"]["text/html"] = typeset("".join(output["data"]["text/html"]))
    content[0] = json.dumps(book)


def open_details(source: str) -> str:
    """Blank lines around the content of ``<details>``: MyST takes lines that follow a tag directly for HTML."""
    source = re.sub(r"(<details>\s*<summary>.*?</summary>)[ \t]*\n?(?!\n)", r"\1\n\n", source)
    return re.sub(r"(?<!\n)\n?[ \t]*</details>", "\n\n</details>", source)


def typeset(page: str) -> str:
    """``$...$`` in HTML to the element that MathJax looks for."""
    return re.sub(r"\$([^$<>]+)\$", r'<span class="math notranslate nohighlight">\\(\1\\)</span>', page)


def plain_mathematics(app, what, name, obj, options, lines):
    """An indented block of a docstring is an equation in plain text: keep it as it stands, in a literal block.

    Outside of such blocks, doctests and code in backticks, characters that reStructuredText would take for markup
    (the bars of ``|V|``, the star of ``**2``, a trailing underscore) are escaped.
    """
    out, section, literal, table = [], False, False, False
    for place, line in enumerate(lines):
        blank, indent = not line.strip(), len(line) - len(line.lstrip())
        if not blank and indent == 0 and not table:
            section, literal = line.strip() in _SECTIONS, False
        before = lines[place - 1].strip() if place else ""
        if not blank and indent >= 4 and not section and not literal and not before:
            out += ["::", ""]
            literal = True
        if line.startswith("====") and not before:  # a table: its columns would not survive the escapes
            out += ["::", ""]
            literal, table = True, True
        if blank and table:
            literal, table = False, False
        if table:
            line = "    " + line
        code = literal or line.lstrip().startswith((">>>", "..."))
        out.append(line if code else _escape(line))
    lines[:] = out


def _escape(line: str) -> str:
    parts = re.split(r"(``.*?``|`[^`]*`)", line)
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"(\||\*\*|(?<=\w)_(?!\w))", lambda m: "".join("\\" + c for c in m[0]), parts[place])
    return "".join(parts)


def launch_note(repository: str) -> str:
    """What the page "Run it yourself" says of Colab and Binder."""
    if repository:
        return "Without installing: the rocket at the top of every notebook opens it in Colab or Binder."
    return (
        "Launch buttons for Colab and Binder appear at the top of every notebook once `pyproject.toml` says where the "
        "repository is: `Repository = \"https://...\"` under `[project.urls]`. Until then, download a notebook with "
        "the arrow at its top."
    )
