"""Who it is that asks: passwords and tokens, verified away from the reactor, remembered briefly.

Whoever was right is known for :data:`KNOWN_S`, so that a bucket does not pay for a hash; what was
wrong is never remembered. No secret is kept here but what the configuration holds.
"""

import binascii
import hmac
import secrets
from base64 import b64decode
from collections.abc import Iterator

import attrs
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..config import Settings
from ..config_access import EVERYTHING, Permission
from ..errors import TooBusy
from ..passwords import is_hash, is_right, is_right_token, keep_token
from ..threads import IThreads
from ..waiters import Waiters
from .slowdown import Slowdown

KNOWN_S = 60.0
"""Seconds for which whoever was right is not verified again."""

HASHES_AT_ONCE = 2
"""Passwords that are hashed at once; each takes a core and 32 MB meanwhile."""

_MOST_HASHES_WAITING = 64
_MOST_KNOWN = 1000
_LONGEST_HEADER = 4096

log = Logger()


@attrs.frozen
class User:
    """Somebody who may come in.

    :ivar name: empty where nobody is asked for it.
    """

    name: str
    permissions: frozenset[Permission] = EVERYTHING

    def may(self, enough: frozenset[Permission]) -> bool:
        """Whether one of these permissions is there; an empty set needs none."""
        return not enough or bool(self.permissions & enough)


ANYBODY = User("")


@attrs.frozen
class _Credentials:
    name: str
    secret: bytes = attrs.field(repr=False)
    is_token: bool = False


@attrs.define(eq=False)
class _Verifying:
    """Somebody who is being verified, and who waits for that."""

    waiters: Waiters = attrs.Factory(Waiters)
    user: User | None = None
    error: TooBusy | None = None


class Access:
    """See the module.

    :ivar failed: logins that failed since the start.
    """

    def __init__(self, settings: Settings, clock: IReactorTime, threads: IThreads) -> None:
        self._enabled = settings.authentication_enabled
        self._users = settings.registered_users
        self._tokens = {name: keep_token(token) for name, token in settings.bearer_tokens.items()}
        self._permissions = settings.permissions
        self._clock = clock
        self._threads = threads
        self._slowdown = Slowdown(clock)
        self._hashing = DeferredSemaphore(HASHES_AT_ONCE)
        self._hashes_waiting = 0
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, tuple[User, float]] = {}
        self._verifying: dict[tuple[bytes, str], _Verifying] = {}
        # As costly as those of users: that there is no such user is not told by the time it takes.
        hashes = [kept for kept in self._users.values() if is_hash(kept)]
        self._decoy = hashes[0] if hashes else secrets.token_urlsafe()
        self.failed = 0

    def known(self, header: str | None) -> User | None:
        """Who it is, if that needs no verifying.

        :param header: ``Authorization``.
        """
        if not self._enabled:
            return ANYBODY
        if header is None:
            return None
        user, until = self._known.get(self._digest(header), (None, 0.0))
        return user if self._clock.seconds() < until else None

    async def identify(self, header: str, address: str) -> User | None:
        """Who it is; None where the password, or the token, is wrong.

        The same that comes several times at once is verified once.

        :raises TooBusy: too many are being verified.
        """
        key = self._digest(header), address
        verifying = self._verifying.get(key)
        if verifying is not None:
            await verifying.waiters.wait()
        else:
            verifying = self._verifying[key] = _Verifying()
            try:
                verifying.user = await self._look_at(header, address)
                if verifying.user is not None:
                    self._remember(key[0], verifying.user)
            except TooBusy as error:
                verifying.error = error
            finally:
                del self._verifying[key]
                verifying.waiters.fire()
        if verifying.error is not None:
            raise verifying.error
        return verifying.user

    async def _look_at(self, header: str, address: str) -> User | None:
        await self._slowdown.turn(address)
        credentials = _read(header)
        name: str | None = None
        counts = True
        try:
            if credentials is not None:
                name = await self._verify(credentials)
        except TooBusy:
            counts = False
            raise
        finally:
            failures = self._slowdown.done(address, name is not None or not counts)
        if name is None:
            self._complain(credentials, address, failures)
            return None
        return User(
            name, self._permissions.get(name, EVERYTHING if not self._permissions else frozenset())
        )

    async def _verify(self, credentials: _Credentials) -> str | None:
        """The name of the user, or of the token."""
        if credentials.is_token:
            tokens = self._tokens.items()
            found = [name for name, kept in tokens if is_right_token(credentials.secret, kept)]
            return found[0] if found else None
        kept = self._users.get(credentials.name)
        right = await self._compare(credentials.secret, self._decoy if kept is None else kept)
        return credentials.name if right and kept is not None else None

    async def _compare(self, given: bytes, kept: str) -> bool:
        if not is_hash(kept):
            return is_right(given, kept)
        if self._hashes_waiting >= _MOST_HASHES_WAITING:
            raise TooBusy("Too many passwords are being verified", 2)
        self._hashes_waiting += 1
        try:
            run = self._hashing.run(self._threads.run, is_right, given, kept)
            return bool(await run)
        finally:
            self._hashes_waiting -= 1

    def _complain(self, credentials: _Credentials | None, address: str, failures: int) -> None:
        self.failed += 1
        if credentials is None:
            who = "with a header that is neither Basic nor Bearer"
        elif credentials.is_token:
            who = "with a token"
        elif credentials.name in self._users:
            who = f"of user {credentials.name}"
        else:  # somebody may have typed a password there
            who = "of an unknown user"
        log.warn(
            "A login {who} from {address} failed ({failures} lately)",
            who=who,
            address=address,
            failures=failures,
        )

    def _remember(self, digest: bytes, user: User) -> None:
        now = self._clock.seconds()
        if len(self._known) >= _MOST_KNOWN:
            self._known = dict(self._still_known(now))
        self._known[digest] = user, now + KNOWN_S

    def _still_known(self, now: float) -> Iterator[tuple[bytes, tuple[User, float]]]:
        alive = [item for item in self._known.items() if item[1][1] > now]
        yield from alive[-_MOST_KNOWN // 2 :]

    def _digest(self, header: str) -> bytes:
        return hmac.digest(self._key, header.encode("utf-8", "surrogateescape"), "sha256")


def claimed_name(header: str | None) -> str:
    """The user that ``Authorization`` names, which proves nothing; empty where there is none."""
    credentials = _read(header) if header is not None else None
    return credentials.name if credentials is not None else ""


def _read(header: str) -> _Credentials | None:
    """What ``Authorization`` holds, if it can be right."""
    scheme, _space, rest = header.partition(" ")
    if len(header) > _LONGEST_HEADER:
        return None
    data = rest.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "bearer" and data:
        return _Credentials("", data, is_token=True)
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = b64decode(data, validate=True).partition(b":")
    except binascii.Error:
        return None
    return _Credentials(name.decode("utf-8", "replace"), password) if colon else None
