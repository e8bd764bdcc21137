"""The second front: commands, flags, answers and shell of the CloudHSM CLI (Client SDK 5)."""
