"""The control plane: clusters, HSMs, backups, the ledger's database and its only writer."""
