"""The lab's tiny guest as a domain of libvirt: a real operating system with the guest agent in it."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from holdfast_plugins.api import VmRef
from holdfast_plugins.hypervisors.libvirt import LibvirtDriver, LibvirtOptions
from lab.guest import Agent, Image, Refused
from lab.guest.image import KERNEL_ARGUMENTS, LABEL
from lab.libvirt_host import LibvirtHost

_AGENT_CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
_PAUSE_S = 0.2


class LibvirtGuest:
    """A running guest with its root on the qcow2 disk ``vda``; made anew by whoever wants one."""

    def __init__(self, host: LibvirtHost, name: str, image: Image) -> None:
        self.host = host
        self.disk = host.images / f"{name}.qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-f", "raw", image.disk, self.disk], check=True)
        xml = f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>192</memory>
            <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{image.kernel}</kernel>
            <initrd>{image.initrd}</initrd><cmdline>root=LABEL={LABEL} {KERNEL_ARGUMENTS}</cmdline></os>
            <features><acpi/></features><devices>
            <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
            <source file='{self.disk}'/><target dev='vda' bus='virtio'/></disk>
            <controller type='usb' model='none'/><memballoon model='none'/>
            <serial type='file'><source path='{host.folder}/{name}.serial'/></serial>{_AGENT_CHANNEL}
            </devices></domain>"""
        self.domain = host.raw.defineXML(xml)
        self.domain.create()
        self.vm = VmRef(self.domain.UUIDString(), name)
        self.agent = _LibvirtAgent(self.domain)

    @classmethod
    def found(cls, host: LibvirtHost, vm: VmRef) -> LibvirtGuest:
        """One that somebody else has started."""
        guest = cls.__new__(cls)
        guest.host, guest.vm = host, vm
        guest.domain = host.raw.lookupByUUIDString(vm.vm_id)
        guest.agent = _LibvirtAgent(guest.domain)
        return guest

    def wait_up(self, timeout_s: float = 120.0) -> None:
        """Return when the guest has booted, which is when its agent answers."""
        import libvirt

        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.agent.ping()
            except libvirt.libvirtError as error:
                assert time.monotonic() < deadline, f"the guest does not come up: {error}"
                time.sleep(_PAUSE_S)

    def driver(self, **options: object) -> LibvirtDriver:
        """A connected driver of the plugin for this guest's host."""
        driver = LibvirtDriver(LibvirtOptions(**self.host.options(**options)), {})
        driver.connect()
        return driver


class _LibvirtAgent(Agent):
    """As the lab's own, through libvirt, which holds the agent's socket."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain

    def run(self, command: str, timeout_s: float = 60.0, **arguments: object) -> Any:
        import libvirt
        import libvirt_qemu

        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        order = json.dumps({"execute": command, "arguments": named})
        while True:
            try:
                answer = json.loads(libvirt_qemu.qemuAgentCommand(self._domain, order, int(timeout_s), 0))
                break
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or not self._domain.isActive():
                    raise
                time.sleep(_PAUSE_S)  # the guest is paused at the moment
        if "return" not in answer:
            raise Refused(answer)
        return answer["return"]
