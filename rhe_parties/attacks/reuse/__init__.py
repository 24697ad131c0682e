"""Looks for reused randomness and readable structure in ciphertexts."""
