"""A disk on a server that asks for a secret: the plugin's way to the proxy, and nowhere else."""

from __future__ import annotations

import json
import random
from pathlib import Path

from lab.certificates import make_certificates
from lab.installation import Installation
from lab.nginx import nginx

MIB = 1 << 20
COOKIE = "session=5c1a7e0b2d"


def test_a_session_reads_a_disk_with_the_secret_that_its_plugin_gave(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    root = tmp_path / "root"
    root.mkdir()
    content = random.Random(3).randbytes(3 * MIB)
    (root / "disk").write_bytes(content)
    login = f'location /disk {{ if ($http_cookie != "{COOKIE}") {{ return 403; }} }}'
    with nginx(tmp_path / "nginx", root, made, login) as port:
        house = Installation(tmp_path / "home", plugins=("lab.web_plugin",))
        url = f"https://localhost:{port}"
        config = house.agent_config.read_text()
        house.agent_config.write_text(config.replace("[proxy]\n", f'[proxy]\nservers = ["{url}"]\n'))
        try:
            house.enrol()
            secret = tmp_path / "secret"
            secret.touch(0o600)
            secret.write_text(f"cookie={COOKIE}\n")
            options = {"url": f"{url}/disk", "size_bytes": len(content), "certificate_sha256": made.fingerprint}
            named = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
            house.holdfast("server", "add", "web", "--plugin", "web", *named, "--secret-file", secret)
            house.add_repository("main", encrypted=True)
            place = ("--server", "web", "--include", "*", "--repository", "main")
            house.holdfast("job", "create", "web", *place)
            report = house.run_job("web")
            house.restore_disk("vm", report["points"][0]["sid"], house.out / "restored")
            assert (house.out / "restored").read_bytes() == content, "another disk came back"
            assert COOKIE not in json.dumps(report)
        finally:
            house.stop_agent()
    told = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and COOKIE.encode() in path.read_bytes()]
    assert told == [], "the secret was written down"
