"""The RPC between Cloister's parts: frames, requests and replies, streams."""
