"""Orthanc's own pages, in a real browser, through the gateway: the button, and what it does."""

from pathlib import Path

from demo import dataset
from demo.daemon import free_ports
from tests.functional.browser import Browser
from tests.functional.gateways import GatewayTestCase
from tests.functional.live import peer_url, study_of, wait_until

SIZE = (960, 720)


class ExplorerTests(GatewayTestCase):
    def setUp(self) -> None:
        super().setUp()
        port_a, port_b, nowhere = free_ports(3)
        peers = {
            "hospital": [peer_url(port_b)],
            "clinic": {"Url": peer_url(port_b), "RemoteSelf": "gateway"},
            "nobody": [peer_url(nowhere)],
        }
        self.shown = self.gateway("A", self.orthanc("A"), port_a, OrthancPeers=peers)
        self.other = self.start("B", port_b, OrthancPeers={"gateway": [peer_url(port_a)]})
        self.uploaded = self.upload(self.shown, dataset.shipped(3)[:1])
        self.study = study_of(next(iter(self.uploaded.values())))[0]["ID"]
        self.browser = Browser(self, self.folder / "browser", SIZE)

    def keep(self, name: str) -> None:
        """A screenshot, in the folder where the tests run."""
        self.browser.screenshot(Path(f"explorer-{name}.png").absolute())

    def open_page(self, page: str, uuid: str) -> None:
        self.browser.open(f"{self.shown.url}app/explorer.html#{page}?uuid={uuid}")

    def send_to(self, peer: str, level: str = "study") -> str:
        """Click through; gives the job whose page is shown."""
        self.browser.click(f"#{level}-transfers")
        self.browser.click(f'[data-transfers-peer="{peer}"] a')
        return self.job_shown()

    def job_shown(self) -> str:
        """The job whose page is shown."""
        wait_until(lambda: "#job?uuid=" in self.browser.url, "the job's page")
        return self.browser.url.split("uuid=")[1]

    def test_a_study_is_sent(self) -> None:
        self.open_page("study", self.study)
        self.browser.wait_for("#study-transfers")
        self.keep("study")
        self.browser.click("#study-transfers")
        rows = {
            peer: self.browser.text(f'[data-transfers-peer="{peer}"]').strip()
            for peer in ("hospital", "clinic", "nobody")
        }
        self.assertEqual("hospital", rows["hospital"])
        self.assertEqual("clinic (bidirectional)", rows["clinic"])
        self.assertIn("not available", rows["nobody"])
        disabled = self.browser.run(
            "return [...document.querySelectorAll('[data-transfers-peer].ui-disabled')]"
            ".map(e => e.getAttribute('data-transfers-peer'))"
        )
        self.assertEqual(["nobody"], disabled)
        self.keep("peers")
        self.browser.click('[data-transfers-peer="hospital"] a')
        self.wait_for(self.shown, self.job_shown())
        shown = self.browser.url
        self.browser.open("about:blank")
        self.browser.open(shown)
        wait_until(lambda: "State: Success" in self.browser.text("#job-info"), "success is told")
        self.assertIn("gzip", self.browser.text("#job-info"))
        self.keep("job")
        self.assert_holds(self.other, self.uploaded)
        self.assertEqual([], self.browser.complaints())

    def test_a_patient_and_a_series(self) -> None:
        told = next(iter(self.uploaded.values()))
        for page, parent in (("patient", "ParentPatient"), ("series", "ParentSeries")):
            self.open_page(page, told[parent])
            job = self.wait_for(self.shown, self.send_to("hospital", page))
            resource = {"Level": page.title(), "ID": told[parent]}
            self.assertEqual([resource], job["Content"]["Resources"])
            self.browser.open("about:blank")

    def test_a_peer_that_pulls(self) -> None:
        """Its job is the peer's; a job here follows it, and has a page."""
        self.open_page("study", self.study)
        job = self.wait_for(self.shown, self.send_to("clinic"))
        self.assertEqual("RemotePullTransfer", job["Type"])
        self.assertEqual("Success", job["Content"]["RemoteState"])
        remote = self.wait_for(self.other, job["Content"]["RemoteJob"])
        self.assertEqual("PullTransfer", remote["Type"])
        self.assert_holds(self.other, self.uploaded)
