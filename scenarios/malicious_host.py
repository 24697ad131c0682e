"""A host that does not keep to the protocol, and a client of the key holder in the same hands: classes are enough.

    rhe run scenarios/malicious_host.py
    rhe run scenarios/malicious_host.py -p dataset=mnist -p data_root=/path/to/torchvision/datasets

The host answers the adversary's own requests with ciphertexts of its own making, and the key holder tells what class
wins. `malicious-host` compares every weight with constants, four or five decisions each; `key-reading` has the key
holder decide on multiples of its own secret key. A secret linear tag in the head (`+tag`) shows the first forged reply,
and the key holder closes the head. It does not stop whoever asks honestly: `hard-label`. `+client` without
`+malicious`: the host computes what it should.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="malicious_host",
    summary="What a host learns that answers as it likes while decisions come back to it, and how a tag shows it.",
    parameters={
        "dataset": "digits",
        "victims": 20,
        # Throughput: a reply of several polynomials, without which weights cannot be compared.
        "batch": 256,
        "worlds": ("none", "rhe+client", "rhe+client+malicious", "rhe+client+malicious+tag"),
        "adversary": ("head-readout", "hard-label", "malicious-host", "key-reading"),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
