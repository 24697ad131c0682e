"""Code generated from `protos/`; only `rhe_parties.messages` and this package's own `generate` may import it."""
