"""The storage floor: hsm, pool, domain, image, volume, and the formats and tools beneath. Knows no RPC."""
