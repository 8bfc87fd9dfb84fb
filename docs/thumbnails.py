"""The README's pictures, out of the committed notebooks: run `python docs/thumbnails.py` once their outputs changed."""

import io

import collection
from PIL import Image

SHOWN = {
    "00_start_here": "convergence",
    "01_abc_parametrizations": "polyhedron",
    "02_max_learning_rate": "accuracy_against_rate",
    "03_width_to_infinity": "fan",
    "04_word2vec_limit": "table3",
    "05_word2vec_pca": "pca",
    "06_maml_omniglot": "table2",
    "07_pi_limits": "features",
    "08_mu_transfer": "loss_against_rate",
    "09_mup_for_your_model": "valley",
    "10_transformer_of_width_infinity": "fan",
}
"""Which figure stands for a notebook."""
WIDTH, COLOURS = 300, 64


def main() -> None:
    images = collection.ROOT / "docs" / "images"
    for notebook in collection.load():
        figures = {figure.name: figure.image for figure in notebook.figures}
        picture = Image.open(io.BytesIO(figures[SHOWN[notebook.name]])).convert("RGB")
        picture.thumbnail((WIDTH, WIDTH))
        target = images / f"{notebook.name[:2]}.png"
        picture.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
        print(f"{target.name}: {notebook.name}/{SHOWN[notebook.name]}, {target.stat().st_size:,} bytes")
        if "learning_curves" in figures:
            (images / "learning_curves.png").write_bytes(figures["learning_curves"])


if __name__ == "__main__":
    main()
