"""Finds the sentence that a task of ours raised inside the layers in which Ray hands exceptions on."""

from typing import NoReturn

from mtp.errors import MTPError


def raise_cause(error: BaseException) -> NoReturn:
    """Raise the MTPError that caused `error`, with its own message; if there is none, `error` itself."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue:
        current = queue.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if type(current).__module__ == MTPError.__module__:
            raise current from None
        linked = (getattr(current, "cause", None), current.__cause__, current.__context__)
        queue += [link for link in linked if isinstance(link, BaseException)]
    raise error
