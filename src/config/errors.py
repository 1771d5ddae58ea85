"""The error of wrong input."""


class UserError(ValueError):
    """An error that the user can fix, in one line with key, value and remedy. Commands exit with status 2."""
