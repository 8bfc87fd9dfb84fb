"""``python -m tp4lib word2vec``: `tp4 word2vec` on the bare core."""

import sys

from tp4lib.word2vec.__main__ import main

if __name__ == "__main__":
    if sys.argv[1:2] != ["word2vec"]:
        sys.exit(
            "expected python -m tp4lib word2vec; the other commands are `tp4`'s: pip install 'tp4lib[notebooks]'"
        )
    main(sys.argv[2:])
