"""What a deployment needs beside the parties: links with mutual TLS, identity, keys at rest, ledger, operation."""
