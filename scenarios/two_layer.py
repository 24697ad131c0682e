"""Heads with a hidden layer that tell odd digits from even ones: what do their weights say about ten training images?

    rhe run scenarios/two_layer.py
    rhe run scenarios/two_layer.py -p dataset=mnist -p data_root=/path/to/torchvision/datasets -p victims=500

The binary heads of arXiv 2505.14323, Linear(256, 8)-ReLU-Linear(8, 1), on one image of each digit. Parties encrypt
linear heads alone so far, so both worlds hand the weights to the host; in the second it also gets decisions.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="two_layer",
    summary="Two-layer heads on odd and even digits: the paper's reconstructor on their weights.",
    parameters={
        "dataset": "digits",
        "labels": "parity",
        "hidden": 8,
        "images_per_class": 1,
        "victims": 58,
        "worlds": ("none", "none+client"),
        "adversary": ("head-readout", "reconstructor"),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
