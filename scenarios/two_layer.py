"""Heads with a hidden layer that tell odd digits from even ones: what do their weights say about ten training images?

    rhe run scenarios/two_layer.py
    rhe run scenarios/two_layer.py -p activation=relu -p worlds=none,none+client
    rhe run scenarios/two_layer.py -p adversary=span-inversion,reconstructor -p reconstructor.steps=1200
    rhe run scenarios/two_layer.py -p worlds=none,none+client,rhe+client -p adversary=head-readout,hard-label
    rhe run scenarios/two_layer.py -p dataset=mnist -p data_root=/path/to/torchvision/datasets -p victims=500

The binary heads of arXiv 2505.14323, Linear(256, 8)-activation-Linear(8, 1), on one image of each digit. What is
computed on ciphertexts is x²; the paper's ReLU heads run in worlds without encryption. Ten images end up in eight
units that all learn much the same, and in two minutes of a CPU the paper's reconstructor draws hardly more than class
averages. `span-inversion` fits a linear estimate of the features to shadow heads instead. In rhe:plain, the twin
without encryption, it has to read the products of weights that the host computes with: a control of the variant on
ciphertexts.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="two_layer",
    summary="Two-layer heads on odd and even digits, in the clear, in packed integers and encrypted.",
    parameters={
        "dataset": "digits",
        "image_size": 16,
        "labels": "parity",
        "hidden": 8,
        "activation": "square",
        "images_per_class": 1,
        "victims": 58,
        "worlds": ("none", "rhe:plain", "rhe"),
        "adversary": ("head-readout", "span-inversion"),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
