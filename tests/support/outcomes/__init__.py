"""Every outcome of every verb: what the catalogue declares, what provokes it, and why the rest cannot be provoked."""

from tests.support.outcomes import (
    chains as chains,
    domains as domains,
    general as general,
    hosts as hosts,
    images as images,
    pools as pools,
    successes as successes,
    transfers as transfers,
)
