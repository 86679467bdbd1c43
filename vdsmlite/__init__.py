"""The roof of the house: configuration, the public API classes and the daemon that composes everything."""

__version__ = "0.1.0"
