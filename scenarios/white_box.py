"""The white-box host on data of your choice; MNIST's official test images are the victims by default.

    rhe run scenarios/white_box.py -p data_root=/path/to/torchvision/datasets
    rhe run scenarios/white_box.py -p dataset=imagefolder:/path/to/images -p images_per_class=4

The world `rhe:plain` runs the whole protocol with the unencrypted twin of the scheme: the positive control of the
attacks on ciphertexts, which must find in readable bytes what they cannot find in encrypted ones.
"""

from rhe_parties import Scenario, run_as_program

scenario = Scenario(
    name="white_box",
    summary="White-box reconstruction by the model host, on MNIST or images of your own, with every control.",
    parameters={
        "dataset": "mnist",
        "images_per_class": 1,
        "victims": 200,
        "worlds": ("none", "rhe", "rhe:plain"),
        "adversary": ("head-readout", "span-inversion"),
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
