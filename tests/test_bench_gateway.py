"""The daemons of ``bench.gateway`` can be configured as it wants, on loopback and on a link."""

import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.gateway import gateway_settings
from demo.daemon import Loopback, Place, peers_of
from demo.orthanc import Orthanc
from txtransfers.config import load


class Remote(Loopback):
    """The host at the end of a link."""

    address = "192.0.2.1"


class SettingsTests(SynchronousTestCase):
    def test_they_are_accepted(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        places: tuple[Place, ...] = (Loopback(), Remote())
        for place in places:
            orthanc = Orthanc("A", folder / "orthanc", 8142, {}, place)
            peers = peers_of("A", "B", "http://192.0.2.2:8043/")
            path = folder / f"{place.address}.json"
            path.write_text(json.dumps(gateway_settings(place, orthanc, peers)))
            self.assertEqual(load(str(path), {}).http_bind_addresses, (place.address,))
