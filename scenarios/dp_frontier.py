"""Accuracy and leakage against ε: from how many images on is DP-SGD the better bargain than encryption's cost?

    rhe run scenarios/dp_frontier.py
    rhe sweep scenarios/dp_frontier.py -g images_per_class=1,4,16 -p victims=50 -p dataset=mnist -p data_root=/data

DP-SGD is tuned on public images at every ε; the adversary's shadow heads are trained by the same mechanism. Beside it
the cheapest noise there is, larger initial weights, and encryption, which costs no accuracy.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="dp_frontier",
    summary="Accuracy and leakage of DP-SGD against epsilon, beside initialisation noise and encryption.",
    parameters={
        "dataset": "digits",
        "images_per_class": 1,
        "victims": 50,
        "worlds": (
            "none",
            "dp-sgd@epsilon=2",
            "dp-sgd@epsilon=5",
            "dp-sgd@epsilon=10",
            "dp-sgd@epsilon=20",
            "dp-sgd@epsilon=40",
            "dp-sgd@epsilon=80",
            "init-noise@std=0.0002",
            "init-noise@std=0.02",
            "init-noise@std=0.2",
            "rhe",
        ),
        "adversary": ("span-inversion",),
        # What a head gives away shows in its features; pictures of each world would take a minute more.
        "span-inversion.refine_steps": 0,
        "span-inversion.decoder_steps": 0,
        "examples": 1,
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
