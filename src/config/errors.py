"""The error of wrong input."""


class UserError(ValueError):
    """Something that the user can put right, in one line with key, value and remedy. Commands exit with status 2."""
