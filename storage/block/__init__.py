"""Block storage, looked at and never changed: devices and volume groups of this host."""
