"""What is the training set like as a whole? Here: is a tenth of it of class 0, or half?

    rhe run scenarios/property.py
    rhe run scenarios/property.py -p property=thickness -p dataset=mnist -p data_root=/path/to/torchvision/datasets

Properties: `class-share:K`, `presence:K`, `thickness`. Many victims, because chance is one half and an interval that
excludes three points above it takes more than a thousand of them.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="property",
    summary="Property inference: the share of one class in the private training set, read off the head.",
    parameters={
        "task": "property",
        "property": "class-share:0",
        "dataset": "digits",
        "images_per_class": 1,
        "victims": 2000,
        "evaluation_images": 2,
        "worlds": ("none", "rhe"),
        "adversary": ("property-inference",),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
