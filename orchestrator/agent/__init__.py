"""The HSM itself: the only code that opens the token, decides, performs and audits."""
