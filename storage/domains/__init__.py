"""Domains: where they are, what they say of themselves, how they are made; storage servers and the cluster lock."""
