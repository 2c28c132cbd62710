"""What is to be known of disks that another kind of hypervisor had, before a VM boots from them here."""

from __future__ import annotations

VIRTIO = (
    "the point is of another kind of hypervisor: its disks get a plain VM (q35, BIOS, virtio disks, 2 GiB). Linux "
    "boots from it with virtio_blk in its initial RAM disk (dracut --no-hostonly; update-initramfs with MODULES=most), "
    "Windows with the virtio drivers installed before the backup, else with its disks on bus SATA; a guest that boots "
    "by UEFI needs OVMF"
)
LSI_SAS = (
    "the point is of another kind of hypervisor: its disks get a plain VM (BIOS, LSI SAS, 2 processors, 2 GiB, no "
    "network). Linux boots from it with mptsas in its initial RAM disk (dracut --no-hostonly; update-initramfs with "
    "MODULES=most), Windows has the driver; a guest that boots by UEFI needs that chosen in the boot options"
)
