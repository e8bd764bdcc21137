"""Pure values and decisions of an HSM cluster: no device, network, file or terminal."""
