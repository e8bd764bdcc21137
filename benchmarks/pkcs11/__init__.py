"""The gateway beside p11-kit's server and SoftHSM itself: `python -m benchmarks.pkcs11`."""
