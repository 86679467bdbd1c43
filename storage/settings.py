"""What the storage floor may be told by its configuration. Defaults here are the defaults of the daemon."""

import dataclasses
from pathlib import Path

LONGEST_CHAIN = 512
"""Volumes: the most that `chain_limit` may be. A chain is followed by a call within a call for each of them."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the storage floor.

    Attributes:
        repository: root of links, mounts and local task store (the protocol's ``/rhev/data-center``).
        lock_timeout: seconds a verb waits for a lock before it answers 851.
        workers: threads that run background tasks.
        max_tasks: tasks that may wait for a worker.
        qemu_img: name or path of the qemu-img program.
        qemu_img_timeout: seconds for a look at one image (info, check); copying has no limit of its own.
        transfer_seconds: for each 256 KiB that another host sends or takes in an upload or download; what is slower has
            broken off.
        prove_seconds: most time that reconcileVolumeChain spends comparing bytes before it refers to proveVolumeChain.
            The engine hangs up after 180 s.
        time_margin: seconds by which one file must have been written later than another before that counts as evidence.
        sd_health_check: seconds from one look at a domain in use to the next. The engine takes a domain for problematic
            that was not looked at for 30 s.
        sd_health_timeout: seconds that a look may take before the domain is reported as not accessible.
        mount_timeout: seconds for one run of mount or umount.
        reconnect_interval: seconds from one look at a connection that is kept up to the next.
        local_posixfs: POSIX file systems on devices of this host are seen by no other host, so that the lock of local
            directories will do for them. Without it no host can become SPM on one.
        chain_limit: most volumes of one chain, at most `LONGEST_CHAIN`.
        l2_limit: most bytes of allocation tables read for one volume.
    """

    repository: Path
    lock_timeout: float = 120.0
    workers: int = 10
    max_tasks: int = 500
    qemu_img: str = "qemu-img"
    qemu_img_timeout: float = 30.0
    transfer_seconds: float = 60.0
    prove_seconds: float = 60.0
    time_margin: float = 5.0
    sd_health_check: float = 10.0
    sd_health_timeout: float = 10.0
    mount_timeout: float = 60.0
    reconnect_interval: float = 10.0
    local_posixfs: bool = False
    chain_limit: int = 256
    l2_limit: int = 256 * 1024 * 1024

    @property
    def run_directory(self) -> Path:
        """Where links of prepared images live."""
        return self.repository / "run"
