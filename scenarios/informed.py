"""The strongest prior knowledge: all training images but one are known, and so are the weights before training.

    rhe run scenarios/informed.py
    rhe run scenarios/informed.py -p dataset=mnist -p victims=500 -p data_root=/path/to/torchvision/datasets

The upper end of what a head gives away, and the natural audit of a defence.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="informed",
    summary="One unknown training image, all others known: the upper end of what a head gives away.",
    parameters={
        "task": "informed",
        "dataset": "digits",
        "images_per_class": 1,
        "victims": 58,
        "initial_weights": True,
        "worlds": ("none", "rhe"),
        "adversary": ("informed", "ntk-difference", "span-inversion"),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
