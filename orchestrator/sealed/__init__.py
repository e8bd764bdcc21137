"""Sealed formats: boxes, snapshots (joining and backups), custodian shares."""
