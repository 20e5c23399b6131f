"""The page in a real browser, with two real daemons: all that one can do, and what may go wrong."""

import io
import json
import signal
import zipfile
from pathlib import Path
from typing import Any

from demo import dataset
from demo.daemon import Daemon, free_ports
from tests.dicom_files import make
from tests.functional.live import LiveTestCase, peer_url, wait_until
from tests.functional.page_browser import ENTER, ESCAPE, TAB, PageBrowser, axe_script

SIZE = (1280, 900)
SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=\"document.title='attacked'\">"
SLOW = {"Bandwidth": {"Upload": "8M"}, "BucketSize": 64, "Delta": False}
ROW = "tbody tr"


class PageTestCase(LiveTestCase):
    """Two daemons, A and B; a browser that shows A's page."""

    def setUp(self) -> None:
        super().setUp()
        self.browser = PageBrowser(self, self.folder / "browser", SIZE)

    def start_both(self, **transfers: Any) -> None:
        port_a, port_b, nowhere = free_ports(3)
        peers = {
            "hospital": [peer_url(port_b)],
            "clinic": {"Url": peer_url(port_b), "RemoteSelf": "A"},
            "nobody": [peer_url(nowhere)],
        }
        settings = {"OrthancPeers": peers, "JobsHistorySize": 50, "Transfers": transfers}
        self.a = self.start("A", port_a, **settings)
        self.b = self.start("B", port_b, OrthancPeers={"A": [peer_url(port_a)]})

    def show(self, view: str = "", daemon: Daemon | None = None) -> None:
        """Open the page at a view, anew."""
        self.browser.open("about:blank")
        self.browser.open(f"{(daemon or self.a).url}transfers/explorer/#/{view}")
        self.browser.wait_for('#live[data-state="live"]')

    def says(self, selector: str, *words: str) -> str:
        """Wait until one of these elements has all the words; gives its text."""

        def look() -> str:
            texts = self.browser.texts(selector)
            return next((t for t in texts if all(word in t for word in words)), "")

        return str(wait_until(look, f"{words} in {selector}"))

    def is_quiet(self, expected: str = "nothing") -> None:
        """Nothing has made the browser complain, but answers of the status that was expected."""
        complaints = [each for each in self.browser.complaints() if expected not in each]
        self.assertEqual([], complaints)

    def upload_ct(self, count: int = 12, patient: str = "DEMO-CT") -> dict[str, Any]:
        files = dataset.ct_series(self.folder / patient, count, 512, 1, patient_id=patient)
        return self.upload(self.a, files)

    def job(self, daemon: Daemon | None = None) -> Any:
        """The only job."""
        (job,) = (daemon or self.a).client.get("/jobs?expand")
        return job


class ArchiveTests(PageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.start_both()

    def files(self) -> Path:
        folder = self.folder / "dropped"
        (folder / "inner").mkdir(parents=True)
        (folder / "one.dcm").write_bytes(make(1, patient="P1", PatientName="Doe^Jane"))
        (folder / "inner" / "two.dcm").write_bytes(
            make(1, study=2, patient="P2", PatientName="Roe^Richard", Modality="CT")
        )
        (folder / "inner" / "readme.txt").write_text("no DICOM")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for number in (1, 2):
                tags = {"PatientName": SCRIPT, "StudyDescription": IMAGE}
                archive.writestr(f"{number}.dcm", make(number, study=3, patient="P3", **tags))
        (folder / "three.zip").write_bytes(packed.getvalue())
        return folder

    def test_dropped_searched_sorted_and_looked_at(self) -> None:
        browser = self.browser
        browser.open(self.a.url)
        self.assertEqual(f"{self.a.url}transfers/explorer/", browser.url)
        self.says(".empty", "Nothing here yet")
        browser.drop([self.files()])
        self.says(".upload", "4 files", "4 stored", "1 are no DICOM")
        self.says(".total", "3 studies")
        self.assertEqual(4, len(self.a.client.get("/instances")))

        self.says(ROW, SCRIPT, IMAGE)
        browser.set("#find-PatientName", "doe")
        self.says(".total", "1 study")
        self.assertEqual(1, len(browser.texts(ROW)))
        self.says(ROW, "Doe, Jane", "P1")
        browser.set("#find-PatientName", "")
        browser.set("#find-ModalitiesInStudy", "ct")
        self.says(ROW, "Roe, Richard")
        browser.set("#find-ModalitiesInStudy", "")
        browser.set("#find-StudyDate", "2025-01 .. 2025-12")
        self.says(".empty", "Nothing matches")
        browser.set("#find-StudyDate", "")
        self.says(".total", "3 studies")

        browser.click_text("th button", "Patient name")
        browser.wait_for('th[aria-sort="ascending"]')
        self.says(f"{ROW}:first-child", "<script>")
        focused = browser.run("return document.activeElement.dataset.column")
        self.assertEqual("PatientName", focused)
        browser.click_text("th button", "Patient name")
        browser.wait_for('th[aria-sort="descending"]')
        self.says(f"{ROW}:first-child", "Roe, Richard")

        browser.click_text(f"{ROW} a", "<script>")
        self.says("h1", "Study", IMAGE)
        self.says(".facts", SCRIPT, "P3")
        browser.click_text(f"{ROW} a", "Series")
        self.says("h1", "Series")
        self.says(".total", "2 images")
        browser.click(f"{ROW} a")
        self.says("h1", "Image")
        self.says(ROW, "PatientName", SCRIPT)
        browser.click_text(".crumbs a", "<script>")
        self.says("h1", "Patient", "<script>")
        self.says(".total", "1 study")
        self.assertNotIn("attacked", browser.run("return document.title"))
        self.assertIsNone(browser.alert())
        self.is_quiet("/instances - Failed to load resource")  # readme.txt

    def test_what_is_typed_and_what_is_written(self) -> None:
        self.show("archive")
        for function, given, expected in (
            ("dates", "", ""),
            ("dates", "2026", "20260101-20261231"),
            ("dates", "2026-03", "20260301-20260331"),
            ("dates", "202603", "20260301-20260331"),
            ("dates", " 2026-03-05 ", "20260305"),
            ("dates", "20260305", "20260305"),
            ("dates", "20260305-20260401", "20260305-20260401"),
            ("dates", "-20260401", "-20260401"),
            ("dates", "2025 .. 2026-02", "20250101-20260231"),
            ("dates", "2025..", "20250101-"),
            ("dates", ".. 2026", "-20261231"),
            ("dates", "yesterday", None),
            ("dates", "..", None),
            ("dates", "-", None),
            ("dates", "2024 .. 2025 .. 2026", None),
            ("pattern", " doe ", "*doe*"),
            ("pattern", "doe*", "doe*"),
            ("pattern", " ", ""),
            ("person", "Doe^Jane^M^Dr=X=Y", "Doe, Jane M"),
            ("person", "^^", ""),
            ("size", 0, "0 B"),
            ("size", 999, "999 B"),
            ("size", 1000, "1.00 kB"),
            ("size", 999_999, "1.00 MB"),
            ("size", "123456789", "123 MB"),
            ("duration", 0.04, "0.0 s"),
            ("duration", 59.7, "1 min 0 s"),
            ("duration", 3600, "1 h 0 min"),
            ("duration", 90_000, "1 d 1 h"),
            ("duration", -1, "\N{EN DASH}"),
            ("milliseconds", 0.01, "< 0.1 ms"),
            ("milliseconds", 12.3, "12 ms"),
            ("day", "20260305", "2026-03-05"),
            ("day", "odd", "odd"),
        ):
            told = self.browser.call("format.js", function, given)
            self.assertEqual(expected, told, f"{function}({given!r})")

    def test_patients_and_files_that_are_chosen(self) -> None:
        browser = self.browser
        self.show("patients")
        browser.choose_files("#files", sorted(self.files().glob("*.dcm")))
        self.says(".upload", "1 file", "1 stored")
        self.says(ROW, "Doe, Jane", "P1")
        browser.choose_files("#files", [self.folder / "dropped" / "one.dcm"])
        self.says(".upload", "1 were there already")
        browser.click_text(".upload button", "Close")
        browser.click_text(f"{ROW} a", "Doe, Jane")
        self.says("h1", "Patient Doe, Jane")
        self.is_quiet()

    def test_pages(self) -> None:
        for number in range(53):
            path = self.folder / "page.dcm"
            name = f"N{number:02}"
            path.write_bytes(make(1, study=number, patient=name, PatientName=name))
            self.a.client.upload(path)
        self.show("archive")
        self.says(".pager", "50 of 53")
        self.says(f"{ROW}:first-child", "N52")
        self.browser.click(".pager [aria-label='Next page']")
        self.says(".pager", "51", "53 of 53")
        self.says(f"{ROW}:last-child", "N00")
        self.browser.click(".pager [aria-label='First page']")
        self.says(f"{ROW}:first-child", "N52")
        self.is_quiet()


class TransferTests(PageTestCase):
    def test_three_clicks(self) -> None:
        self.start_both()
        uploaded = self.upload_ct()
        browser = self.browser
        self.show()
        browser.click_text(f"{ROW} button", "Transfer")
        self.says("dialog .choice", "clinic", "Reachable", "pull")
        self.says("dialog .choice", "nobody", "Not reachable", "refused")
        browser.click_text("dialog .choice", "hospital")
        browser.click_text("dialog button", "Send")
        browser.click_text(".toast a", "Watch it")
        self.says(".badge", "Done")
        self.says("h1", "Müster, Demo-Ct (DEMO-CT)")
        self.assert_holds(self.b, uploaded)
        self.says(".facts", "to hospital", "12 stored")
        self.says("figcaption", "on average")
        self.says(".history", "Submitted", "Success")
        browser.click_text("button", "Receipt")
        self.says("dialog", "12 instances", "A sent to hospital")
        self.assertEqual(12, len(browser.texts(f"dialog {ROW}")))
        link = browser.run("return document.querySelector('dialog a[download]').href")
        receipt = self.a.client.get(link.removeprefix(self.a.url[:-1]))
        self.assertEqual(set(uploaded), {each["ID"] for each in receipt["Instances"]})
        self.is_quiet()

    def test_asked_to_pull_and_several_at_once(self) -> None:
        self.start_both()
        uploaded = self.upload_ct(3, "ONE") | self.upload_ct(3, "TWO")
        browser = self.browser
        self.show()
        self.says(".total", "2 studies")
        for place in (1, 2):
            browser.click(f"{ROW}:nth-child({place}) input")
        self.says(".selected", "2 studies chosen")
        browser.click_text(".selected button", "Transfers accelerator")
        self.says("dialog", "2 studies")
        browser.click_text("dialog .choice", "clinic")
        browser.click_text("dialog button", "Send")
        self.says(".toast", "clinic was asked to pull")
        wait_until(lambda: self.job(self.b)["State"] == "Success", "the pull of B")
        self.assert_holds(self.b, uploaded)
        self.show("transfers", self.b)
        self.says(ROW, "Done", "from A")
        self.is_quiet()

    def test_paused_hurried_cancelled_and_resubmitted(self) -> None:
        self.start_both(**SLOW)
        uploaded = self.upload_ct()
        study = next(iter(uploaded.values()))["ParentStudy"]
        job = self.submit(self.a, "send", [{"Level": "Study", "ID": study}], "hospital")
        browser = self.browser
        self.show("transfers")
        self.says(ROW, "Running", "left", "on average", "of 12 instances")
        browser.click_text(f"{ROW} button", "Pause")
        self.says(ROW, "Paused")
        self.assertEqual("Paused", self.job()["State"])
        browser.click_text(f"{ROW} a", "Müster")
        browser.set("#priority", "7")
        browser.click_text("form button", "Set")
        wait_until(lambda: self.job()["Priority"] == 7, "the priority")
        browser.click_text("button", "Resume")
        self.says(".badge", "Running")
        self.says(".facts", "of up to")
        browser.click_text("button", "Cancel")
        self.says(".badge", "Cancelled")
        self.a.client.request("PUT", "/transfers/bandwidth", b'{"Upload": 0}')
        browser.click_text("button", "Resubmit")
        self.says(".badge", "Done")
        self.assertEqual(job, self.job()["ID"])
        self.assert_holds(self.b, uploaded)
        self.is_quiet()

    def test_one_that_fails(self) -> None:
        self.start_both(MaxHttpRetries=0)
        uploaded = self.upload_ct(2)
        study = next(iter(uploaded.values()))["ParentStudy"]
        self.show("transfers")
        self.says(".empty", "No transfers yet")
        self.submit(self.a, "send", [{"Level": "Study", "ID": study}], "nobody")
        self.says(ROW, "Failed", "connection refused", "is it running")
        self.says(".toast.bad", "Failed")
        self.browser.click_text(".tab", "Done")
        self.says(".empty", "No transfer of this kind")
        self.browser.click_text(".tab", "Failed")
        self.browser.click_text(f"{ROW} a", "Müster")
        self.says(".advice", "Why it failed", "connection refused")
        self.browser.click_text("button", "Receipt")
        self.says(f"dialog {ROW}", "not transferred")
        self.is_quiet()


class PeerTests(PageTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.start_both(PeerConnectivityTimeout=5)

    def test_received(self) -> None:
        path = self.folder / "far.dcm"
        for number, name in enumerate(["Doe^Jane", SCRIPT]):
            path.write_bytes(make(1, study=number, patient=f"F{number}", PatientName=name))
            self.b.client.upload(path)
        browser = self.browser
        self.show("peers")
        browser.click("a[href='#/receive/hospital']")
        self.says(".total", "2 studies")
        self.says(ROW, SCRIPT)
        browser.set("#find-PatientName", "jane")
        self.says(".total", "1 study")
        self.says(ROW, "Doe, Jane", "F0", "no")
        browser.click_text(f"{ROW} button", "Receive")
        self.says(ROW, "Doe, Jane", "yes")
        self.assertEqual(1, len(self.a.client.get("/studies")))
        self.assertEqual("Doe, Jane (F0): 2026-01-01", self.job()["Content"]["Description"])

        (other,) = self.b.client.post(
            "/tools/find", {"Level": "Study", "Query": {"PatientID": "F1"}}
        )
        browser.click("summary")
        browser.set("#orthanc-id", other)
        browser.click_text(".known button", "Receive")
        wait_until(lambda: len(self.a.client.get("/studies")) == 2, "the other study")
        browser.run("location.hash = '#/receive/nobody'")
        self.says(".error", "connection refused")
        self.is_quiet("status of 502")

    def test_tried_step_by_step(self) -> None:
        browser = self.browser
        self.show("peers")
        self.says(ROW, "hospital", "Reachable", "txtransfers", "push", "ms")
        self.says(ROW, "nobody", "Not reachable", "connection refused")
        for peer in ("clinic", "nobody"):
            browser.click(f"button[aria-label='Test {peer}']")
        self.says(".result", "clinic: all is well", "Answers lookup", 'it reaches us as "A"')
        self.says(".result", "nobody: something is in the way", "Is the peer running?")
        self.is_quiet()


class LineTests(PageTestCase):
    def test_a_daemon_that_is_restarted_while_the_page_is_open(self) -> None:
        self.start_both(**SLOW)
        uploaded = self.upload_ct()
        resources = [{"Level": "Study", "ID": next(iter(uploaded.values()))["ParentStudy"]}]
        self.show("transfers")
        self.submit(self.a, "send", resources, "hospital")
        self.says(ROW, "Running")
        self.end(self.a, signal.SIGTERM)
        self.browser.wait_for('#live[data-state="lost"]')
        self.says("#live", "Reconnecting")
        self.says(ROW, "Running")
        self.a = self.again(self.a)
        self.browser.wait_for('#live[data-state="live"]')
        self.a.client.request("PUT", "/transfers/bandwidth", b'{"Upload": 0}')
        self.says(ROW, "Done", "hospital")
        self.submit(self.a, "send", resources, "hospital", Description="After the restart")
        self.says(ROW, "After the restart", "Done")
        self.assertEqual(2, len(self.browser.texts(ROW)))
        self.assert_holds(self.b, uploaded)

    def test_without_an_archive(self) -> None:
        """Told so before the scripts of the page begin, as it would be by a gateway."""
        self.start_both()
        tell = "document.addEventListener('readystatechange',"
        tell += " () => { document.documentElement.dataset.archive = 'no' })"
        self.browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=tell)
        self.show("archive")
        self.says("h1", "Transfers")
        self.assertEqual(["Transfers", "Peers"], self.browser.texts("#nav a"))
        self.browser.click_text("#nav a", "Peers")
        self.says(ROW, "hospital", "Reachable")
        self.assertEqual([], [t for t in self.browser.texts("a, button") if "Receive" in t])
        self.is_quiet()

    def test_with_a_password(self) -> None:
        (port,) = free_ports(1)
        users = {"AuthenticationEnabled": True, "RegisteredUsers": {"us": "secret"}}
        a = self.start("A", port, **users)
        self.browser.open(f"http://us:secret@127.0.0.1:{port}/")
        self.browser.wait_for('#live[data-state="live"]')
        self.says(".total", "0 studies")
        path = self.folder / "x.dcm"
        path.write_bytes(make())
        self.browser.choose_files("#files", [path])
        self.says(".upload", "1 stored")
        self.says(".total", "1 study")
        self.assertTrue(a.url)


class AccessTests(PageTestCase):
    def test_axe_finds_nothing(self) -> None:
        self.start_both(MaxHttpRetries=0)
        uploaded = self.upload_ct(3)
        one = next(iter(uploaded.values()))
        resources = [{"Level": "Study", "ID": one["ParentStudy"]}]
        axe = axe_script(self)
        good = self.submit(self.a, "send", resources, "hospital")
        bad = self.submit(self.a, "send", resources, "nobody")
        self.wait_for(self.a, good)
        self.wait_for(self.a, bad, "Failure")
        views = {
            "archive": (".total", "1 study"),
            "patients": (".total", "1 patient"),
            f"study/{one['ParentStudy']}": (".total", "1 series"),
            f"series/{one['ParentSeries']}": (".total", "3 images"),
            f"instance/{one['ID']}": ("h1", "Image"),
            "transfers": (ROW, "Failed"),
            f"transfer/{good}": (".history", "Success"),
            f"transfer/{bad}": (".advice", "refused"),
            "receive/hospital": (".total", "1 study"),
            "peers": (ROW, "hospital"),
        }
        for view, (selector, words) in views.items():
            self.show(view)
            self.says(selector, words)
            if view == "archive":
                self.browser.run("document.body.append(document.createElement('img'))")
                self.assertIn("image-alt", str(self.browser.violations(axe)))
                self.browser.run("document.body.lastChild.remove()")
            for scheme, width in (("light", 1280), ("dark", 360)):
                self.browser.colours(scheme)
                self.browser.resize(width, 800)
                self.assertEqual([], self.browser.violations(axe), (view, scheme, width))
                wide = self.browser.run("return document.documentElement.scrollWidth > innerWidth")
                self.assertFalse(wide, (view, width))
            self.browser.resize(*SIZE)
        self.show("archive")
        self.browser.click_text(f"{ROW} button", "Transfer")
        self.says("dialog .choice", "hospital")
        self.assertEqual([], self.browser.violations(axe))
        self.is_quiet()

    def test_with_keys_alone(self) -> None:
        self.start_both()
        self.upload_ct(1)
        browser = self.browser
        self.show("archive")
        self.says(".total", "1 study")
        focus = "return document.activeElement.textContent"
        browser.press(TAB)
        self.assertIn("Skip", browser.run(focus))
        for _ in range(40):
            browser.press(TAB)
            if browser.run(focus) == "Transfer":
                break
        self.assertEqual("Transfer", browser.run(focus))
        browser.press(ENTER)
        self.says("dialog .choice", "hospital")
        browser.press(ESCAPE)
        wait_until(lambda: not browser.texts("dialog"), "the dialog is closed")
        self.assertEqual("Transfer", browser.run(focus))
        browser.press(ENTER)
        self.says("dialog .choice", "hospital")
        browser.press("\ue015")  # down, to the next peer
        browser.press(ENTER)
        self.says(".toast", "hospital")
        wait_until(lambda: self.job()["State"] == "Success", "the job")
        self.is_quiet()

    def test_colours_are_remembered(self) -> None:
        self.start_both()
        self.show("peers")
        for wanted in ("Light", "Dark"):
            self.browser.click("#theme")
            self.says("#theme", wanted)
        self.show("transfers")
        self.says("#theme", "Dark")
        ground = self.browser.run("return getComputedStyle(document.body).backgroundColor")
        self.assertEqual("rgb(16, 18, 22)", ground)
        stored = json.loads(self.browser.run("return JSON.stringify({...localStorage})"))
        self.assertEqual({"theme": "dark"}, stored)
