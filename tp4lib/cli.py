"""The ``tp4`` command."""

import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from tp4lib.errors import InputError, fail

app = typer.Typer(
    help="Infinite-width feature learning you can run: the figures and tables of Tensor Programs IV.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name in ("reproduce", "word2vec", "maml", "data"):
    app.command(_name)(getattr(import_module(f"tp4lib.commands.{_name}"), _name))

# typer's own error for a wrong option or argument; its home has moved between releases of typer, its child has not.
_UsageError = typer.BadParameter.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends in one line on stderr and exit code 2, without a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=arguments or ["--help"], prog_name="tp4", standalone_mode=False)
    except InputError as error:
        fail(str(error))
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        fail(f"{error.format_message()} See `{context.command_path if context else 'tp4'} --help`.")
    except (OSError, MemoryError) as error:  # what no check foresaw, such as a disk that fails
        fail(f"{' '.join(str(error).split()) or 'memory ran out'}; check the paths, or try smaller sizes")
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted; nothing half-written is left")
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
