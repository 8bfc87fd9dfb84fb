"""``tp4 neighbours``: the words whose vectors are nearest to a word's, after a run of ``tp4 word2vec``."""

from pathlib import Path
from typing import Annotated

import typer


def neighbours(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run of tp4 word2vec.")],
    word: Annotated[str, typer.Argument(help="One of the words that it was trained on.")],
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
) -> None:
    """Show the words nearest to a word, by cosine.

    Reads DIR/vectors.bin, which tp4 word2vec wrote.

    Example: tp4 neighbours runs/w2v king --top 5
    """
    from tp4lib.word2vec.analogies import nearest
    from tp4lib.word2vec.run import VECTORS
    from tp4lib.word2vec.vectors import load_vectors

    words, vectors = load_vectors(folder / VECTORS)
    for near, cosine in nearest(vectors, words, word, top):
        print(f"{cosine:7.4f}  {near}")
