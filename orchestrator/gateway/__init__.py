"""The PKCS#11 front door: what `p11-kit-client.so` talks to."""
