"""Makes the pictures of docs/tour.md anew: ``python -m twisted.trial tests.functional.tour``."""

import random
from pathlib import Path

from demo import dataset
from demo.daemon import ROOT, free_ports
from tests.dicom_files import make
from tests.functional.live import peer_url, wait_until
from tests.functional.test_page import ROW, PageTestCase

FOLDER = ROOT / "docs" / "tour"
SIZE = (1060, 640)
FAMILIES = ["Müller", "García", "Chen", "Kowalski", "O'Brien", "Rossi", "Dubois", "Novák"]
GIVEN = ["Anna", "Bruno", "Chiara", "David", "Elif", "Frida", "Georg", "Hana"]
STUDIES = {"CT": "CT abdomen", "MR": "MR head", "DX": "Chest PA", "US": "US thyroid"}
_SEED = 11


class TourPictures(PageTestCase):
    def test_pictures(self) -> None:
        port_a, port_b, nowhere = free_ports(3)
        peers = {
            "hospital": [peer_url(port_b)],
            "clinic": {"Url": peer_url(port_b), "RemoteSelf": "radiology"},
            "old-archive": [peer_url(nowhere)],
        }
        slow = {"Bandwidth": {"Upload": "16M"}, "BucketSize": 128, "Delta": False}
        self.a = self.start("Radiology", port_a, OrthancPeers=peers, Transfers=slow)
        self.b = self.start("Hospital", port_b, OrthancPeers={"radiology": [peer_url(port_a)]})
        uploaded = self.fill()
        self.browser.resize(*SIZE)

        self.show("archive")
        self.says(".total", "26 studies")
        self.browser.click_text(f"{ROW}:nth-child(3) button", "Transfer")
        self.says("dialog .choice", "hospital")
        self.keep("archive")

        self.browser.colours("dark")
        study = {"Level": "Study", "ID": next(iter(uploaded.values()))["ParentStudy"]}
        job = self.submit(self.a, "send", [study], "hospital", Compression="gzip")
        self.show(f"transfer/{job}")
        wait_until(lambda: self.a.client.get(f"/jobs/{job}")["Progress"] > 60, "most of it")
        self.keep("transfer")

        self.browser.colours("light")
        self.show("peers")
        for peer in ("clinic", "old-archive"):
            self.browser.click(f"button[aria-label='Test {peer}']")
        self.says(".result", "old-archive: something")
        self.says(".result", "clinic: all is well")
        self.keep("peers")

    def fill(self) -> dict[str, dict[str, str]]:
        """Studies of different people; gives the instances of a large one."""
        chance = random.Random(_SEED)
        path = self.folder / "one.dcm"
        for number in range(25):
            modality, what = chance.choice(list(STUDIES.items()))
            data = make(
                study=number,
                patient=f"PAT{number // 2:05}",
                filler=chance.randint(2000, 90_000),
                PatientName=f"{chance.choice(FAMILIES)}^{chance.choice(GIVEN)}",
                PatientBirthDate=f"19{chance.randint(30, 99)}0{chance.randint(1, 9)}17",
                StudyDate=f"202{chance.randint(0, 6)}0{chance.randint(1, 9)}23",
                StudyDescription=what,
                Modality=modality,
                SpecificCharacterSet="ISO_IR 192",
            )
            path.write_bytes(data)
            self.a.client.upload(path)
        files = dataset.ct_series(self.folder / "ct", 80, 512, 1, patient_id="DEMO-CT")
        return self.upload(self.a, files)

    def keep(self, name: str) -> None:
        FOLDER.mkdir(exist_ok=True)
        self.browser.screenshot(Path(FOLDER / f"{name}.png"))
