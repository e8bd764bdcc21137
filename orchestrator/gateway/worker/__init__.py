"""One process per application: its sessions, objects and operations."""
