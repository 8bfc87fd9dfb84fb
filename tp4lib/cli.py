"""The ``tp4`` command."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import typer

from tp4lib.errors import InputError, fail

COMMANDS = ("reproduce", "word2vec", "maml", "data", "teach", "doctor")


# typer's own error for a wrong option or argument; its home has moved between releases of typer, its child has not.
_UsageError = typer.BadParameter.__mro__[1]
_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


def build(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands; imports what they need, which takes seconds and memory."""
    app = typer.Typer(
        help="Infinite-width feature learning you can run: the figures and tables of Tensor Programs IV.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: no boxes that cut long names in a narrow terminal
    )
    app.callback()(lambda: None)  # so that one command alone is still called by its name
    for name in names:
        app.command(name)(getattr(import_module(f"tp4lib.commands.{name}"), name))
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends in one line on stderr and exit code 2, without a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    os.environ["TP4_COMMAND"] = shlex.join(["tp4", *arguments])  # told in every metrics.json
    with guarded():
        asked = [name for name in arguments[:1] if name in COMMANDS]
        code = build(asked or COMMANDS)(args=arguments or ["--help"], prog_name="tp4", standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
    sys.exit(code or 0)


@contextmanager
def guarded() -> Iterator[None]:
    """Whatever a user may meet inside ends in one line on stderr and exit code 2."""
    if threading.current_thread() is threading.main_thread():
        # Being ended politely (by a batch system, a container) is Ctrl-C: a run keeps its checkpoint and says so.
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except InputError as error:
        fail(str(error))
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        fail(f"{error.format_message()} See `{context.command_path if context else 'tp4'} --help`.")
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted; nothing half-written is left")
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        fail(f"{error}; expected files that can be read and written; free some space or choose other ones")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        fail("memory ran out; expected a run that fits; try a smaller size, and see `tp4 doctor`")


def _interrupt(number: int, frame: Any) -> None:
    """Do what Ctrl-C does now; a shell that started us in the background has had us ignore Ctrl-C itself."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


if __name__ == "__main__":
    main()
