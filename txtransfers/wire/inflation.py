"""How much something compressed may become. Pure."""

import attrs

from ..errors import BadCompression, BodyTooLarge

FREE = 64 * 2**20
"""Bytes that anything may become, whatever it was: black images are a thousand times smaller."""


@attrs.frozen
class Inflation:
    """What is allowed; 0 is no limit. :ivar size: bytes. :ivar ratio: how many times the size.

    The names of the keys of the configuration are part of what is said.
    """

    ratio: int = 0
    size: int = 0

    def check(self, came: int, made: int) -> None:
        """Refuse to go on once ``came`` bytes have become ``made``.

        :raises BadCompression, BodyTooLarge: with the numbers.
        """
        if self.size and made > self.size:
            raise BodyTooLarge(
                f"The body becomes more than {self.size} bytes (MaxInflatedSize in Limits here)"
            )
        if self.ratio and made > FREE and made > self.ratio * came:
            raise BadCompression(
                f"{came} bytes have become {made}, more than {self.ratio} times as many"
                " (MaxInflationRatio in Limits here)"
            )


UNLIMITED = Inflation()


@attrs.frozen
class Unpacking:
    """What a ZIP archive may hold. :ivar files: how many."""

    files: int = 2**31
    inflation: Inflation = UNLIMITED
