"""How fast a text becomes word ids, and in how much memory.

    python benchmarks/word2vec_corpus.py                # 300 MB of invented words, made on the spot
    python benchmarks/word2vec_corpus.py fil9           # a text of yours

It is read in a process of its own. Memory is counted beside that of a process that has only imported the library.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CODE = """
import json, sys, time
from pathlib import Path
from tp4lib.word2vec import Corpus

def peak():
    return {k: int(v.split()[0]) / 1024 for k, v in (l.split(":", 1) for l in open("/proc/self/status")) if k in
            ("VmHWM", "RssAnon")}

before, started, busy = peak(), time.perf_counter(), time.process_time()
corpus = Corpus.load(Path(sys.argv[1]))
seconds, busy, after = time.perf_counter() - started, time.process_time() - busy, peak()
print(json.dumps(dict(
    seconds=seconds, busy=busy, tokens=len(corpus.ids), words=len(corpus.vocab), raw=corpus.raw_tokens,
    peak_mib=after["VmHWM"] - before["VmHWM"], left_mib=after["RssAnon"] - before["RssAnon"])))
"""


def invented(path: Path, size: int, words: int = 300_000, seed: int = 0) -> None:
    """Write words of 1 to 11 letters whose frequencies fall like 1 / rank."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lexicon = ["".join(rng.choice(letters, n)) for n in rng.integers(1, 12, words)]
    share = np.cumsum(1 / np.arange(1, words + 1))
    with open(path, "w") as file:
        while file.tell() < size:
            file.write(
                " ".join([lexicon[i] for i in np.searchsorted(share, rng.random(200_000) * share[-1])]) + " "
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--bytes", type=int, default=300_000_000, help="of the invented text")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.corpus or Path(folder) / "text"
        if arguments.corpus is None:
            started = time.perf_counter()
            invented(path, arguments.bytes)
            print(f"invented {path.stat().st_size / 1e6:.0f} MB in {time.perf_counter() - started:.0f} s")
        size = path.stat().st_size
        line = [sys.executable, "-c", CODE, str(path)]
        got = json.loads(
            subprocess.run(line, check=True, capture_output=True, text=True, env=os.environ).stdout
        )
        print(
            f"{got['seconds']:.1f} s, {size / 1e6 / got['seconds']:.0f} MB/s of the file ({got['busy']:.1f} s of "
            f"processor time, {size / 1e6 / got['busy']:.0f} MB/s), {got['raw']:,} words, {got['tokens']:,} kept of "
            f"{got['words']:,} kinds; largest resident set +{got['peak_mib']:.0f} MiB, at the end "
            f"+{got['left_mib']:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
