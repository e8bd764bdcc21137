# What Cloister uses of asn1crypto 1.5, which ships no types.
