"""The client of a daemon's REST API: public, for programs on Twisted; the command is made of it.

.. code-block:: python

    from twisted.internet.task import react
    from txtransfers.client import Client, Level, Resource

    async def main(reactor):
        client = Client(reactor, "http://127.0.0.1:8042/", user="alice", password="...")
        try:
            (study,) = await client.find(Level.STUDY, {"AccessionNumber": "A1234"})
            sent = await client.send([Resource(Level.STUDY, study.id)], "B")
            job = await client.follow(sent.job, lambda job: print(f"{job.fraction:.0%}"))
            print(job.state, job.error)
        finally:
            await client.close()

    react(main)

Every coroutine fails with an error of :mod:`txtransfers.errors` whose text is a sentence for a
person: :class:`~txtransfers.errors.DaemonUnreachable` (no answer),
:class:`~txtransfers.errors.AccessDenied` (401, 403), :class:`~txtransfers.errors.DaemonRefused`
(any other status), :class:`~txtransfers.errors.DaemonNonsense` (an answer of another form), and
where that is told :class:`~txtransfers.errors.UnknownJob`,
:class:`~txtransfers.errors.UnknownResource` and :class:`~txtransfers.errors.Ambiguous`. Sizes are
bytes, times are seconds.
"""

from ..wire.messages import Compression, Level, Resource
from .daemon import Client
from .importing import Imported, Importer
from .names import find_job, find_studies
from .rate import Rate
from .values import Found, Job, Peer, Sent, Stored

__all__ = [
    "Client",
    "Compression",
    "Found",
    "Imported",
    "Importer",
    "Job",
    "Level",
    "Peer",
    "Rate",
    "Resource",
    "Sent",
    "Stored",
    "find_job",
    "find_studies",
]
