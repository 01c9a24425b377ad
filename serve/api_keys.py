"""API keys: who may use an endpoint, and how much. Several keys, each with limits of its own, in one private file.

A key is 32 random bytes, so its SHA-256 is all that has to be kept: nobody can search for what hashes to it. The key
itself is shown once, when it is made. Knows the file; nothing of HTTP or of how limits are counted (limits.py).
"""

import fcntl
import hashlib
import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from cluster.state import write_private
from mtp.config import home
from mtp.errors import MTPError, UsageError

PREFIX = "mtp-"


class APIKey(BaseModel):
    """One key, as it is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str
    created: datetime
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    """Of prompts and outputs together."""
    revoked: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[APIKey] = []


class KeyStore:
    """The file of keys; what another process changes is seen at the next look."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()
        self._read_at: tuple[int, int] | None = None
        self._keys: list[APIKey] = []

    def keys(self) -> list[APIKey]:
        """All keys, revoked ones too, in the order in which they were made.

        Raises:
            MTPError: the file is damaged.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._keys, self._read_at = [], None
            return []
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp != self._read_at:
            try:
                self._keys = _File.model_validate_json(self.path.read_bytes()).keys
            except ValidationError as error:
                raise MTPError(f"the key file {self.path} is damaged ({error.error_count()} faults)") from None
            self._read_at = stamp
        return self._keys

    def configured(self) -> bool:
        """Whether there is any key that is not revoked."""
        return any(not key.revoked for key in self.keys())

    def find(self, secret: str) -> APIKey | None:
        """The key that `secret` is, if it is one and not revoked. Takes the same time whichever it is."""
        digest = _sha256(secret)
        match = None
        for key in self.keys():
            if hmac.compare_digest(key.sha256, digest) and not key.revoked:
                match = key
        return match

    def add(
        self, name: str, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> tuple[APIKey, str]:
        """Make a key; returns it and the secret, which is kept nowhere.

        Raises:
            UsageError: the name is taken or not allowed, or a limit is not positive.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        try:
            key = APIKey(
                name=name,
                sha256=_sha256(secret),
                created=datetime.now(UTC),
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"{first['loc'][0]}: {first['msg']}") from None
        with self._changing() as keys:
            if any(other.name == name for other in keys):
                raise UsageError(f"there is a key named {name!r} already; choose another name")
            keys.append(key)
        return key, secret

    def revoke(self, name: str) -> None:
        """End a key; it stays in the list.

        Raises:
            UsageError: there is none of that name.
        """
        with self._changing() as keys:
            for place, key in enumerate(keys):
                if key.name == name:
                    keys[place] = key.model_copy(update={"revoked": True})
                    return
            known = ", ".join(key.name for key in keys) or "none"
            raise UsageError(f"there is no key named {name!r}; there are: {known}")

    @contextmanager
    def _changing(self) -> Iterator[list[APIKey]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = list(self.keys())
            yield keys
            write_private(self.path, _File(keys=keys).model_dump_json(indent=2))


def default_path() -> Path:
    """Where keys lie unless `serve.api_keys` says otherwise."""
    return home() / "api_keys.json"


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
