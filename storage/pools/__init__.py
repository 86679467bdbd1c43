"""Pools: which domains belong together, and who may change them (the SPM)."""
