"""Prints the whole table: ``python -m tests.support.outcomes``."""

import sys

from tests.support.outcomes import reasons, table


def main() -> int:
    """Every row with the function that provokes it, or why nothing does; 1 when something is wrong with the table."""
    every = table.rows()
    for row in every:
        manager = table.producer(row)
        root = ", as root" if manager in table.needs_root else ""
        told = f"{manager.__module__.rpartition('.')[2]}.{manager.__name__}{root}" if manager else reasons.of(row)
        mark = "ok  " if manager else "--  "
        print(f"{mark}{row.verb:38} {row.outcome:38} {row.where:5} {told}")
    faults = table.faults(every)
    print(*faults, sep="\n", end="\n" if faults else "")
    print(table.summary())
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
