"""The one exception for input that cannot work."""


class InputError(ValueError):
    """Input that cannot work, told in one line: what was wrong; what was expected; what to type next.

    The command line prints the line on stderr and exits with code 2, without a traceback.
    """
