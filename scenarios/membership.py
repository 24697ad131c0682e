"""Was this image in the training set? Judged from the head, from released scores, and from decisions alone.

    rhe run scenarios/membership.py
    rhe run scenarios/membership.py -p dataset=mnist -p victims=500 -p data_root=/path/to/torchvision/datasets

Every head comes with its N training images and N fresh ones of the same classes, shuffled; a strategy scores each.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="membership",
    summary="Membership inference on few-shot heads: from the weights, from released scores, from decisions alone.",
    parameters={
        "task": "membership",
        "dataset": "digits",
        "images_per_class": 1,
        "victims": 58,
        "worlds": ("none", "rhe", "rhe+client", "rhe+client+release=logits"),
        "adversary": ("span-membership", "lira", "lira-scores", "label-membership"),
        "client_budget": 4_000,
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
