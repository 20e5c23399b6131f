"""TLS around a TCP transport, a quarter of a megabyte at a time.

Twisted's own hands each record (16 KB) over by itself, both ways, which costs more than to encrypt
it. Here the records of a write are made in one call, and those of a read are handed on together.
What it relies on of Twisted's is private: ``tests/transfer/test_tls_transport.py`` watches it.
"""

from typing import Any

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

PIECE = 256 * 1024
"""Bytes that are encrypted at a time."""

_RECORD = 2**14
_ENCRYPTED = PIECE + PIECE // 8
"""Bytes of a piece when it is encrypted, or more."""


class WideTls(BufferingTLSTransport):
    """See the module."""

    transport: Any

    def _write(self, octets: bytes) -> None:
        if self._lostTLSConnection:
            return
        done = 0
        view = memoryview(octets)
        while done < len(octets):
            try:
                done += self._tlsConnection.send(view[done : done + PIECE])
            except WantReadError:  # the handshake is not over
                self._bufferedWrite(octets[done:])
                return
            except Error:
                self._tlsShutdownFinished(Failure())
                return
            self._flushSendBIO()

    def _flushSendBIO(self) -> None:
        while True:
            try:
                encrypted = self._tlsConnection.bio_read(_ENCRYPTED)
            except WantReadError:
                return
            self.transport.write(encrypted)
            if len(encrypted) < _ENCRYPTED:
                return

    def _flushReceiveBIO(self) -> None:
        records: list[bytes] = []
        ending: Failure | None = None
        ended = False
        while not self._lostTLSConnection and not ended:
            try:
                records.append(self._tlsConnection.recv(_RECORD))
            except WantReadError:
                break
            except ZeroReturnError:
                ended = True
            except Error:
                ended, ending = True, Failure()
        if records and not self._aborted:
            self.wrappedProtocol.dataReceived(b"".join(records))
        if ended and not self._lostTLSConnection:
            if ending is None:
                self._shutdownTLS()
            self._tlsShutdownFinished(ending)
        self._flushSendBIO()


class WideTlsFactory(TLSMemoryBIOFactory):
    """Makes them; see :class:`TLSMemoryBIOFactory`."""

    protocol: Any = WideTls
