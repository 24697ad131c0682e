"""What an adversary does with a host that it controls and a key holder that answers."""
