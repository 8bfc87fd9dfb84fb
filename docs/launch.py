"""Opening a notebook without installing: Colab, Binder and Codespaces, once the repository has an address.

The address stands in one place, `Repository` under `[project.urls]` in pyproject.toml. `python docs/launch.py ADDRESS`
writes it there and into what follows from it: the README's badges, the links in the notebooks' first cell, and the cell
that installs in Colab, which then asks for no file. Without an argument it does so for the address that is there.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from tp4lib.base.errors import InputError
from tp4lib.base.files import atomic_path
from tp4lib.collection.notebook_source import KEY, source_digest

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")
_URLS = re.compile(r"^(?:# )?\[project\.urls\]\n(?:# )?Repository = .*\n", re.MULTILINE)
_UPLOAD = re.compile(
    r"    from google\.colab import files\n\n    chosen = next\((?:iter\(files\.upload\(\)\)\).*|\n.*\n    \).*)\n"
)
_PACKAGE = re.compile(r'f"\./\{chosen\}\[notebooks\]"|"tp4lib\[notebooks\] @ git\+[^"]*"')
_ASKS = re.compile(
    r"In\s+Colab,\s+upload\s+this\s+file;\s[^.]*\.|\[Open in Colab\]\([^)]*\) · \[Open in Binder\]\([^)]*\)"
)


def links(address: str, page: str) -> dict[str, str]:
    """Where a file of the repository opens, by the name of the service."""
    name = _name(address)
    return {
        "Colab": f"https://colab.research.google.com/github/{name}/blob/main/{page}",
        "Binder": f"https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/{page}",
        "Codespaces": f"https://codespaces.new/{name}",
    }


def badges(address: str) -> str:
    """The README's line: badges, or what to do until there is an address."""
    if not address:
        return (
            "In Colab, upload a notebook: its first cell asks for the zip of this repository. Badges for Colab, Binder "
            "and Codespaces come with the repository's address ([docs/run.md](docs/run.md#without-installing))."
        )
    pictures = {
        "Colab": "https://colab.research.google.com/assets/colab-badge.svg",
        "Binder": "https://mybinder.org/badge_logo.svg",
        "Codespaces": "https://github.com/codespaces/badge.svg",
    }
    where = links(address, "notebooks/00_start_here.ipynb")
    return " ".join(f"[![Open in {name}]({pictures[name]})]({where[name]})" for name in where)


def note(address: str) -> str:
    """What the page "Run it yourself" says."""
    if address:
        where = links(address, "notebooks/00_start_here.ipynb")
        return (
            "The first cell of every notebook has links to Colab and Binder, and the rocket at its top does the same. "
            f"In [Codespaces]({where['Codespaces']}) the whole repository opens, with everything installed."
        )
    return (
        "Download a notebook with the arrow at its top and upload it to Colab; its first cell asks for the zip of the "
        "repository. Links that need no upload, to Colab, Binder and Codespaces, come as soon as the repository has an "
        "address: `python docs/launch.py https://github.com/OWNER/tp4` writes it to `pyproject.toml`, the one place "
        "that it is read from, and into notebooks and README."
    )


def launched(notebook: dict[str, Any], name: str, address: str) -> dict[str, Any]:
    """The notebook with links that open it and a first cell that installs from ``address``; outputs stay its own."""
    current = notebook["metadata"].get(KEY, {}).get("source") == source_digest(notebook)
    where = links(address, f"notebooks/{name}.ipynb")
    opening, install = notebook["cells"][0], next(c for c in notebook["cells"] if c["cell_type"] == "code")
    said = f"[Open in Colab]({where['Colab']}) · [Open in Binder]({where['Binder']})"
    for cell, changes in (
        (opening, [(_ASKS, said)]),
        (install, [(_UPLOAD, ""), (_PACKAGE, f'"tp4lib[notebooks] @ git+{address}"'),
                   (re.compile("from the repository's zip"), "from the repository")]),
    ):  # fmt: skip
        text = "".join(cell["source"])
        for pattern, new in changes:
            text = pattern.sub(lambda _, new=new: new, text)
        cell["source"] = text.splitlines(keepends=True) if isinstance(cell["source"], list) else text
    if current:  # what installs the library changes no result
        notebook["metadata"][KEY]["source"] = source_digest(notebook)
    return notebook


def apply(root: Path, address: str) -> list[Path]:
    """Write ``address`` to pyproject.toml and the notebooks below ``root``; the files that changed."""
    _name(address)
    project = (root / "pyproject.toml").read_text("utf-8")
    new = {
        root / "pyproject.toml": _URLS.sub(f'[project.urls]\nRepository = "{address}"\n', project, count=1)
    }
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        book = launched(json.loads(path.read_text("utf-8")), path.stem, address)
        new[path] = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
    changed = [path for path, text in new.items() if path.read_text("utf-8") != text]
    for path in changed:
        with atomic_path(path) as part:
            part.write_text(new[path], encoding="utf-8")
    return changed


def _name(address: str) -> str:
    """``OWNER/tp4`` of an address."""
    if not (found := ADDRESS.fullmatch(address)):
        raise InputError(
            f"address {address!r}; expected one such as https://github.com/OWNER/tp4; "
            "give it as the argument, or as Repository in pyproject.toml"
        )
    return found[1]


def main(arguments: list[str]) -> int:
    import collection

    try:
        for path in apply(ROOT, arguments[0] if arguments else collection.repository()):
            print(path.relative_to(ROOT))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    import measured

    measured.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
