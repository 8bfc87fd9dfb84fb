"""The ``tp4`` command."""

import contextlib
import errno
import gc
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tp4lib import __version__
from tp4lib.base import environment, packages, paths
from tp4lib.base.errors import InputError, fail

if TYPE_CHECKING:
    import typer

COMMANDS = ("reproduce", "word2vec", "neighbours", "maml", "data", "teach", "doctor")

_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt
_NO_MEMORY = (  # what torch, its GPU libraries and the operating system say when they mean just that
    "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed",
)  # fmt: skip


def build(names: Sequence[str] = COMMANDS) -> "typer.Typer":
    """The command line with these commands; the modules behind them are imported when a command runs."""
    import typer

    app = typer.Typer(
        help="Infinite-width feature learning you can run: the figures and tables of Tensor Programs IV.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: no boxes that cut long names in a narrow terminal
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(asked: bool) -> None:
        if asked:
            print(f"tp4 {__version__}")
            raise typer.Exit

    @app.callback()  # also for a single command, which is called by its name all the same
    def options(
        version: bool = typer.Option(
            False, "--version", help="Show the version and exit.", is_eager=True, callback=show_version
        ),
    ) -> None:
        pass

    for name in names:
        app.command(name)(getattr(import_module(f"tp4lib.collection.commands.{name}"), name))
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends in one line on stderr and exit code 2, without a traceback."""
    if alone := arguments is None:  # in a process of its own, whose imports make many objects that stay:
        gc.set_threshold(50_000)  # looking through them takes time for nothing, then and at the end
    open_streams()
    arguments = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    if arguments[-1] == "--version":  # of any command
        arguments = ["--version"]
    # Told in every metrics.json, so it has to be text, whatever bytes the file names hold.
    command = shlex.join(["tp4", *arguments])
    os.environ["TP4_COMMAND"] = command.encode("utf-8", "backslashreplace").decode("utf-8")
    with guarded():
        paths.ensure_home()
        code = _run(arguments)
    if alone:
        gc.freeze()
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    with packages.needed():
        import typer
    asked = [name for name in arguments[:1] if name in COMMANDS]
    helps = asked == ["doctor"] or {"-h", "--help"} & set(arguments)  # the doctor tells of them itself
    if asked and not helps:
        environment.check()
    usage_error = typer.BadParameter.__mro__[1]  # its home has moved between releases of typer
    try:
        code = build(asked or COMMANDS)(args=list(arguments), prog_name="tp4", standalone_mode=False)
    except usage_error as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "tp4"
        raise InputError(f"{error.format_message()} See `{command} --help`.") from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    return code or 0


def open_streams() -> None:
    """Make printing safe: no output is lost, and no run ends, for a character that the terminal cannot show.

    A stream that was closed before the start goes nowhere; one of another encoding (ASCII, cp1252) shows ``\\u03bc``
    for a letter that it lacks.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for the process's life)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def guarded() -> Iterator[None]:
    """Whatever a user may meet inside ends in one line on stderr and exit code 2."""
    if threading.current_thread() is threading.main_thread():
        # Being ended politely (by a batch system, a container) is Ctrl-C: a run keeps its checkpoint and says so.
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
        sys.stdout.flush()  # while it can still be told that it cannot be written
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; nothing half-written is left")
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        _give_up_output()
        sys.exit(1)
    except ImportError as error:
        if (line := packages.explained(error)) is None:
            raise
        fail(line)
    except (OSError, MemoryError, RuntimeError) as error:
        if (line := _reason(error)) is None:
            raise
        _give_up_output()
        fail(line)


def _reason(error: Exception) -> str | None:
    """What to say of an error that the machine, not the program, has caused; None for any other."""
    text = str(error).lower()
    no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if no_memory or any(words in text for words in _NO_MEMORY):
        return "memory ran out; expected a run that fits; try a smaller size, and see `tp4 doctor`"
    if "start new thread" in text:
        return f"no more threads can be started ({error}); expected a machine that allows them; try fewer --threads"
    if not isinstance(error, OSError):
        return None
    advice = {
        errno.ENOSPC: "expected room where files, or the output, go; free some space, or choose another --out",
        errno.EDQUOT: "expected room within your quota; free some space, or choose another --out",
        errno.EMFILE: "expected fewer open files, or a higher limit; try `ulimit -n 4096` before",
        errno.EIO: "expected a disk that works; try another one",
    }.get(error.errno, "expected files and folders that can be read and written; choose other ones")
    return f"{error}; {advice}"


def _give_up_output() -> None:
    """Let output that cannot be written go nowhere: Python would try again, and fail again, at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # a stream of a test or a notebook has no file number
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)


def _interrupt(number: int, frame: Any) -> None:
    """Do what Ctrl-C does now; a shell that started us in the background has had us ignore Ctrl-C itself."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


if __name__ == "__main__":
    main()
