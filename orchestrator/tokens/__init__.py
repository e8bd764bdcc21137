"""Token stores: where keys live and work, each behind one protocol. Only agents import this."""
