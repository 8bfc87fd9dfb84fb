"""The settings of a run of Word2Vec, declared once, with defaults, help texts and checks.

`tp4 word2vec` and ``python -m tp4lib.word2vec`` make their options from these fields, and `training.train` takes them.
Importing this module does not import torch, so that a command line's help appears at once.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from tp4lib.base.checks import real, whole
from tp4lib.base.errors import InputError
from tp4lib.base.options import Option

GRADIENTS = ("mean", "sum")
NEGATIVES = ("shared", "per-position")
TOKENIZERS = ("whitespace", "words")
DTYPES = ("float32", "float64", "bfloat16")


@dataclass(frozen=True)
class StepSettings:
    """What a step needs besides the block.

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


@dataclass(frozen=True, kw_only=True)
class Word2VecSettings:
    """Settings of a training run; None leaves a value to `training.train`.

    Fields with an `Option` are also options of the command lines.

    Attributes:
        window: each position takes a window that is uniform in 1..window.
        negatives: "per-position", the paper's: ``num_negatives`` fresh ones for each position; or "shared": each batch
            draws ``shared_negatives``, weighted so that the expected gradient is the same; then most work is
            matrix products.
        batch_size: by default 32 with shared negatives, on every device; per-position 1 (the sequential algorithm; 16
            where numba is missing; refused on a GPU). 256 with 128 shared negatives use a GPU better, on a vocabulary
            of thousands of words: with fewer, so large a batch contains each of them many times, and diverges.
        shared_negatives: K; default three for every four positions of a batch, and with gensim's gradient three for
            every position. With k for each position a draw weighs ``batch_size k / K`` in a step: from about
            100 on training may diverge.
        threads: None for all cores (or ``OMP_NUM_THREADS`` of them), which share the columns in each step
            and give the same bits on any number of cores. Else this number of threads, each with a block of its own,
            change the parameters without waiting for each other: the bits depend on timing; 1 is None on one core.
        seed: the windows and negatives of a seed are the same at all widths.
        engine: "numba" (CPU, one rank), "triton" (GPU, shared negatives) or "torch" (everything), which compute the
            same; "auto" takes the first of them that can run.
    """

    epochs: Annotated[int, Option("Passes over the text.")] = 5
    lr: Annotated[
        float, Option("Learning rate, the same at all widths; falls linearly to 1e-4 of itself.")
    ] = 0.05
    wd: Annotated[float, Option("Weight decay, at each touch of a row.")] = 1e-3
    window: Annotated[int, Option("Largest window, in words.")] = 8
    negatives: Annotated[
        str, Option("Shared by a batch, or fresh ones per position (the paper's).", NEGATIVES)
    ] = "shared"
    num_negatives: Annotated[int, Option("Negatives a position sees.")] = 25
    batch_size: Annotated[int | None, Option("Positions an SGD step sums over.")] = None
    shared_negatives: Annotated[int | None, Option("Negatives a batch shares.")] = None
    subsample: Annotated[float, Option("Subsampling threshold, a frequency; 0 for none.")] = 1e-4
    window_gradient: Annotated[str, Option("mean (true gradient) or sum (gensim's).", GRADIENTS)] = "mean"
    seed: Annotated[int, Option("Of the initialization, the windows and the negatives.")] = 0
    dtype: Annotated[str, Option("Of the parameters; bfloat16 is half the memory.", DTYPES)] = "float32"
    device: Annotated[str, Option("auto, cpu, cuda or cuda:N; by torchrun each rank takes its own.")] = "auto"
    threads: Annotated[
        int | None,
        Option("Train on so many blocks at once: not the same bits each time. Else all cores share one."),
    ] = None
    input_rate: float = 1.0
    engine: str = "auto"

    def __post_init__(self) -> None:
        if self.negatives not in NEGATIVES:
            raise InputError(
                f"unknown negatives {self.negatives!r}; expected shared or per-position; try shared"
            )
        if self.threads is not None:
            whole("threads", self.threads, most=1024, example=2)
        dtype = str(self.dtype).removeprefix("torch.")  # a torch.dtype is accepted, too
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

    corpus: Annotated[
        Path, Option("Text, plain or packed (.xz, .gz, .bz2, .zip); or text8 or fil9, which are found.")
    ]
    out: Annotated[Path, Option("Folder for vectors.bin, metrics.json and the checkpoint.")]
    width: Annotated[str, Option("Hidden width, or inf for the exact limit.")] = "64"
    tokenize: Annotated[
        str, Option("words: lower case, without punctuation; whitespace: the text as it is.", TOKENIZERS)
    ] = "whitespace"
    min_count: Annotated[int, Option("Leave out words that occur fewer times.")] = 5
    max_vocab: Annotated[int | None, Option("Keep only so many words.")] = None
    max_bytes: Annotated[int | None, Option("Read only so many bytes of the text.")] = None
    questions: Annotated[Path | None, Option("Analogy questions; gensim's questions-words if left out.")] = (
        None
    )
    resume: Annotated[bool, Option("Go on with the run in --out.")] = False
    checkpoints: Annotated[bool, Option("Keep checkpoints, to resume from.")] = True
    save_vectors: Annotated[bool, Option("Write vectors.bin.")] = True
    save_dim: Annotated[int | None, Option("Save the vectors in so many principal coordinates.")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and not self.checkpoints:
            raise InputError(
                "to resume takes a checkpoint, and leaves others; expected --resume without --no-checkpoints"
            )

    @property
    def reading(self) -> dict[str, Any]:
        """How the text is read, by name."""
        return {name: getattr(self, name) for name in ("tokenize", "min_count", "max_vocab", "max_bytes")}

    @property
    def training(self) -> dict[str, Any]:
        """The settings of training, by name."""
        return {each.name: getattr(self, each.name) for each in fields(Word2VecSettings)}
