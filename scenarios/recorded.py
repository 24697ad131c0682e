"""Ciphertexts are durable: what a host records today falls with the key, however late, and whatever replaced the key.

    rhe run scenarios/recorded.py

The key holder replaces its key after the decisions and every head is encrypted anew (`+rotated`). The adversary kept
the old ciphertexts, and of the old key's time it has values that approximate CKKS released. It solves for the old key
and opens the heads recorded under it: they are about the same private images. Without anything released there is
nothing to solve for, until a key is lost in another way; then the same ciphertexts lie open.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="recorded",
    summary="Recorded ciphertexts and a key that falls later: what replacing the key does not help.",
    parameters={
        "dataset": "digits",
        "victims": 20,
        "evaluation_images": 5,
        "worlds": (
            "none",
            "rhe:ckks+decisions+release=raw",
            "rhe:ckks+decisions+release=raw+rotated",
            "rhe:ckks+decisions+rotated",
            "rhe+rotated",
        ),
        "adversary": ("head-readout", "key-recovery"),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
