"""The Debian packages, installed by dpkg on this machine's own system under an overlay that is thrown away."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import holdfast_agent
from lab.packages import built_packages

OVERLAY = """
set -eu
ip link set lo up
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
for place in dev proc sys; do mount --rbind "/$place" "$1/root/$place"; done
mkdir "$1/root/packages"
cp "$2"/*.deb "$2"/*.new "$2/steps.sh" "$1/root/packages"
exec chroot "$1/root" /bin/sh -eu /packages/steps.sh
"""
STEPS = r"""
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive HOME=/root LC_ALL=C.UTF-8
unset HOLDFAST_HOME HOLDFAST_CONFIG HOLDFAST_AGENT_CONFIG
cd /
manager() { runuser -u holdfast -- holdfast "$@"; }
say() { echo "== $*"; }

dpkg --install /packages/*.deb

say programs
holdfast-agent --version
holdfast --version

say the manager has a user of its own
manager init >/dev/null
stat --format '%U %a' /var/lib/holdfast /var/lib/holdfast/catalog.key
! holdfast job list 2>/tmp/refused
cat /tmp/refused

say units
systemd-analyze verify /usr/lib/systemd/system/holdfast.service /usr/lib/systemd/system/holdfast-agent.service \
    /usr/lib/systemd/system/holdfast-agent-immutable.service /usr/lib/systemd/system/holdfast-job@.timer

say help for the shell
bash -c '. /usr/share/bash-completion/completions/holdfast; complete -p holdfast'
COMP_WORDS='holdfast rep' COMP_CWORD=1 _HOLDFAST_COMPLETE=bash_complete holdfast
gzip -dc /usr/share/man/man1/holdfast.1.gz | grep -c '^.SH'

say an agent
mkdir -p /srv/vms /srv/store
holdfast-agent init --proxy /srv/vms --repository /srv/store --yes >/dev/null
manager config key >/tmp/manager-key
holdfast-agent show --key >/tmp/agent-key
holdfast-agent authorize "$(cat /tmp/manager-key)" --name manager >/dev/null
holdfast-agent run 2>/tmp/agent.log &
agent=$!
for _ in $(seq 100); do [ -e /var/lib/holdfast-agent/endpoint ] && break; sleep 0.1; done
manager agent add local 127.0.0.1:8430 "$(cat /tmp/agent-key)"
kill $agent
wait $agent

say an upgrade keeps what was set and made
echo '# mine' >>/etc/holdfast/manager.toml
echo '# mine' >>/etc/holdfast/agent.toml
chmod 0600 /etc/holdfast/manager.toml
for new in /packages/*.new; do cp "$new" "${new%.new}"; done
dpkg --install /packages/*.deb 2>&1 | grep -c Unpacking
grep -c '# mine' /etc/holdfast/manager.toml /etc/holdfast/agent.toml
stat --format '%U %G %a' /etc/holdfast/manager.toml
chmod 0640 /etc/holdfast/manager.toml
manager config key | cmp - /tmp/manager-key
holdfast-agent show --key | cmp - /tmp/agent-key
manager agent list | grep -c local

say nothing stays but what must
dpkg --purge holdfast-agent holdfast-manager
ls -d /usr/lib/holdfast-manager /usr/lib/holdfast-agent /usr/bin/holdfast /etc/holdfast/manager.toml 2>/dev/null || true
ls /var/lib/holdfast/catalog.key
say done
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packages, and beside them the same of a later version, to upgrade to."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount an overlay")
    return built_packages(tmp_path_factory.mktemp("dist") / "made")


@pytest.mark.first
@pytest.mark.timeout(600)
def test_packages_are_installed_upgraded_and_removed(packages: Path, tmp_path: Path) -> None:
    (packages / "steps.sh").write_text(STEPS)
    place = tmp_path / "place"
    place.mkdir()
    command = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", OVERLAY, "sh", place, packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, stdin=subprocess.DEVNULL)
    told = done.stdout
    assert done.returncode == 0, told + done.stderr
    parts = dict(part.split("\n", 1) for part in told.split("== ")[1:])
    assert parts["programs"].count(holdfast_agent.__version__) == 2
    user = parts["the manager has a user of its own"]
    assert user.startswith("holdfast 700\nholdfast 600\n")
    assert "run this as that user (sudo -u holdfast holdfast …)" in user
    assert parts["units"].strip() == "", "systemd has something to say of the units"
    shell = parts["help for the shell"].splitlines()
    assert "holdfast" in shell[0]
    assert set(shell[1:-1]) == {"plain,report", "plain,repository"}
    assert int(shell[-1]) > 80
    assert "Added agent local" in parts["an agent"]
    upgraded = parts["an upgrade keeps what was set and made"].splitlines()
    assert upgraded == [
        "2", "/etc/holdfast/manager.toml:1", "/etc/holdfast/agent.toml:1", "root holdfast 600", "1",
    ]  # fmt: skip
    assert "/usr/lib" not in parts["nothing stays but what must"].replace("/usr/lib/systemd", "")
    assert "/var/lib/holdfast/catalog.key" in parts["nothing stays but what must"]
