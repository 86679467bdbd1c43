"""One module a verb family: what each verb checks, which locks it takes and which floor below does the work."""

from storage.hsm import (
    connection,
    description,
    domain,
    host,
    image,
    iso,
    machines,
    master,
    membership,
    monitoring,
    pool,
    task,
    transfer,
    upgrade,
    volume,
)

__all__ = [
    "connection",
    "description",
    "domain",
    "host",
    "image",
    "iso",
    "machines",
    "master",
    "membership",
    "monitoring",
    "pool",
    "task",
    "transfer",
    "upgrade",
    "volume",
]
