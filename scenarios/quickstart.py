"""Handwritten digits, one private image per class: stolen from a plain head, and not from the encrypted one.

    rhe run scenarios/quickstart.py

A data owner trains few-shot heads on a public backbone and hands them to a model host that is honest but curious.
The adversary sits at that host. World `none` gives the host the weights, world `rhe` gives it ciphertexts.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="quickstart",
    summary="Digits stolen from a plain few-shot head by a curious host; the same attacks on the encrypted head.",
    parameters={
        "dataset": "digits",
        "images_per_class": 1,
        "victims": 58,
        "worlds": ("none", "rhe"),
        "adversary": ("head-readout", "span-inversion"),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
