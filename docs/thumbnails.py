"""The README's pictures, out of the committed notebooks: `python docs/thumbnails.py` after their outputs have changed."""

import io
import sys

import collection
from PIL import Image

SHOWN = {
    "00_start_here": "convergence",
    "01_abc_parametrizations": "polyhedron",
    "02_max_learning_rate": None,
    "03_width_to_infinity": None,
    "04_word2vec_limit": "table3",
    "05_word2vec_pca": None,
    "06_maml_omniglot": "table2",
    "07_pi_limits": "convergence",
    "08_mu_transfer": None,
}
"""Which figure stands for a notebook; None for its first."""
WIDTH, COLOURS = 300, 64


def main() -> None:
    images = collection.ROOT / "docs" / "images"
    for notebook in collection.load():
        by_name = {figure.name: figure for figure in notebook.figures}
        figure = by_name[SHOWN[notebook.name]] if SHOWN[notebook.name] else notebook.figures[0]
        picture = Image.open(io.BytesIO(figure.image)).convert("RGB")
        picture.thumbnail((WIDTH, WIDTH))
        target = images / f"{notebook.name[:2]}.png"
        picture.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
        print(f"{target.name}: {notebook.name}/{figure.name}, {target.stat().st_size:,} bytes")
    curves = {
        figure.name: figure for notebook in collection.load() for figure in notebook.figures if notebook.name[:2] == "04"
    }["learning_curves"]
    (images / "learning_curves.png").write_bytes(curves.image)


if __name__ == "__main__":
    sys.exit(main())
