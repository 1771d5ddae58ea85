"""Lines for people: on the terminal above the progress bar, and in a file of the run."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unicodedata import category

from tqdm import tqdm


def printable(text: str) -> str:
    """Replace what a terminal would obey instead of showing it: all control characters but newline and tab.

    Halves of surrogate pairs and characters that change the direction of a line are replaced too.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join("\ufffd" if category(letter)[0] == "C" and letter not in "\n\t" else letter for letter in text)


LogFunction = Callable[[str], None]


class _LogFile(logging.FileHandler):
    """A log that nothing depends on: where it cannot be written, what else is written to that disk will say so."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing, where logging would print a traceback for every line."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def open_log(path: Path) -> Iterator[LogFunction]:
    """Send lines to the terminal, above the progress bar, and to a file; tracebacks to the file alone."""
    logger = logging.getLogger("src")
    logger.setLevel(logging.DEBUG)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)

    def log_info(line: str) -> None:
        line = printable(line)
        tqdm.write(line)
        logger.info(line)

    try:
        yield log_info
    finally:
        logger.removeHandler(handler)
        handler.close()
