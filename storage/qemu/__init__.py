"""Images as qemu stores them: headers, tables, locks, and the one place that runs qemu-img."""
