"""The embedded lab: availability zones, hosts and HSM processes on one machine."""
