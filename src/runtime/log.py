"""Log lines: to the terminal above the progress bar, and to a file of the run."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unicodedata import category

from tqdm import tqdm


def replace_control_chars(text: str) -> str:
    """Replace control characters, except newline and tab, which a terminal would execute.

    Lone surrogates and characters that change the text direction are replaced too.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join("\ufffd" if category(letter)[0] == "C" and letter not in "\n\t" else letter for letter in text)


LogFunction = Callable[[str], None]


class _LogFile(logging.FileHandler):
    """A log whose write errors are ignored: other files on the same disk report them."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error; the default prints a traceback per line."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def open_log(path: Path) -> Iterator[LogFunction]:
    """Yield a function that writes a line to the terminal and the file; tracebacks go to the file only."""
    logger = logging.getLogger("src")
    logger.setLevel(logging.DEBUG)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)

    def log_info(line: str) -> None:
        line = replace_control_chars(line)
        tqdm.write(line)
        logger.info(line)

    try:
        yield log_info
    finally:
        logger.removeHandler(handler)
        handler.close()
