"""The README's picture, out of the committed notebook 04: run `python docs/hero.py` once its outputs changed."""

import collection


def main() -> None:
    (notebook,) = (book for book in collection.load() if book.name.startswith("04"))
    (figure,) = (figure for figure in notebook.figures if figure.name == "learning_curves")
    target = collection.ROOT / "docs" / "images" / "learning_curves.png"
    target.write_bytes(figure.image)
    print(f"{target.name}: {notebook.name}/{figure.name}, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
