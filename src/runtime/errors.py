"""Other programs' errors, told in our one line."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__
