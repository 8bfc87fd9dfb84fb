"""Train Word2Vec: epochs, a falling rate, a progress bar, checkpoints that resume to the same numbers."""

import hashlib
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tp4lib import __version__
from tp4lib.base import checkpoint
from tp4lib.base.checks import real, whole
from tp4lib.base.device import resolve
from tp4lib.base.divergence import Diverged, diverged, is_diverged
from tp4lib.base.errors import InputError
from tp4lib.base.files import out_dir
from tp4lib.base.progress import bar
from tp4lib.word2vec.analogies import asked_by
from tp4lib.word2vec.blocks import LARGEST, Ahead, Block, Sampler
from tp4lib.word2vec.checkpoints import Keeper, Pace, stop_request
from tp4lib.word2vec.corpus import Corpus
from tp4lib.word2vec.model import CBOW, parse_width
from tp4lib.word2vec.settings import Word2VecSettings
from tp4lib.word2vec.shards import ALONE, Shards
from tp4lib.word2vec.steps import on_numba as fast
from tp4lib.word2vec.steps.choice import Engine, choose
from tp4lib.word2vec.steps.on_torch import require_finite

CHECKPOINT_SECONDS = 180.0
# The settings that the numbers depend on; device and engine change them by rounding alone.
_RECORDED = (
    "epochs", "lr", "wd", "window", "negatives", "num_negatives", "batch_size", "shared_negatives", "subsample",
    "window_gradient", "input_rate", "seed", "dtype",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What `train` returns.

    Attributes:
        model: the trained `CBOW`.
        history: one dict per epoch: epoch (from 1), loss (mean over its positions), seconds (of training alone),
            tokens_per_second (tokens of the corpus), and, where ``evaluate`` was given, accuracy (None where no
            question could be answered), correct, answered, total.
        settings: everything the numbers depend on.
    """

    model: CBOW
    history: list[dict[str, Any]]
    settings: dict[str, Any]


def train(
    corpus: Corpus,
    width: int | float | str,
    *,
    settings: Word2VecSettings | None = None,
    start: CBOW | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    evaluate: Callable[[torch.Tensor], Any] | None = None,
    after_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    shards: Shards = ALONE,
    **changes: Any,
) -> Trained:
    """Train CBOW with negative sampling on a corpus, by SGD with a linearly falling rate (paper, section 9.1).

    Args:
        width: n, or ``math.inf`` / "inf" for the exact limit.
        settings, changes: a `Word2VecSettings`, and fields in place of its own by name: ``epochs=3, lr=0.1``.
        start: train this model on (from any parameters); it is changed in place and ``width`` must be its width.
        out: folder for checkpoints, after every epoch and every few minutes; None for none. Those larger than
            `checkpoints.SMALL` are written only as often as takes a twentieth of the time, at the end as well.
        resume: go on from the checkpoint in ``out``; the version of tp4, the settings, the text, the start and what
            ``evaluate`` asks have to be those of the run.
        evaluate: called with the embeddings after each epoch; returns something with ``accuracy`` (percent, or None),
            ``correct``, ``answered`` and ``total``. What it asks is compared as `analogies.asked_by` tells.
        after_epoch: called with the history so far after each epoch, its checkpoint and its score included.
        checkpoint_seconds: time between checkpoints within an epoch; 0 for one after every block of the text.
        shards: the ranks that share the columns (`Shards.join`); each keeps a checkpoint of its columns.

    Raises:
        Diverged: an InputError: a number is no longer finite, or the mean loss of a block is above
            `divergence.FACTOR` times that of the untrained network, (1 + num_negatives) log 2 where its scores
            are 0. The last checkpoint before it stays.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.

    >>> from tp4lib.word2vec import Corpus
    >>> corpus = Corpus.from_words("the cat saw the dog and the dog saw the cat".split() * 20)
    >>> train(corpus, "inf", epochs=1, subsample=0, device="cpu").model.embeddings.shape
    torch.Size([5, 5])
    """
    width = parse_width(width)
    asked = replace(settings or Word2VecSettings(), **changes)
    device = resolve(asked.device)
    checkpoint_seconds = real("checkpoint_seconds", checkpoint_seconds, least=0, example=CHECKPOINT_SECONDS)
    sampler = _sampler(asked, corpus, device)
    record = _record(asked, corpus, width, sampler, start, evaluate)
    if resume and out is None:
        raise InputError("resume needs the folder of the run; expected out; give --out DIR")
    keeper = None if out is None else Keeper(out_dir(out), shards)
    if resume:
        with checkpoint.restoring(keeper.folder):
            keeper.require_same(record)  # before a model is made that may be large
    model = start
    if start is None:
        model = CBOW(len(corpus.vocab), width, asked.seed, getattr(torch, asked.dtype), device, shards)
    elif start.vocab_size != len(corpus.vocab):
        raise InputError(
            f"the start has {start.vocab_size} rows, the vocabulary {len(corpus.vocab)} words; expected as many"
        )
    elif not all(torch.isfinite(x).all() for x in (start.embeddings, start.readout)):
        raise InputError(
            "the start holds numbers that are not finite; expected finite ones; give another start"
        )
    engine = Engine(*choose(asked.engine, model, sampler, asked.threads))
    run = _Run(model, sampler, asked.step, record, engine, keeper, checkpoint_seconds)
    if start is not None:
        run.allow_for_start()
    if resume:
        run.restore()
    run.go(evaluate, after_epoch)
    return Trained(model, run.state["history"], record)


def _sampler(asked: Word2VecSettings, corpus: Corpus, device: torch.device) -> Sampler:
    """The sampler of a run: its batches are the same on every device, as they decide what is trained."""
    shared, batch_size, draws = asked.negatives == "shared", asked.batch_size, asked.shared_negatives
    if batch_size is None:
        if not shared and device.type != "cpu":
            raise InputError(
                "per-position negatives are one SGD step a position, which a GPU does a hundred times slower than a "
                "CPU; expected negatives shared by a batch; try --negatives shared, or --device cpu"
            )
        alone = 1 if fast.numba is not None and asked.engine != "torch" else 16
        batch_size = 32 if shared else alone
    if draws is None:
        # Draws for each position of a batch. gensim's gradient makes larger steps, and fewer draws make them noisy: two
        # are as accurate as gensim at widths 64 and 256, see benchmarks/results/word2vec_gensim.json.
        share = 3.0 if asked.window_gradient == "sum" else 0.75
        draws = math.ceil(share * whole("batch_size", batch_size, most=LARGEST))
    return Sampler(
        corpus.vocab,
        corpus.ids,
        window=asked.window,
        num_negatives=asked.num_negatives,
        subsample=asked.subsample,
        batch_size=batch_size,
        shared=draws if shared else None,
        lr=asked.lr,
        epochs=asked.epochs,
        seed=asked.seed,
    )


def _record(
    asked: Word2VecSettings,
    corpus: Corpus,
    width: int | float,
    sampler: Sampler,
    start: CBOW | None,
    evaluate: Callable[[torch.Tensor], Any] | None,
) -> dict[str, Any]:
    """Everything the numbers of a run depend on: a checkpoint of another record is refused."""
    return {
        "version": __version__,
        "width": "inf" if width == math.inf else width,
        **{name: getattr(asked, name) for name in _RECORDED},
        "batch_size": sampler.batch_size,
        "shared_negatives": sampler.shared,
        "vocab_size": len(corpus.vocab),
        "tokens": len(corpus.ids),
        "corpus": corpus.digest[:16],
        "vocabulary": corpus.vocab.digest[:16],
        "start": None if start is None else _digest(start),
        "questions": evaluate and asked_by(evaluate)[:16],
        "block_tokens": sampler.block_tokens,
    }


class _Run:
    """A training run: the model, where it is in the text, and how to save both."""

    def __init__(self, model, sampler, step, settings, engine, keeper, pause) -> None:
        self.model, self.sampler, self.engine = model, sampler, engine
        self.step, self.settings = step, settings
        # Threads that train on blocks at once draw them at once, too.
        self.draw = Ahead(sampler).block if engine.at_once == 1 else sampler.block
        self.keeper, self.shards = keeper, model.shards
        self.arrays = {name: _bits(getattr(model, name)) for name in ("embeddings", "readout")}
        size = sum(x.numel() * x.element_size() for x in self.arrays.values())
        self.pace = Pace(pause, size)
        if keeper is not None:
            keeper.require_room(size)
        self.untrained = (1 + sampler.num_negatives) * math.log(2)  # loss of a position whose scores are 0
        self.state: dict[str, Any] = {
            "epoch": 0,  # epochs finished
            "block": 0,  # blocks of the current epoch finished
            "loss": 0.0,
            "positions": 0,
            "seconds": 0.0,  # of training, in the current epoch
            "evaluated": True,  # False between the end of an epoch and its evaluation
            "history": [],
        }

    def save(self) -> None:
        if self.keeper is not None:
            now = self.state
            generation = f"{now['epoch']:04}-{now['block']:07}-{now['evaluated']:d}"
            with self.pace.writing():
                self.keeper.save(generation, self.arrays, {"settings": self.settings, "state": now})

    def restore(self) -> None:
        with checkpoint.restoring(self.keeper.folder):
            state = self.keeper.load(self.arrays, self.settings)["state"]
            if not (
                all(type(state.get(key)) is type(value) for key, value in self.state.items())
                and 0 <= state["epoch"] <= self.settings["epochs"]
                and 0 <= state["block"] < self.sampler.blocks
                and len(state["history"]) == state["epoch"]
                and all(isinstance(row, dict) and math.isfinite(row["loss"]) for row in state["history"])
                and (state["evaluated"] or state["history"])
            ):
                raise ValueError("a state that no run has")
            self.state = state

    def go(self, evaluate: Callable | None, after_epoch: Callable | None) -> None:
        epochs, state = self.settings["epochs"], self.state
        self.engine.prepare(self.model, self.sampler, self.step)  # outside of what is timed
        with (
            stop_request() as stop,
            bar(
                total=epochs * self.settings["tokens"], desc=f"width {self.settings['width']}", unit="tok",
                initial=self._tokens_before(state["block"]),
            ) as progress,
        ):  # fmt: skip
            while state["epoch"] < epochs or not state["evaluated"]:
                if not state["evaluated"]:  # an epoch has ended, now or just before the run was cut short
                    self._evaluate(evaluate)
                    if self.shards.any(self.pace.affordable()):
                        self.save()
                    if after_epoch is not None:
                        after_epoch(state["history"])
                    continue
                self._train_round(progress)
                if state["block"] == self.sampler.blocks:
                    self._close_epoch()
                stopped = self.shards.any(stop.is_set())  # all ranks save, or none
                if stopped or self.shards.any(self.pace.due()):
                    self.save()
                if stopped:
                    raise KeyboardInterrupt
        if self.keeper is not None:
            self.keeper.finish()

    def _train_round(self, progress) -> None:
        """Train on the next blocks, one after another or at once."""
        state, started = self.state, time.monotonic()
        last = min(state["block"] + self.engine.blocks, self.sampler.blocks)
        numbers = range(state["block"], last)
        if self.engine.at_once == 1:
            results = [self._train_block(number) for number in numbers]
        else:
            with ThreadPoolExecutor(self.engine.at_once) as pool:
                results = list(pool.map(self._train_block, numbers))
        losses, counts = zip(*results)
        if isinstance(losses[0], torch.Tensor):  # wait for the GPU once
            losses = torch.stack(losses).tolist()
        for number, loss, count in zip(numbers, losses, counts):
            bad = count > 0 and is_diverged(loss / count, self.untrained)
            if self.shards.any(bad):
                place, advice = self._place_and_advice(number)
                raise diverged(place, loss / count, self.untrained, advice)
        loss, positions = sum(losses), sum(counts)
        state["loss"] += loss
        state["positions"] += positions
        state["seconds"] += time.monotonic() - started
        shown = f"loss {loss / max(positions, 1):.3f}, rate {self._rate(state['block']):.4f}"
        progress.set_postfix_str(shown, refresh=False)
        progress.update(sum(self.sampler.block_size(number) for number in numbers))
        state["block"] = last

    def _train_block(self, number: int) -> tuple[float | torch.Tensor, int]:
        """Train on one block; the sum of the losses of its positions, and their number."""
        return self._train_on(self.draw(self.state["epoch"], number), number)

    def _train_on(self, block: Block, number: int) -> tuple[float | torch.Tensor, int]:
        try:
            result = self.engine.steps(self.model, block, self.step)
            # checking on a GPU would synchronize with it after every block
            if not self.engine.looks and self.model.embeddings.device.type == "cpu":
                require_finite(self.model, block)
        except Diverged as problem:
            place, advice = self._place_and_advice(number)
            raise Diverged(
                f"training diverged in {place}: {problem}; expected finite numbers; {advice}"
            ) from None
        return result

    def allow_for_start(self) -> None:
        """Let a start that is not ours count as untrained: its own loss, where that is above that of scores of 0."""
        blocks = (self.sampler.block(0, number) for number in range(self.sampler.blocks))
        block = next((block for block in blocks if len(block)), None)
        if block is None or not self.shards.any(bool(self.model.readout.any())):
            return
        # Steps of rate 0 change nothing, and tell the loss.
        loss, count = self._train_on(replace(block, rates=0 * block.rates), 0)
        self.untrained = max(self.untrained, float(loss) / count)

    def _tokens_before(self, number: int) -> int:
        """Tokens of the run that come before a block of the current epoch."""
        return self.state["epoch"] * self.settings["tokens"] + number * self.sampler.block_tokens

    def _rate(self, number: int) -> float:
        """The learning rate at the beginning of a block; each batch has its own (`Sampler.block`)."""
        done = self._tokens_before(number) / (self.settings["epochs"] * self.settings["tokens"])
        return self.settings["lr"] * max(1 - done, 1e-4)

    def _place_and_advice(self, number: int) -> tuple[str, str]:
        place = f"epoch {self.state['epoch'] + 1}, in block {number + 1} of {self.sampler.blocks}"
        return place, f"the rate there was {self._rate(number):.3g}; try a smaller --lr"

    def _close_epoch(self) -> None:
        state, tokens = self.state, self.settings["tokens"]
        if state["positions"] == 0:
            raise InputError(
                f"subsampling at {self.settings['subsample']:g} left none of the {tokens:,} words of the text with a "
                f"context in epoch {state['epoch'] + 1}, so there is nothing to train on; expected a longer text or a "
                "higher threshold; try --subsample 0"
            )
        row = {
            "epoch": state["epoch"] + 1,
            "loss": state["loss"] / state["positions"],
            "seconds": state["seconds"],
            "tokens_per_second": tokens / max(state["seconds"], 1e-9),
        }
        state["history"].append(row)
        state.update(epoch=state["epoch"] + 1, block=0, loss=0.0, positions=0, seconds=0.0, evaluated=False)

    def _evaluate(self, evaluate: Callable[[torch.Tensor], Any] | None) -> None:
        if evaluate is not None:
            score = evaluate(self.model.embeddings)
            row = self.state["history"][-1]
            row["accuracy"] = None if score.accuracy is None else float(score.accuracy)
            row |= {name: int(getattr(score, name)) for name in ("correct", "answered", "total")}
        self.state["evaluated"] = True


def _digest(start: CBOW) -> str:
    """Of the numbers of a start, a few rows at a time."""
    seen = hashlib.sha256()
    for matrix in (start.embeddings, start.readout):
        for rows in matrix.split(256):
            seen.update(_bits(rows).cpu().contiguous().numpy())
    return seen.hexdigest()[:16]


def _bits(x: torch.Tensor) -> torch.Tensor:
    """A view that NumPy knows: it has no bfloat16."""
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x
