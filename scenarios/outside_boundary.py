"""Outside the boundary: the head is encrypted, but a block of the backbone was adapted to the same images.

    rhe run scenarios/outside_boundary.py
    rhe run scenarios/outside_boundary.py -p dataset=mnist -p victims=200 -p data_root=/path/to/torchvision/datasets
    rhe run scenarios/outside_boundary.py -p task=membership -p adversary=span-membership,adapted-block-membership

RHE protects a head on a frozen public backbone. In the worlds `+fine-tuned` and `+lora` the owner also trains the
backbone's last block, as a whole or by low-rank factors, and the host runs it in the clear. What the head no longer
says the block does: its change is made of the training images' own activations. `none+fine-tuned` is the positive
control, `rhe` shows that without adaptation the attack has nothing to begin with.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="outside_boundary",
    summary="What an encrypted head no longer protects where a block of the backbone was adapted along with it.",
    parameters={
        "dataset": "digits",
        "images_per_class": 1,
        "victims": 20,
        # What the host holds of encrypted heads is the same kind of bytes in all worlds.
        "ciphertexts": "once",
        "worlds": ("none", "rhe", "none+fine-tuned", "rhe+fine-tuned", "rhe+lora"),
        "adversary": ("span-inversion", "adapted-block"),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
