"""Small translations on the way to Sphinx: what Jupyter and `help()` show well, and its parsers do not."""

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
        elif title := re.match(r"# @title (.+)", "".join(cell["source"])):
            prompt = f"Code · {title[1]}"  # what a folded cell holds, in place of "Show code cell source"
            cell["metadata"]["mystnb"] = {"code_prompt_show": prompt, "code_prompt_hide": prompt}
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output["data"]["text/html"] = typeset("".join(output["data"]["text/html"]))
    content[0] = json.dumps(book)


def open_details(source: str) -> str:
    """Blank lines around the content of ``<details>``: MyST takes lines that follow a tag directly for HTML."""
    source = re.sub(r"(<details>\s*<summary>.*?</summary>)[ \t]*\n?(?!\n)", r"\1\n\n", source)
    return re.sub(r"(?<!\n)\n?[ \t]*</details>", "\n\n</details>", source)


def typeset(page: str) -> str:
    """``$...$`` in HTML to the element that MathJax looks for; plain tables in the theme's look (that of pandas)."""
    page = page.replace("<table>", '<table class="dataframe metrics">')
    return re.sub(r"\$([^$<>]+)\$", r'<span class="math notranslate nohighlight">\\(\1\\)</span>', page)


def plain_mathematics(app, what, name, obj, options, lines):
    """An indented block of a docstring is an equation in plain text: keep it, and tables, in a literal block.

    Outside of such blocks, doctests and code in backticks, characters that reStructuredText would take for markup
    (the bars of ``|V|``, the stars of ``**2``, a trailing underscore) are escaped.
    """
    out, block, section, last = [], "", False, ""
    for line in lines:
        blank, indent = not line.strip(), len(line) - len(line.lstrip())
        if (block == "table" and blank) or (block == "equation" and not blank and indent == 0):
            block = ""
        if not blank and indent == 0 and not block:
            section = line.strip() in _SECTIONS
        starts = not block and not blank and not (out and out[-1].strip())
        if starts and (line.startswith("====") or (indent >= 4 and not section)):
            block = "table" if indent == 0 else "equation"
            if not last.endswith("::"):
                out += ["::", ""]
        verbatim = block or line.lstrip().startswith((">>>", "..."))
        out.append("    " * (block == "table") + line if verbatim else _escape(line))
        last = line.rstrip() or last
    # Napoleon takes what precedes a colon on a property's first line for its type: let that line be an empty comment.
    lines[:] = ["..", "", *out] if what in ("property", "attribute", "data") else out


def _escape(line: str) -> str:
    parts = re.split(r"(``.*?``|`[^`]*`)", line)
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"(:\s+\w)\.(?=\s)", r"\1\\.", parts[place])  # "samples: M. Memory": no list
        parts[place] = re.sub(
            r"(\||\*\*|(?<=\w)_(?!\w))", lambda m: "".join("\\" + c for c in m[0]), parts[place]
        )
    return "".join(parts)
