"""Carries the sentence of an MTPError out of a Ray task as data.

Raised there, it would reach the caller only as the text of a Ray exception, after a screen of logged stack traces.
Other exceptions are bugs and take that way.
"""

import json

from mtp.errors import MTPError, UsageError

NO_PROBLEM = ""


def problem_text(error: MTPError) -> str:
    """The error as a string that `raise_problem` turns back into it."""
    return json.dumps([isinstance(error, UsageError), str(error)])


def raise_problem(text: str) -> None:
    """Raise the error that a task put into words; nothing for NO_PROBLEM."""
    if text != NO_PROBLEM:
        is_usage, sentence = json.loads(text)
        raise UsageError(sentence) if is_usage else MTPError(sentence)


def sentence_of(text: str) -> str:
    """What `problem_text` put into words, without raising it."""
    return str(json.loads(text)[1])
