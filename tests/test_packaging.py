"""What is packaged: the Debian package and the image say what the rest of the project says."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.real_parts import need
from txtransfers import config
from txtransfers.errors import ConfigurationError

ROOT = Path(__file__).parent.parent
DEBIAN = ROOT / "debian"
HASH = "$scrypt$ln=15,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA==$" + "a" * 43 + "="


def version() -> str:
    found = re.search(r'version="(.+)"', (ROOT / "setup.py").read_text())
    assert found is not None
    return found[1]


class DebianTests(SynchronousTestCase):
    def test_the_version_is_that_of_the_project(self) -> None:
        first = (DEBIAN / "changelog").read_text().splitlines()[0]
        self.assertEqual(f"txtransfers ({version()}) bookworm; urgency=medium", first)

    def test_what_is_installed_is_there(self) -> None:
        for name in ("txtransfers.install", "txtransfers.docs"):
            for line in (DEBIAN / name).read_text().splitlines():
                self.assertTrue((ROOT / line.split()[0]).is_file(), line)

    def test_the_unit_runs_what_is_installed(self) -> None:
        unit = (ROOT / "etc" / "txtransfers.service").read_text()
        self.assertIn("ExecStart=/usr/bin/txtransfers -c /etc/txtransfers/txtransfers.json", unit)
        self.assertIn("debian/txtransfers.json etc/txtransfers", self.text("txtransfers.install"))
        self.assertIn("debian/launcher $(ROOT)/usr/bin/txtransfers", self.text("rules"))

    def text(self, name: str) -> str:
        return (DEBIAN / name).read_text()

    def test_the_first_configuration_is_safe(self) -> None:
        settings = config.load(str(DEBIAN / "txtransfers.json"), {})
        self.assertFalse(settings.remote_access_allowed)
        self.assertEqual((), settings.http_bind_addresses)
        self.assertEqual("/var/lib/txtransfers", settings.storage_directory)
        self.assertEqual(((), ()), (settings.warnings, settings.notices))

    def test_scripts_are_well_formed(self) -> None:
        for path in (DEBIAN / "txtransfers.postinst", DEBIAN / "txtransfers.postrm"):
            self.assertEqual(path.read_text().splitlines()[0], "#!/bin/sh")
            subprocess.run(["/bin/sh", "-n", path], check=True)
            self.assertIn("\n#DEBHELPER#\n", path.read_text())
        bash = need(self, "bash")
        for name in ("build-deb", "try-deb", "clean_root.sh"):
            subprocess.run([bash, "-n", ROOT / "packaging" / name], check=True)
        for path in (DEBIAN / "rules", ROOT / "packaging" / "build-deb"):
            self.assertTrue(os.stat(path).st_mode & stat.S_IXUSR, path)

    def test_a_purge_keeps_images(self) -> None:
        """The script as it is, on folders that stand for the system's."""
        for instances, audit, kept in ((True, True, 2), (True, False, 1), (False, False, 0)):
            root = Path(self.mktemp()).absolute()
            store, logs = root / "var/lib/txtransfers", root / "var/log/txtransfers"
            for folder in (store / "instances", logs, root / "etc/txtransfers"):
                folder.mkdir(parents=True)
            (root / "etc/txtransfers/environment").write_text("SECRET=x")
            if instances:
                (store / "instances" / "a").mkdir()
            if audit:
                (logs / "audit.log").touch()
                (logs / "audit.log.1").write_text("{}")
            script = self.text("txtransfers.postrm").replace("#DEBHELPER#", "")
            for name in ("/var/lib/", "/var/log/", "/etc/"):
                script = re.sub(rf"(?<=[\s])(?={re.escape(name)}txtransfers)", str(root), script)
            script = script.replace("getent passwd txtransfers", "false")
            done = subprocess.run(
                ["/bin/sh", "-c", script, "postrm", "purge"],
                capture_output=True,
                text=True,
                check=True,
            )
            self.assertEqual(kept, done.stdout.count("/var/"), done.stdout)
            self.assertEqual((instances, audit), (store.exists(), logs.exists()))
            self.assertFalse((root / "etc/txtransfers/environment").exists())
            shutil.rmtree(root)


class ImageTests(SynchronousTestCase):
    def setUp(self) -> None:
        text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
        lines = [line.split(None, 1) for line in text.splitlines()]
        self.steps = [(line[0], line[1]) for line in lines if line and line[0] != "#"]
        last = max(number for number, (word, _rest) in enumerate(self.steps) if word == "FROM")
        self.final = dict(self.steps[last:])

    def test_it_is_not_root_and_says_how_it_is(self) -> None:
        self.assertEqual("8042:8042", self.final["USER"])
        self.assertIn("/etc/txtransfers/healthy.py", self.final["HEALTHCHECK"])
        self.assertIn("--start-period", self.final["HEALTHCHECK"])
        self.assertEqual("SIGTERM", self.final["STOPSIGNAL"])
        self.assertEqual("/var/lib/txtransfers", self.final["VOLUME"])
        words = [word for word, _rest in self.steps]
        self.assertLess(words.index("USER"), words.index("ENTRYPOINT"))

    def test_what_is_copied_is_there_and_not_ignored(self) -> None:
        allowed = [
            line[1:]
            for line in (ROOT / ".dockerignore").read_text().splitlines()
            if line.startswith("!")
        ]
        for name in allowed:
            self.assertTrue((ROOT / name).exists(), name)
        copied = [
            name
            for word, rest in self.steps
            if word == "COPY" and not rest.startswith("--from")
            for name in rest.split()[:-1]
            if name != "."
        ]
        self.assertEqual(2, len(copied))
        named = re.findall(r"/source/(\S+)", (ROOT / "Dockerfile").read_text())
        for name in [*copied, *named]:
            self.assertTrue((ROOT / name).is_file(), name)
            self.assertTrue(any(name.startswith(each) for each in allowed), name)

    def test_what_setup_reads_is_in_the_image(self) -> None:
        allowed = (ROOT / ".dockerignore").read_text()
        for name in ("setup.py", "pyproject.toml", "README.md", "txtransfers"):
            self.assertIn(f"\n!{name}\n", allowed)

    def test_its_configuration_needs_a_user(self) -> None:
        path = str(ROOT / "packaging" / "container" / "txtransfers.json")
        error = self.assertRaises(ConfigurationError, config.load, path, {})
        self.assertIn("TXTRANSFERS_USER_HASH", str(error))
        settings = config.load(path, {"TXTRANSFERS_USER_HASH": HASH})
        self.assertTrue(settings.authentication_enabled)
        self.assertEqual("/var/lib/txtransfers", settings.storage_directory)
