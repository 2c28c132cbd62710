"""Boot proofs: a restore point's VM is started by QEMU straight from an export, alone, and watched until it is up."""
