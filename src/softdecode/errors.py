"""The error that people see: one clear line, exit code 2 on the command line."""


class SoftDecodeError(ValueError):
    """Input that softdecode cannot work with.

    The message is a single line that says what was wrong, what was expected and what to do.
    """
