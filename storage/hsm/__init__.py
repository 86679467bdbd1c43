"""One module a verb family: what each verb checks, which locks it takes and which floor below does the work."""

from storage.hsm import connection, domain, host, image, pool, task, volume

__all__ = ["connection", "domain", "host", "image", "pool", "task", "volume"]
