"""p11-kit's RPC, decoded and encoded: bytes in, values out; no I/O."""
