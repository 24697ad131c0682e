"""The threat matrix: every defence against every threat, in one table with utility and cost.

    rhe run scenarios/threat_matrix.py
    rhe run scenarios/threat_matrix.py -p dataset=mnist -p victims=500 -p data_root=/path/to/torchvision/datasets
    rhe run scenarios/threat_matrix.py --address auto        # its parts become tasks of a Ray cluster

Parts differ in what the adversary is asked for; worlds are the same everywhere. `-p PART.key=value` changes one part.
"""

from rhe_parties import Campaign, run_as_program

scenario = Campaign(
    name="threat_matrix",
    summary="Who can learn what about private training images, under which defence, at what cost.",
    parameters={
        "dataset": "digits",
        "images_per_class": 1,
        "victims": 20,
        "batch": 64,
        "client_budget": 20_000,
        "worlds": (
            "none",
            "dp-sgd@epsilon=5",
            "dp-sgd@epsilon=20",
            "relaxloss",
            "init-noise",
            "rhe",
            "rhe+client",
            "rhe+decisions",
            "rhe+client+decisions+release=logits",
            "rhe+client+decisions+release=logits+rounding",
        ),
    },
    parts={
        "reconstruction": {
            "adversary": ("span-inversion", "hard-label", "soft-label"),
            "span-inversion.refine_steps": 0,
            "hard-label.reconstruct": False,
            "soft-label.reconstruct": False,
        },
        "membership": {"task": "membership", "adversary": ("span-membership", "lira-scores", "label-membership")},
        "property": {"task": "property", "victims": 500, "evaluation_images": 2, "adversary": ("property-inference",)},
        "informed": {"task": "informed", "adversary": ("informed",), "informed.refine_steps": 0},
        "inversion": {"task": "inversion", "corrupted": (), "adversary": ("inversion-network",)},
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
