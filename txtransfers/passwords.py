"""Passwords and tokens: as they are kept, and whether one that is given is right.

A password is kept as it is (as Orthanc does), or as ``$scrypt$ln=15,r=8,p=1$salt$hash``; a token as
it is, or as ``$sha256$hash``: it is random and long, so that nothing slow is needed. Verifying a
scrypt hash takes a tenth of a second of a core and 32 MB: not in the reactor.
"""

import binascii
import hashlib
import re
import secrets
from base64 import b64decode, b64encode
from hmac import compare_digest

import attrs

SCRYPT = "$scrypt$"
SHA256 = "$sha256$"
_FORM = re.compile(r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([^$]+)\$([^$]+)\Z")
_SHA256_FORM = re.compile(r"\$sha256\$[0-9a-f]{64}\Z")

_LN, _R, _P = 15, 8, 1
_SALT_SIZE = 16
_HASH_SIZE = 32
_MOST_MEMORY = 128 * 2**20
"""Bytes that a hash may ask for: whoever logs in makes the daemon use them."""

_MOST_PASSES = 16
TOKEN_LENGTH = 32
"""Characters that a token must have at the least: nobody guesses it then, however fast."""


@attrs.frozen
class _Hash:
    n: int
    r: int
    p: int
    salt: bytes
    hash: bytes

    @property
    def memory(self) -> int:
        """Bytes that are needed to verify it."""
        return 128 * self.r * (self.n + self.p + 2)


def is_hash(kept: str) -> bool:
    """Whether a password is kept as a hash, well formed or not."""
    return kept.startswith(SCRYPT)


def problem_of_hash(kept: str) -> str:
    """What is wrong with a password's hash; empty where nothing is."""
    try:
        parsed = _parse(kept)
    except ValueError:
        return "is no hash that `txtransfers password` prints: make it anew"
    if parsed.memory > _MOST_MEMORY or parsed.p > _MOST_PASSES:
        return (
            f"asks for more than {_MOST_MEMORY // 2**20} MB, or {_MOST_PASSES} passes: make it anew"
        )
    return ""


def problem_of_token(kept: str) -> str:
    """What is wrong with a token; empty where nothing is."""
    if kept.startswith(SHA256):
        return "" if _SHA256_FORM.match(kept) else "is no hash that `txtransfers token` prints"
    if len(kept) < TOKEN_LENGTH or not kept.isascii() or " " in kept:
        return f"needs {TOKEN_LENGTH} characters of ASCII: let `txtransfers token` make it"
    return ""


def hash_password(password: str) -> str:
    """A password as it is to be kept; blocking."""
    salt = secrets.token_bytes(_SALT_SIZE)
    parsed = _Hash(2**_LN, _R, _P, salt, b"")
    derived = _derive(parsed, password.encode())
    return f"{SCRYPT}ln={_LN},r={_R},p={_P}${_encode(salt)}${_encode(derived)}"


def make_token() -> tuple[str, str]:
    """A new token, and as it is to be kept."""
    token = secrets.token_urlsafe(TOKEN_LENGTH)
    return token, keep_token(token)


def keep_token(token: str) -> str:
    """A token as it is kept, whether it already is or not."""
    if token.startswith(SHA256):
        return token
    return SHA256 + hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def is_right(given: bytes, kept: str) -> bool:
    """Whether a password is the one that is kept; in a time that does not tell. Blocking."""
    if not is_hash(kept):
        # Of the same length, whatever they are.
        digests = (hashlib.sha256(each).digest() for each in (given, kept.encode()))
        return compare_digest(*digests)
    parsed = _parse(kept)
    return compare_digest(_derive(parsed, given), parsed.hash)


def is_right_token(given: bytes, kept: str) -> bool:
    """Whether a token is the one that is kept."""
    found = SHA256 + hashlib.sha256(given).hexdigest()
    return compare_digest(found, keep_token(kept))


def _derive(parsed: _Hash, password: bytes) -> bytes:
    return hashlib.scrypt(
        password,
        salt=parsed.salt,
        n=parsed.n,
        r=parsed.r,
        p=parsed.p,
        maxmem=2 * parsed.memory,
        dklen=len(parsed.hash) or _HASH_SIZE,
    )


def _parse(kept: str) -> _Hash:
    """:raises ValueError: it is none."""
    match = _FORM.match(kept)
    if match is None:
        raise ValueError(kept[: len(SCRYPT)])
    ln, r, p = (int(match[number]) for number in (1, 2, 3))
    salt, hash_ = _decode(match[4]), _decode(match[5])
    if not (1 <= ln <= 31 and r and p and len(hash_) >= 16):
        raise ValueError("out of range")
    return _Hash(2**ln, r, p, salt, hash_)


def _encode(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
