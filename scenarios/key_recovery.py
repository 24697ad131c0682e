"""What one released vector of approximate values gives away: the secret key, and with it every head and its images.

    rhe run scenarios/key_recovery.py
    rhe run scenarios/key_recovery.py -p dataset=mnist -p data_root=/path/to/torchvision/datasets

Under CKKS the noise of a ciphertext comes out with its decryption, and it depends on the key. A host that sees values
as TenSEAL's `decrypt` returns them, because it is the client or colludes with one, solves for the key from one answered
image (Li, Micciancio 2021). The other worlds try the same on rounded values, on values under noise, on logits alone, on
the exact bfv, and on what is released by default: classes.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="key_recovery",
    summary="The secret key from released approximate values, and the same attack against what is said to stop it.",
    parameters={
        "dataset": "digits",
        "victims": 20,
        "evaluation_images": 5,
        "worlds": (
            "none",
            "rhe:ckks+client+release=raw",
            "rhe:ckks+client+release=raw:rounded:3",
            "rhe:ckks+client+release=raw:flooded:30",
            "rhe:ckks+client+release=logits",
            "rhe:bfv+client+release=logits",
            "rhe:bfv+client",
        ),
        "adversary": ("head-readout", "key-recovery"),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
