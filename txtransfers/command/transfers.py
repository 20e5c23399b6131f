"""``send`` and ``receive``: ask for a transfer, and stay until it has ended."""

from collections.abc import Sequence
from typing import Any, Protocol

import click

from ..client import Client, Compression, Job, Resource, Sent, find_studies
from ..client.names import IArchive
from ..errors import TransfersError
from . import completion
from .main import with_daemon
from .remote import at_peer, remote_job
from .session import Interrupted, Session, ask, perform
from .show import TransferView, summary
from .status import FAILED, SUCCESS, LeftRunning

_LINE_S = 1.0
_BAR_S = 0.5

CANCEL, LEAVE, WAIT = "cancel", "leave", "wait"

_COMMON = (
    click.argument("studies", metavar="STUDY...", nargs=-1, required=True),
    click.option(
        "--all", "take_all", is_flag=True, help="Where a name means several studies: all of them."
    ),
    click.option(
        "--compression",
        type=click.Choice(["auto", "gzip", "none"]),
        help="How it travels. Without it: auto, or gzip if the daemon is an Orthanc.",
    ),
    click.option(
        "--priority",
        type=int,
        default=0,
        show_default=True,
        help="The highest goes first.",
    ),
)


def _with_common(function: Any) -> Any:
    for option in reversed(_COMMON):
        function = option(function)
    return function


@click.command()
@click.option(
    "--to",
    "peer",
    required=True,
    metavar="PEER",
    shell_complete=completion.peers,
    help="Who gets it: a name in the daemon's OrthancPeers.",
)
@_with_common
@with_daemon
def send(wishes: Any, peer: str, **options: Any) -> None:
    """Send studies to a peer, and wait until they are verified and stored there.

    All studies of one command are one transfer: all of it arrives, or nothing. Where the peer
    pulls (RemoteSelf), its job is followed there if it can be reached from here.
    """

    async def work(session: Session) -> int:
        resources = await _resources(session.client, options)
        compression = await _compression(session.client, options)
        sent = await session.shielded(
            session.client.send(resources, peer, compression, options["priority"])
        )
        return await _see_to_its_end(session, sent, peer)

    perform(wishes, work)


@click.command()
@click.option(
    "--from",
    "peer",
    required=True,
    metavar="PEER",
    shell_complete=completion.peers,
    help="Who has it: a name in the daemon's OrthancPeers.",
)
@_with_common
@with_daemon
def receive(wishes: Any, peer: str, **options: Any) -> None:
    """Fetch studies from a peer, and wait until they are verified and stored here.

    All studies of one command are one transfer. Names are looked up at the peer; where it cannot
    be asked from here, only the Orthanc ID of a study can be given.
    """

    async def work(session: Session) -> int:
        async with at_peer(session, peer) as archive:
            resources = await _resources(archive, options)
        compression = await _compression(session.client, options)
        sent = await session.shielded(
            session.client.receive(resources, peer, compression, options["priority"])
        )
        return await _see_to_its_end(session, sent, peer)

    perform(wishes, work)


async def _resources(archive: IArchive, options: dict[str, Any]) -> Sequence[Resource]:
    found: dict[Resource, None] = {}
    for name in options["studies"]:
        for resource in await find_studies(archive, name, options["take_all"]):
            found[resource] = None
    return list(found)


async def _compression(client: Client, options: dict[str, Any]) -> Compression:
    if options["compression"] is not None:
        return Compression(options["compression"])
    is_ours = "TxtransfersVersion" in await client.system()
    return Compression.AUTO if is_ours else Compression.GZIP


async def _see_to_its_end(session: Session, sent: Sent, peer: str) -> int:
    if sent.job:
        return await follow(session, _Own(session.client), sent.job)
    async with remote_job(session, sent, peer) as client:
        try:
            await client.job(sent.remote_job)
        except TransfersError as error:
            raise LeftRunning(
                f'"{peer}" pulls, in its job {sent.remote_job}, which cannot be followed from'
                f" here: {error}"
            ) from None
        return await follow(session, _Own(client), sent.remote_job)


class IFollowed(Protocol):
    """Where a job is."""

    client: Client


class _Own:
    def __init__(self, client: Client) -> None:
        self.client = client


async def follow(session: Session, where: IFollowed, id_: str) -> int:
    """Show a job until it has ended; gives the exit status.

    Ctrl-C asks whether to cancel it or leave it running; where nobody can be asked, it is left.
    """
    client, view = where.client, TransferView(session.screen)
    every = _BAR_S if session.screen.is_terminal else _LINE_S
    while True:
        try:
            job = await session.interruptible(
                client.follow(id_, view.show, every=every, on_trouble=view.trouble)
            )
            break
        except Interrupted:
            view.close()
            choice = _ask(session)
            if choice == LEAVE:
                raise LeftRunning(
                    f"The transfer goes on as job {id_}. txtransfers jobs --watch {id_[:8]} shows"
                    f" it, txtransfers cancel {id_[:8]} ends it"
                ) from None
            if choice == CANCEL:
                await client.cancel(id_)
                job = await client.job(id_)
                break
        finally:
            view.close()
    return tell_end(session, [job])


def _ask(session: Session) -> str:
    if not session.screen.can_ask:
        return LEAVE
    return ask(
        "Interrupted. Cancel the transfer, leave it running, or wait on",
        [CANCEL, LEAVE, WAIT],
        LEAVE,
    )


def tell_end(session: Session, jobs: Sequence[Job]) -> int:
    """Say how jobs have ended; gives the exit status."""
    if session.screen.as_json:
        raw = [job.raw for job in jobs]
        session.screen.json(raw[0] if len(raw) == 1 else raw)
    for job in jobs:
        session.screen.say(summary(job), "green" if job.is_success else "red")
    return exit_status(jobs)


def exit_status(jobs: Sequence[Job]) -> int:
    """That of jobs that have ended."""
    return SUCCESS if all(job.is_success for job in jobs) else FAILED
