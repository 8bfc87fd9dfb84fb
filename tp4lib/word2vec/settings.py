"""What a run of Word2Vec can be told: declared once, with defaults, help texts and checks.

`tp4 word2vec` and ``python -m tp4lib.word2vec`` make their options from these fields, and `training.train` takes them.
Importing this module does not import torch, so that a command line's help is there at once.
"""

from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError

GRADIENTS = ("mean", "sum")
NEGATIVES = ("shared", "per-position")
DTYPES = ("float32", "float64", "bfloat16")


@dataclass(frozen=True)
class StepSettings:
    """What a step needs beside the block.

    Attributes:
        wd: weight decay; every touch of a row multiplies it by ``1 - rate * wd``.
        window_gradient: "mean" is the true gradient: a context word of a window of |C| words receives 1/|C| of the
            error. "sum" gives each the whole error, as gensim and the original word2vec do.
        input_rate: learning rate of the embeddings over that of the readout: 1 in muP, 1/n in the NTK
            parametrization (see `tp4lib.word2vec.baselines`).
    """

    wd: float = 1e-3
    window_gradient: str = "mean"
    input_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.window_gradient not in GRADIENTS:
            raise InputError(
                f"unknown window gradient {self.window_gradient!r}; expected mean or sum; try mean"
            )
        real("wd", self.wd, least=0, example=1e-3)
        real("input_rate", self.input_rate, least=0)


def _option(default: Any, kind: type, text: str, *, choices: tuple[str, ...] = ()) -> Any:
    """A field that is also an option of the command lines; the others are Python's alone."""
    return field(default=default, metadata={"kind": kind, "help": text, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class Word2VecSettings:
    """Settings of a training run; None leaves a value to `training.train`.

    Attributes:
        window: each position takes a window that is uniform in 1..window.
        negatives: "per-position", the paper's: ``num_negatives`` fresh ones for each position; or "shared": each batch
            draws ``shared_negatives``, weighted so that the expected gradient is the same; then most work is
            matrix products.
        batch_size: default: shared 32, on every device; per-position 1 (the sequential algorithm; 16 where numba is
            missing; refused on a GPU). A GPU is used better by 256 with 128 shared negatives, on a vocabulary of
            thousands and more: with few words so large a batch meets each of them many times, and diverges.
        shared_negatives: K; default three for every four positions of a batch, and with gensim's gradient three for
            every position. With k for each position a draw weighs ``batch_size k / K`` in a step: from about
            100 on training may diverge.
        seed: the windows and negatives of a seed are the same at all widths.
        input_rate: see `StepSettings`.
        engine: "numba" (CPU, one rank), "triton" (GPU, shared negatives) or "torch" (everything), which compute the
            same; "auto" takes the first of them that can run.

    Raises:
        InputError: a value that no run can have.
    """

    epochs: int = _option(5, int, "Passes over the text.")
    lr: float = _option(
        0.05, float, "Learning rate, the same at all widths; falls linearly to 1e-4 of itself."
    )
    wd: float = _option(1e-3, float, "Weight decay, at each touch of a row.")
    window: int = _option(8, int, "Largest window, in words.")
    negatives: str = _option(
        "shared", str, "Shared by a batch, or fresh ones per position (the paper's).", choices=NEGATIVES
    )
    num_negatives: int = _option(25, int, "Negatives a position sees.")
    batch_size: int | None = _option(None, int, "Positions an SGD step sums over.")
    shared_negatives: int | None = _option(None, int, "Negatives a batch shares.")
    subsample: float = _option(1e-4, float, "Subsampling threshold, a frequency; 0 for none.")
    window_gradient: str = _option("mean", str, "mean (true gradient) or sum (gensim's).", choices=GRADIENTS)
    seed: int = _option(0, int, "Of the initialization, the windows and the negatives.")
    dtype: str = _option("float32", str, "Of the parameters; bfloat16 is half the memory.", choices=DTYPES)
    device: str = _option("auto", str, "auto, cpu, cuda or cuda:N; by torchrun each rank takes its own.")
    threads: int = _option(1, int, "CPU threads; 1 gives the same bits each time.")
    input_rate: float = 1.0
    engine: str = "auto"

    def __post_init__(self) -> None:
        if self.negatives not in NEGATIVES:
            raise InputError(
                f"unknown negatives {self.negatives!r}; expected shared or per-position; try shared"
            )
        whole("threads", self.threads, most=1024, example=1)
        dtype = str(self.dtype).removeprefix("torch.")  # a torch.dtype does, too
        if dtype not in DTYPES:
            raise InputError(
                f"dtype {self.dtype}; expected float32, float64 or bfloat16; try --dtype float32"
            )
        object.__setattr__(self, "dtype", dtype)
        step = self.step
        object.__setattr__(self, "lr", real("lr", self.lr, above=0, example=0.05))
        if not self.lr * self.wd * max(step.input_rate, 1.0) < 1:
            raise InputError(f"lr {self.lr}, wd {self.wd}; expected wd < 1 / lr; try --lr 0.05 --wd 1e-3")

    @property
    def step(self) -> StepSettings:
        """The part that the engines need."""
        return StepSettings(self.wd, self.window_gradient, self.input_rate)


@dataclass(frozen=True, kw_only=True)
class RunSettings(Word2VecSettings):
    """Settings of a run from a text to files: those of training, and what is read and written (`run.run`)."""

    corpus: Path = _option(  # noqa: RUF009
        None, Path, "Text, plain or packed (.xz, .gz, .bz2, .zip); or text8 or fil9, which are found."
    )
    out: Path = _option(None, Path, "Folder for vectors.bin, metrics.json and the checkpoint.")  # noqa: RUF009
    width: str = _option("64", str, "Hidden width, or inf for the exact limit.")
    min_count: int = _option(5, int, "Leave out words that occur fewer times.")
    max_vocab: int | None = _option(None, int, "Keep only so many words.")
    max_bytes: int | None = _option(None, int, "Read only so many bytes of the text.")
    questions: Path | None = _option(None, Path, "Analogy questions; gensim's questions-words if left out.")  # noqa: RUF009
    resume: bool = _option(False, bool, "Go on with the run in --out.")
    save_vectors: bool = _option(True, bool, "Write vectors.bin.")
    save_dim: int | None = _option(None, int, "Save the vectors in so many principal coordinates.")

    @property
    def training(self) -> dict[str, Any]:
        """The settings of training, by name."""
        return {each.name: getattr(self, each.name) for each in fields(Word2VecSettings)}


REQUIRED = ("corpus", "out")


def options() -> list[tuple[str, Field]]:
    """The options of both command lines, required ones first: ("--min-count", its field)."""
    told = [each for each in fields(RunSettings) if each.metadata]
    told.sort(key=lambda each: each.name not in REQUIRED)
    return [(f"--{each.name.replace('_', '-')}", each) for each in told]
