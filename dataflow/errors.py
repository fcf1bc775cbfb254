"""The error of wrong input, shared by all packages."""


class InputError(ValueError):
    """What a user gave is wrong; the message is one line: where, what, the limit, the value.

    The command line prints it on standard error and exits with status 2.
    """


def nearest(word: str, known: "list[str] | tuple[str, ...]") -> str:
    """` (did you mean 'x'?)` for the known word closest to `word`, else the empty string."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
