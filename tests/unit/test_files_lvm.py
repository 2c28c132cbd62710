"""What guests call their logical volumes."""

from __future__ import annotations

from holdfast_agent.files.lvm import PhysicalVolume, logical_volumes

GROUP, VOLUME = "6dFp3O-0I2C-2a2X-fE6R-5b3Y-8L0T-1kZpqr", "Qx7c1M-Yt4u-9s8D-lKjH-3gF2-dS1a-PoIuYt"
METADATA = f"""
ubuntu-vg {{
    id = "{GROUP}"
    seqno = 3
    extent_size = 8192
    physical_volumes {{ pv0 {{ id = "0" pe_start = 2048 }} }}
    logical_volumes {{
        root {{
            id = "{VOLUME}"
            status = ["READ", "WRITE", "VISIBLE"]
            segment1 {{ start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1 stripes = ["pv0", 0] }}
        }}
        pool {{
            id = "0"
            status = ["READ", "WRITE", "VISIBLE"]
            segment1 {{ start_extent = 0 extent_count = 1 type = "thin-pool" metadata = "m" pool = "d" }}
        }}
    }}
}}
"""


class Zeros:
    size_bytes = 8 << 20

    def read(self, offset: int, length: int) -> bytes:
        return bytes(max(0, min(length, self.size_bytes - offset)))


def test_a_volume_has_the_name_that_installers_write_into_fstab_and_pools_are_none() -> None:
    """Below /dev/disk/by-id: the ids of the group and of the volume, without dashes."""
    (root,) = logical_volumes([PhysicalVolume(Zeros(), "0", METADATA)])
    assert root.identity == "dm-uuid-LVM-" + (GROUP + VOLUME).replace("-", "")
    assert (root.group, root.name, root.note) == ("ubuntu-vg", "root", "")
