"""``tp4 data``: where each data set is; fetch what is missing; verify."""

from typing import Annotated

import typer

from tp4lib.data import catalogue as datasets


def data(
    name: Annotated[
        list[str] | None, typer.Argument(help="Data sets to fetch; without names, show all.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder with real data, in place of $TP4_DATA.")
    ] = None,
) -> None:
    """Show where each data set is; fetch those that are named.

    Says of each whether it is the official one, by its digest. Example: tp4 data omniglot
    """
    for each in name or list(datasets.DATASETS):
        found = datasets.find_local(each, data_dir)
        if found.is_embedded and name and datasets.DATASETS[each].remotes:
            found = datasets.fetch(each)
        place = found.path if found.path is not None else "made in memory"
        print(f"{found.describe()}\n    {place}\n    licence: {found.licence}; "
              f"official digest: {datasets.verify(found)}")  # fmt: skip
