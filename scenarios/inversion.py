"""What do released scores say about the images that were classified, training images among them?

    rhe run scenarios/inversion.py
    rhe run scenarios/inversion.py -p dataset=mnist -p data_root=/path/to/torchvision/datasets

The adversary sits at no party; in worlds with `+decisions` it reads what the key holder releases to its user.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="inversion",
    summary="Classified images rebuilt from released scores by an inversion network, training images among them.",
    parameters={
        "task": "inversion",
        "dataset": "digits",
        "images_per_class": 1,
        "victims": 58,
        "evaluation_images": 10,
        "corrupted": (),
        "worlds": (
            "rhe",
            "rhe+decisions",
            "rhe+decisions+release=logits+rounding@digits=1",
            "rhe+decisions+release=logits",
        ),
        "adversary": ("inversion-network",),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
