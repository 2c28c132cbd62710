"""The two commands of the README on a machine that has nothing but what the README names, as an ordinary user.

`make soak` runs it: the Debian is bootstrapped the first time, and all that the project needs is fetched from PyPI.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from lab.debian import run_in_debian

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
AUTHORITIES = "/authorities.crt"
STEPS = """
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 HOME=/root
cp /shared/sources.list /etc/apt/sources.list
apt-get -qq update
{install} --yes --no-install-recommends -qq >/dev/null
useradd --create-home --shell /bin/sh stranger
tar -C /home/stranger -xf /shared/source.tar
chown -R stranger: /home/stranger
cat >/tmp/as-a-stranger <<'END'
set -eu
cd /home/stranger/holdfast
make demo
echo "== tests"
make test TESTS=tests/unit ARGS="-k 'tree or retention or docs'"
echo "== left over"
find /tmp /var/tmp /dev/shm -user stranger -type f
END
runuser -u stranger -- env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/home/stranger {registry} sh /tmp/as-a-stranger
"""


def sources(file: Path) -> None:
    """The work tree as a clone has it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(file, "w") as archive:
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).exists():
                archive.add(ROOT / name, f"holdfast/{name}", recursive=False)


def registry() -> tuple[str, list[str]]:
    """How this machine's pip fetches: variables of the environment, and options of systemd-nspawn for them."""
    listed = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    found = dict(re.findall(r"^[a-z:]+\.(index-url|proxy|cert)='(.+)'$", listed, re.MULTILINE))
    binds = [f"--bind-ro={found['cert']}:{AUTHORITIES}"] if "cert" in found else []
    told = found | ({"cert": AUTHORITIES} if binds else {})
    return " ".join(f"PIP_{key.upper().replace('-', '_')}={value}" for key, value in told.items()), binds


@pytest.mark.timeout(1800)
def test_the_two_commands_of_the_readme(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (install,) = re.findall(r"`(apt install [^`]+)`", readme)
    assert readme.index("make demo") < readme.index("make test")
    sources(tmp_path / "source.tar")
    mirror = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm", "Created-By: Packages"],
        check=True, capture_output=True, text=True,
    ).stdout.split()[0]  # fmt: skip
    (tmp_path / "sources.list").write_text(f"deb {mirror} bookworm main\n")
    tmp_path.chmod(0o755)
    variables, binds = registry()
    script = STEPS.format(install=install.replace("apt ", "apt-get "), registry=variables)
    done = run_in_debian(tmp_path, script, 1500, "--resolv-conf=copy-host", *binds)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    _, tests, left = re.split(r"^== .*$", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^\d+ passed in", tests, re.MULTILINE), tests
    assert left.strip() == "", "a file is left outside of the directory"
