"""Errors that a user can mend: each message is one line that says what is wrong and what to change.

The command line prints the message without a traceback and leaves with the class's `exit_code`.
"""


class ThriftyError(Exception):
    """Base of every error that thrifty raises on purpose."""

    exit_code = 1


class UsageError(ThriftyError):
    """A call or a command line that cannot be meant: an unknown name, a size of zero."""

    exit_code = 2


class DataError(ThriftyError):
    """A data set that is missing, truncated, corrupt or mislabelled; names the file and the offset or entry."""


class CheckpointError(ThriftyError):
    """A checkpoint that is truncated, corrupt or belongs to another run."""


class ModelError(ThriftyError):
    """A model that a method cannot be applied to as it stands."""


class NonFiniteError(ThriftyError):
    """Training met a loss that is not a finite number."""


class OutOfMemoryError(ThriftyError):
    """Memory could not be had; what was saved before stays whole."""


class DistributedError(ThriftyError):
    """Processes of a group that disagree, do not answer, or cannot be reached."""
