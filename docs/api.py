"""One page for every module of `tp4lib`, grouped by idea; `api.toml` holds the groups and the main equations."""

import ast
import importlib.util
import pkgutil
import tomllib
from pathlib import Path

import tp4lib

WORDS = tomllib.loads((Path(__file__).parent / "api.toml").read_text("utf-8"))
# The command line has a page of its own (run.md).
HIDDEN = tuple(
    f"tp4lib.{name}"
    for name in (
        "collection.cli",
        "collection.commands",
        "word2vec",
        "word2vec.steps",
        "maml",
        "base",
        "data",
        "collection",
    )
)


def modules() -> list[str]:
    """All documented modules. The package `program` is one page, because its names are used from the package."""
    names = [module.name for module in pkgutil.walk_packages(tp4lib.__path__, "tp4lib.")]
    return [name for name in names
            if name not in HIDDEN and not name.startswith(("tp4lib.collection.commands.", "tp4lib.program."))
            and not name.endswith("__main__")]  # fmt: skip


def groups() -> list[tuple[str, str, list[str]]]:
    """(title, text, modules) of every group; the last one takes the modules that no group names."""
    everything = modules()
    out, placed = [], set()
    for group in WORDS["group"]:
        names = [f"tp4lib.{name}" for name in group["modules"] if f"tp4lib.{name}" in everything]
        placed.update(names)
        out.append((group["title"], group["about"], names))
    out[-1][2].extend(name for name in everything if name not in placed)
    return out


def write(source: Path) -> None:
    """Write ``api/index.md`` and one page a module."""
    folder = source / "api"
    folder.mkdir()
    index = ["# Library", "", WORDS["about"], ""]
    for title, about, names in groups():
        index += [
            f"## {title}",
            "",
            about,
            "",
            "| module | what it is |",
            "|---|---|",
            *map(_line, names),
            "",
        ]
        index += [":::{toctree}", ":hidden:", "", *names, ":::", ""]
        for name in names:
            (folder / f"{name}.md").write_text(_page(name), "utf-8")
    (folder / "index.md").write_text("\n".join(index), "utf-8")


def _line(name: str) -> str:
    """A module and the first sentence of its docstring, as a row of a table."""
    about = ast.get_docstring(ast.parse(Path(importlib.util.find_spec(name).origin).read_text("utf-8")))
    first = about.split("\n\n")[0].replace("\n", " ").replace("``", "`").replace("|", "\\|")
    return f"| [{name.removeprefix('tp4lib.')}]({name}.md) | {first} |"


def _page(name: str) -> str:
    short = name.removeprefix("tp4lib.")
    equation = WORDS["equation"].get(short, "").strip()
    display = f"$$\n\\begin{{gathered}}\n{equation}\n\\end{{gathered}}\n$$\n" if equation else ""
    imported = "   :imported-members:\n" if short == "program" else ""
    return f"""# {short}

{display}
```{{eval-rst}}
.. automodule:: {name}
   :members:
{imported}```
"""
