"""A client that gets decisions and nothing else rebuilds the head from them, and then the training images.

    rhe run scenarios/hard_label.py
    rhe run scenarios/hard_label.py -p dataset=mnist -p data_root=/path/to/torchvision/datasets

Encrypting the head protects it from the host. It cannot protect it from whoever may ask: worlds with `+client` answer
the adversary's own images, counted by the key holder, 60,000 for each head. One world also releases logits.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="hard_label",
    summary="Heads extracted from decisions alone, or from logits, and training images rebuilt from them.",
    parameters={
        "dataset": "digits",
        "images_per_class": 1,
        "victims": 20,
        "worlds": ("none", "rhe", "rhe+client", "rhe+client+release=logits"),
        "adversary": ("span-inversion", "hard-label", "soft-label"),
        "client_budget": 60_000,
        "batch": 64,
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
