"""`make packages`: wheel, source distribution, and Debian packages of agent and manager, into `dist/`.

Each Debian package holds a virtual environment of its own below /usr/lib, made with the system's Python, so that
nothing of it depends on which Python packages a host has. They are for the Debian release that they are made on.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete
from reference import help_texts

import holdfast_agent
from holdfast_agent.cli.main import cli as agent_root
from holdfast_manager.cli.root import root as manager_root

ROOT = Path(__file__).resolve().parents[1]
DIST = Path(os.environ.get("DIST") or ROOT / "dist").absolute()
PYTHON = Path("/usr/bin/python3")
COMPRESSION = os.environ.get("PACKAGE_COMPRESSION") or "xz"
COMPLETIONS: tuple[tuple[type[ShellComplete], str], ...] = (
    (BashComplete, "bash-completion/completions/{}"),
    (ZshComplete, "zsh/vendor-completions/_{}"),
    (FishComplete, "fish/vendor_completions.d/{}.fish"),
)


@dataclass(frozen=True)
class Package:
    """A Debian package. ``extras``: of the distribution; ``suggests``: what some set-ups need besides."""

    name: str
    program: str
    command: click.Command
    summary: str
    extras: str
    scripts: tuple[str, ...]
    units: tuple[str, ...]
    suggests: str

    @property
    def home(self) -> str:
        return f"usr/lib/{self.name}"


PACKAGES = (
    Package(
        name="holdfast-agent",
        program="holdfast-agent",
        command=agent_root,
        summary="backup of virtual machines: the agent on proxies and repository hosts",
        extras="",
        scripts=("holdfast-agent", "holdfast-agent-immutable"),
        units=("holdfast-agent.service", "holdfast-agent-immutable.service"),
        suggests="qemu-utils, qemu-system-x86, nbdkit, fuse3",
    ),
    Package(
        name="holdfast-manager",
        program="holdfast",
        command=manager_root,
        summary="backup of virtual machines: the manager",
        extras="[console,manager,postgresql,qemu,vsphere]",
        scripts=("holdfast",),
        units=("holdfast.service", "holdfast-job@.service", "holdfast-job@.timer"),
        suggests="qemu-utils, openssh-client",
    ),
)
DESCRIPTION = " Image-level backup: deduplicated, encrypted, provable, without chains of increments."


def main() -> None:
    version = os.environ.get("PACKAGE_VERSION") or holdfast_agent.__version__
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "hatchling", "build", "-d", str(DIST))
    (wheel,) = DIST.glob("*.whl")
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as work:
            tree = Path(work) / "tree"
            fill(tree, package, wheel)
            control(tree, package, version)
            target = DIST / f"{package.name}_{version}_{architecture()}.deb"
            run("dpkg-deb", "--root-owner-group", f"-Z{COMPRESSION}", "-z1", "--build", str(tree), str(target))
    print("\n".join(str(path) for path in sorted(DIST.iterdir())))


def fill(tree: Path, package: Package, wheel: Path) -> None:
    home = tree / package.home
    run(str(PYTHON), "-m", "venv", "--without-pip", "--symlinks", str(home))
    pip = (sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-compile", f"{wheel}{package.extras}")
    settle(home, package)
    (tree / "usr/bin").mkdir(parents=True)
    for script in package.scripts:
        (tree / "usr/bin" / script).symlink_to(f"../lib/{package.name}/bin/{script}")
    for unit in package.units:
        copy(ROOT / "packaging/systemd" / unit, tree / "usr/lib/systemd/system" / unit)
    for file in ("README.md", "CHANGELOG.md"):
        copy(ROOT / file, tree / "usr/share/doc" / package.name / file)
    copy(ROOT / "LICENSE", tree / "usr/share/doc" / package.name / "copyright")
    write(tree / f"usr/share/man/man1/{package.program}.1.gz", gzip.compress(manual(package).encode(), mtime=0))
    for shell, place in COMPLETIONS:
        variable = f"_{package.program.upper().replace('-', '_')}_COMPLETE"
        # The base's method: those of shells ask the shell for its version, which is the user's business.
        source = ShellComplete.source(shell(package.command, {}, package.program, variable))
        write(tree / "usr/share" / place.format(package.program), source.encode())
    if package.name == "holdfast-manager":
        text = (ROOT / "configs/manager.toml").read_text()
        write(tree / "etc/holdfast/manager.toml", text.replace('#data_dir = "/var', 'data_dir = "/var').encode())
        for unit in ("holdfast.service", "holdfast-job@.service"):
            copy(ROOT / "packaging/debian/user.conf", tree / f"usr/lib/systemd/system/{unit}.d/user.conf")


def settle(home: Path, package: Package) -> None:
    """Make the environment one that lies where the package puts it."""
    final = f"/{package.home}/bin/python"
    for script in (home / "bin").iterdir():
        if script.is_symlink():
            continue
        if script.name not in package.scripts:
            script.unlink()
            continue
        _, _, body = script.read_bytes().partition(b"\n")
        script.write_bytes(f"#!{final}\n".encode() + body)
    configuration = home / "pyvenv.cfg"
    kept = [line for line in configuration.read_text().splitlines() if not line.startswith(("command", "executable"))]
    configuration.write_text("\n".join(kept) + "\n")
    for useless in ("include", "share"):
        shutil.rmtree(home / useless, ignore_errors=True)
    for record in home.glob("lib/python*/site-packages/*.dist-info/direct_url.json"):
        record.unlink()


def control(tree: Path, package: Package, version: str) -> None:
    size_kib = sum(path.lstat().st_size for path in tree.rglob("*")) // 1024
    major_minor = subprocess.run(
        [PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], check=True, capture_output=True, text=True
    ).stdout.split()
    major, minor = map(int, major_minor)
    fields = {
        "Package": package.name, "Version": version, "Architecture": architecture(), "Section": "admin",
        "Priority": "optional", "Maintainer": "The Holdfast developers <holdfast@localhost>",
        "Installed-Size": str(size_kib), "Pre-Depends": "passwd",
        "Depends": f"python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1}), libc6",
        "Suggests": package.suggests, "Description": f"{package.summary}\n{DESCRIPTION}",
    }  # fmt: skip
    write(tree / "DEBIAN/control", "".join(f"{key}: {value}\n" for key, value in fields.items()).encode())
    conffiles = "".join(f"/{path.relative_to(tree)}\n" for path in sorted((tree / "etc").rglob("*")) if path.is_file())
    if conffiles:
        write(tree / "DEBIAN/conffiles", conffiles.encode())
    for script in ("postinst", "prerm", "postrm"):
        copy(ROOT / f"packaging/debian/{package.name}.{script}", tree / "DEBIAN" / script)
        (tree / "DEBIAN" / script).chmod(0o755)


def manual(package: Package) -> str:
    """A manual page of what the program's --help says, command by command."""
    program = package.program
    title = f'.TH "{program.upper()}" 1 "" "Holdfast {holdfast_agent.__version__}" "Holdfast"\n'
    name = f".SH NAME\n{escaped(program)} \\- {escaped(package.summary)}\n"
    return title + name + "".join(sections(package))


def sections(package: Package) -> Iterator[str]:
    for path, text in help_texts(package.program, package.command):
        head = "DESCRIPTION" if path == package.program else path
        yield f'.SH "{escaped(head)}"\n.nf\n{escaped(text)}\n.fi\n'


def escaped(text: str) -> str:
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in plain.splitlines())


def architecture() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()


def copy(source: Path, target: Path) -> None:
    write(target, source.read_bytes())


def write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    os.umask(0o022)
    main()
