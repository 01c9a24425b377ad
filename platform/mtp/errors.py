"""The errors that users see, and what they exit with.

Anything a user can cause or cure is raised as one of these, in one sentence: what, where, what to do. The command
line prints that sentence without a traceback; every other exception is a bug of ours and keeps its traceback.
"""


class MTPError(Exception):
    """The work failed (exit code 1): a corrupt shard, a registry that is down, a diverged run."""

    exit_code = 1


class StoppedError(MTPError):
    """The work was asked to end and did, with what it had done so far saved."""


class UsageError(MTPError):
    """The arguments or the configuration are wrong (exit code 2): a misspelt key, a model URI that does not exist."""

    exit_code = 2
