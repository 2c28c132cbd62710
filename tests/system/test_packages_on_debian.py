"""The Debian packages on a fresh Debian whose systemd runs: units start, back up, are upgraded, and go.

`make soak` runs it: the Debian is bootstrapped the first time, which takes one and a half minutes.
"""

from __future__ import annotations

import re

import pytest

from lab.debian import run_in_booted_debian
from lab.packages import built_packages

pytestmark = pytest.mark.soak

EXPOSED_AT_MOST = {"holdfast-agent": 4.0, "holdfast-agent-immutable": 2.5, "holdfast": 3.0, "holdfast-job@nightly": 3.0}
"""What `systemd-analyze security` may say of each at most, of 10. It was lower when this was written."""

STEPS = r"""
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive HOME=/root LC_ALL=C.UTF-8
manager() { runuser -u holdfast -- env HOME=/var/lib/holdfast holdfast "$@"; }
say() { echo "== $*"; }
state() { systemctl show --property=ActiveState,SubState,User "$1" | sort | tr '\n' ' '; echo "$1"; }

back_up() {
    systemctl start holdfast-job@nightly
    while systemctl is-active --quiet holdfast-job@nightly; do sleep 0.1; done
    [ "$(systemctl show --property=Result --value holdfast-job@nightly)" = success ]
}

say installed
dpkg --install /shared/*.deb
systemctl is-enabled holdfast holdfast-agent || true
systemd-analyze verify holdfast.service holdfast-agent.service holdfast-agent-immutable.service \
    holdfast-job@nightly.timer
for unit in holdfast-agent holdfast-agent-immutable holdfast holdfast-job@nightly; do
    echo "security $unit $(systemd-analyze security --no-pager $unit.service | tail -n 1)"
done

say set up
mkdir -p /srv/vms /srv/store
head -c 3000000 /dev/urandom >/srv/vms/web.img
chown -R holdfast /srv/vms
holdfast-agent init --proxy /srv/vms --repository /srv/store --yes >/dev/null
for unit in holdfast-agent holdfast holdfast-job@; do
    mkdir -p /etc/systemd/system/$unit.service.d
    printf '[Service]\nReadWritePaths=/srv/store /srv/vms\n' >/etc/systemd/system/$unit.service.d/places.conf
done
systemctl daemon-reload
systemctl enable --now --quiet holdfast-agent
install -m 0600 -o holdfast /dev/null /var/lib/holdfast/token
install -m 0600 -o holdfast /dev/null /var/lib/holdfast/pass
holdfast-agent token >/var/lib/holdfast/token
echo 'correct horse battery staple' >/var/lib/holdfast/pass
manager init --agent local=127.0.0.1 --token-file /var/lib/holdfast/token \
    --repository main=/srv/store/main --passphrase-file /var/lib/holdfast/pass \
    --server lab=images --option path=/srv/vms --option snapshot=copy --job nightly 2>&1
chmod 0600 /etc/holdfast/manager.toml
systemctl enable --now --quiet holdfast  # its configuration comes by LoadCredential, whoever may read the file
chmod 0640 /etc/holdfast/manager.toml
state holdfast-agent
state holdfast
manager doctor

say back up
back_up
manager point list
manager service show

say upgrade
before=$(systemctl show --property=MainPID --value holdfast holdfast-agent | xargs)
echo '# mine' >>/etc/holdfast/manager.toml
manager config key >/tmp/key
for new in /shared/*.new; do cp "$new" "/tmp/$(basename "${new%.new}")"; done
dpkg --force-confold --install /tmp/*.deb
after=$(systemctl show --property=MainPID --value holdfast holdfast-agent | xargs)
[ "$before" != "$after" ] && echo restarted
state holdfast-agent
state holdfast
grep -c '# mine' /etc/holdfast/manager.toml
manager config key | cmp - /tmp/key && echo same key
back_up
manager point list

say remove
dpkg --remove holdfast-agent holdfast-manager
systemctl is-active holdfast holdfast-agent || true
ls /etc/holdfast/manager.toml /var/lib/holdfast/catalog.key /var/lib/holdfast-agent/agent.key /srv/store/main
dpkg --purge holdfast-agent holdfast-manager
ls -d /etc/holdfast/*.toml /etc/systemd/system/multi-user.target.wants/holdfast* /usr/lib/holdfast* 2>/dev/null || true
ls /var/lib/holdfast/catalog.key /srv/store/main
say done
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each part of the steps printed."""
    shared = built_packages(tmp_path_factory.mktemp("dist") / "made")
    for new in shared.glob("*.new"):
        new.rename(new.with_name(f"{new.name.partition('_')[0]}-9.deb.new"))
    done = run_in_booted_debian(shared, STEPS, timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(part.split("\n", 1) for part in done.stdout.split("== ")[1:])


@pytest.mark.timeout(1800)
def test_units_are_sound_and_expose_little(told: dict[str, str]) -> None:
    installed = told["installed"]
    assert installed.count("disabled") == 2, "nothing starts that nobody has set up"
    exposed = dict(re.findall(r"^security (\S+) .*: ([\d.]+) ", installed, re.MULTILINE))
    assert exposed.keys() == EXPOSED_AT_MOST.keys()
    for unit, most in EXPOSED_AT_MOST.items():
        assert float(exposed[unit]) <= most, f"{unit} exposes more than it did"
    assert "Unknown" not in installed and "/usr/lib/systemd/system/holdfast" not in installed, "systemd has objections"


def test_units_run_and_jobs_are_started_by_them(told: dict[str, str]) -> None:
    assert "ActiveState=active SubState=running User= holdfast-agent" in told["set up"]
    assert "ActiveState=active SubState=running User=holdfast holdfast" in told["set up"]
    assert "All is well" in told["set up"]
    assert len(re.findall(r"^\w{12} ", told["back up"], re.MULTILINE)) == 1
    assert "nightly" in told["back up"]


def test_an_upgrade_keeps_configuration_and_state_and_restarts_what_runs(told: dict[str, str]) -> None:
    upgraded = told["upgrade"]
    assert {"restarted", "same key", "1"} <= set(upgraded.splitlines())
    assert upgraded.count("ActiveState=active SubState=running") == 2
    assert len(re.findall(r"^\w{12} ", upgraded, re.MULTILINE)) == 2


def test_a_removal_stops_units_and_keeps_keys(told: dict[str, str]) -> None:
    removed, _, purged = told["remove"].partition("/srv/store/main")
    assert removed.count("inactive") == 2
    assert "No such file" not in removed
    assert "/etc/" not in purged and "/usr/lib" not in purged
    assert "/var/lib/holdfast/catalog.key" in purged, "the keys of repositories are nobody's to purge but their owner's"
