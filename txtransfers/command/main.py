"""All commands, and the options that each of them has."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import click

from .. import __version__
from .place import Wishes

EPILOG = (
    "Without a command it is the daemon, in the foreground: txtransfers -c FILE [--no-jobs]."
    " Exit statuses: 0 only where all is well (of a transfer: it ended in Success), 1 it failed,"
    " 2 options or configuration, 3 the daemon cannot be used, 4 nothing or several of that name,"
    " 5 left running, 130 interrupted."
)

_DAEMON_OPTIONS = (
    click.option(
        "--url",
        envvar="TXTRANSFERS_URL",
        show_envvar=True,
        metavar="URL",
        help="The daemon's address; http://127.0.0.1:8042/ unless a configuration says otherwise.",
    ),
    click.option(
        "-c",
        "--config",
        envvar="TXTRANSFERS_CONFIG",
        show_envvar=True,
        metavar="FILE",
        type=click.Path(),
        help="The daemon's configuration, which tells its address and a user.",
    ),
    click.option(
        "--credentials",
        envvar="TXTRANSFERS_CREDENTIALS",
        show_envvar=True,
        metavar="FILE",
        type=click.Path(),
        help="A file with user:password, which nobody else can read. Or set TXTRANSFERS_USER and"
        " TXTRANSFERS_PASSWORD.",
    ),
    click.option(
        "--authorities",
        envvar="TXTRANSFERS_AUTHORITIES",
        show_envvar=True,
        metavar="FILE",
        type=click.Path(),
        help="Certificates in PEM that vouch for an https address, instead of the system's.",
    ),
    click.option("--json", "as_json", is_flag=True, default=None, help="JSON, for scripts."),
)
_NAMES = ("url", "config", "credentials", "authorities", "as_json")


def with_daemon(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command that talks to a daemon: it takes :class:`Wishes` first, and then its own options.

    The options stand before the command's name or after it.
    """

    @click.pass_context
    def command(context: click.Context, /, **values: Any) -> Any:
        mine = Wishes(**{name: values.pop(name) for name in _NAMES})
        before = context.find_object(Wishes) or Wishes()
        return function(mine.over(before), **values)

    wrapped: Callable[..., Any] = update_wrapper(command, function)
    for option in reversed(_DAEMON_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


class _Group(click.Group):
    """Lists its commands as they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added, which is that of a day's work."""
        return list(self.commands)


@click.group(
    cls=_Group,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="txtransfers", message="%(prog)s %(version)s")
@click.pass_context
def group(context: click.Context, /, **values: Any) -> None:
    """Move DICOM studies between Orthanc-style peers: ask a running daemon to, and see how it goes.

    A STUDY is named by its Orthanc ID, its StudyInstanceUID, an accession number or a patient's
    ID; a JOB by the beginning of its identifier.
    """
    context.obj = Wishes(**values)


for _option in reversed(_DAEMON_OPTIONS):
    _option(group)


def all_commands() -> click.Group:
    """The group, with its commands."""
    from . import archive, doctor, jobs, transfers  # noqa: PLC0415

    for command in (
        transfers.send,
        transfers.receive,
        jobs.jobs,
        *jobs.ACTIONS,
        jobs.receipt,
        archive.peers,
        archive.find,
        archive.import_,
        doctor.doctor,
        doctor.config,
    ):
        group.add_command(command)
    return group


def run() -> None:
    """Run the command that the words of the process name; ends the process."""
    all_commands()(prog_name="txtransfers")
