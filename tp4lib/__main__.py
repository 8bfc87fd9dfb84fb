"""``python -m tp4lib word2vec``: `tp4 word2vec` on the bare core."""

import sys

from tp4lib.base.errors import fail

if __name__ == "__main__":
    if sys.argv[1:2] != ["word2vec"]:
        asked = " ".join(["python -m tp4lib", *sys.argv[1:2]])
        fail(f"{asked}: expected python -m tp4lib word2vec; all commands: pip install 'tp4lib[notebooks]'")
    from tp4lib.word2vec.__main__ import main  # after the check, which should not wait for torch

    main(sys.argv[2:])
