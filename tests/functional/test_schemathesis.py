"""schemathesis asks a real daemon whatever its description allows, and what it does not."""

import os
import subprocess
import sys
from pathlib import Path

from demo import dataset
from demo.daemon import free_ports
from tests.functional.live import LiveTestCase, study_of
from tests.real_parts import do_without
from txtransfers.web.openapi import describe

_EXAMPLES = 3
"""Requests of each operation and kind: the tests have seconds for all of them."""

_PHASES = os.environ.get("TXTRANSFERS_SCHEMATHESIS", "fuzzing")
"""``coverage,fuzzing`` is thorough, and takes half a minute more."""

_LEVELS = (("patients", "Patient"), ("studies", "Study"), ("series", "Series"))
_LEFT_OUT = (
    "/transfers/events",  # which never ends
    # By the protocol, what does not fit its push is a 500; and a commit may wait for half a minute.
    "/transfers/push/{transaction}/{bucket}",
    "/transfers/push/{transaction}/commit",
    "/transfers/peers/{peer}/find",  # whose peer is not there: 502
)
_PATIENCE_S = 300


class SchemathesisTests(LiveTestCase):
    def test_no_answer_is_another_than_described(self) -> None:
        program = Path(sys.executable).parent / "schemathesis"
        if not program.exists():
            do_without(self, "schemathesis")
        port, own = free_ports(2)
        peers = {"B": [f"http://127.0.0.1:{own}/"]}  # nobody is there
        transfers = {"PeerConnectivityTimeout": 0.1}
        daemon = self.start("A", port, OrthancPeers=peers, Transfers=transfers)
        uploaded = self.upload(daemon, dataset.shipped(2))
        told = next(iter(uploaded.values()))
        job = self.submit(daemon, "send", study_of(told))
        self.wait_for(daemon, job, "Failure")
        self.known(
            {**{level: told[f"Parent{name}"] for level, name in _LEVELS}, "instances": told["ID"]},
            job,
        )
        checks = "not_a_server_error,status_code_conformance,content_type_conformance"
        done = subprocess.run(
            [
                program,
                *("run", f"{daemon.url}transfers/openapi.json", "--url", daemon.url),
                *("--checks", f"{checks},response_schema_conformance,response_headers_conformance"),
                *("--phases", _PHASES, "--max-examples", str(_EXAMPLES)),
                *("--seed", "1", "--generation-deterministic"),
                *(part for path in _LEFT_OUT for part in ("--exclude-path", path)),
                *("--request-timeout", "20", "--no-color", "--continue-on-failure"),
            ],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        self.assertEqual(0, done.returncode, (done.stdout + done.stderr)[-20_000:])
        self.assertRegex(done.stdout, r"[1-9][0-9]+ generated, [0-9]+ passed")
        for path in ("/studies/{id}", "/instances/{id}/file", "/jobs/{job}", "/peers/{peer}"):
            self.assertNotIn(f"GET {path}\n", done.stdout, "all it asked for was not there")

    def known(self, ids: dict[str, str], job: str) -> None:
        """Let it ask for what there is; what is deleted is not that."""
        lines = ["[parameters]", '"path.peer" = "B"', f'"path.job" = "{job}"']
        lines.append(f'"path.ids" = "{ids["instances"]}"')
        paths = (path for path in describe(False)["paths"] if "{id}" in path)
        for path in paths:
            lines += ["[[operations]]", f'include-name = "GET {path}"']
            lines.append(f'parameters = {{ id = "{ids[path.split("/")[1]]}" }}')
        (self.folder / "schemathesis.toml").write_text("\n".join(lines))
