"""Build the gallery: `python docs/build.py [--run runs/ci] [--out docs/_build/html]`.

Gathers the pages in `docs/_build/source` (those of `docs/`, with their `<!-- parts -->` filled in by `wall.py`; the
executed notebooks; the library's pages of `api.py`) and calls Sphinx. No notebook is executed and nothing is fetched.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

import api
import collection
import launch
import measured
import wall
from sphinx.cmd.build import build_main

DOCS = Path(__file__).resolve().parent


def citation() -> str:
    """The BibTeX entry of the README, in a box."""
    entry = re.search(r"```bibtex\n.*?\n```", (collection.ROOT / "README.md").read_text("utf-8"), re.DOTALL)[
        0
    ]
    return (
        f":::{{admonition}} Cite the paper; this software has a `CITATION.cff`\n:class: tip\n\n{entry}\n:::"
    )


def stage(source: Path, run: Path | None) -> list[collection.Notebook]:
    """Fill ``source`` with every page of the site."""
    shutil.rmtree(source, ignore_errors=True)
    (source / "notebooks").mkdir(parents=True)
    notebooks = collection.load(run)
    parts = (
        measured.parts()
        | wall.write(source, notebooks)
        | {"launch": launch.note(collection.repository()), "cite": citation()}
    )
    for page in DOCS.glob("*.md"):
        filled = re.sub(r"<!-- (\w+) -->", lambda place: parts[place[1]], page.read_text("utf-8"))
        (source / page.name).write_text(filled, "utf-8")
    shutil.copytree(DOCS / "_static", source / "_static")
    for notebook in notebooks:
        shutil.copy(notebook.path, source / "notebooks")
    api.write(source)
    return notebooks


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", type=Path, help="folder of a run, such as runs/ci; default: the committed notebooks"
    )
    parser.add_argument("--out", type=Path, default=DOCS / "_build" / "html", help="folder of the site")
    chosen = parser.parse_args(arguments)
    if chosen.run and not list(chosen.run.glob("[0-9][0-9]_*.ipynb")):
        print(
            f"no executed notebooks in {chosen.run}; expected the folder of a run; "
            f"try `tp4 reproduce --preset ci --out {chosen.run}` first",
            file=sys.stderr,
        )
        return 2
    work = chosen.out.resolve().parent
    for notebook in stage(work / "source", chosen.run and chosen.run.resolve()):
        print(f"{notebook.name}: preset {notebook.preset}, {len(notebook.figures)} figures, "
              f"{len(notebook.metrics)} numbers")  # fmt: skip
    shutil.rmtree(chosen.out, ignore_errors=True)
    code = build_main(
        ["-b", "html", "-q", "-W", "--keep-going", "-c", str(DOCS), "-d", str(work / "doctrees"),
         str(work / "source"), str(chosen.out)]
    )  # fmt: skip
    if code == 0:
        print(f"gallery: {chosen.out / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
