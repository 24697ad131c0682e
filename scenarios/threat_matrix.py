"""The threat matrix: every defence against every threat, in one table with utility and cost.

    rhe run scenarios/threat_matrix.py
    rhe run scenarios/threat_matrix.py -p dataset=mnist -p victims=500 -p data_root=/path/to/torchvision/datasets
    rhe run scenarios/threat_matrix.py --address auto        # its parts become tasks of a Ray cluster

Parts differ in what the adversary is asked for; worlds are the same everywhere. `-p PART.key=value` changes one part.
"""

from rhe_parties import Campaign, run_as_program

# Scores go to the adversary as a client, and it sees those that others are given.
SCORES = "client+decisions+release=logits"
WORLDS = (
    "none",
    "dp-sgd@epsilon=5",
    "dp-sgd@epsilon=20",
    "relaxloss@alpha=1.5",
    "init-noise@std=0.02",
    "rhe",
    "rhe+client",
    "rhe+decisions",
    f"rhe+{SCORES}",
    f"rhe+{SCORES}+rounding",
    f"rhe+{SCORES}+lpa",
    f"rhe+{SCORES}+lfp",
    "rhe+client+malicious",
    "rhe+client+malicious+tag",
)
# TenSEAL takes a second for each head: in one part is enough.
APPROXIMATE = "rhe:ckks+client+release=raw"

scenario = Campaign(
    name="threat_matrix",
    summary="Who can learn what about private training images, under which defence, at what cost.",
    parameters={
        "dataset": "digits",
        "images_per_class": 1,
        "victims": 20,
        "client_budget": 20_000,
        "ciphertexts": "once",
        "worlds": WORLDS,
    },
    parts={
        "reconstruction": {
            "adversary": ("span-inversion",),
            "span-inversion.refine_steps": 0,
            "span-inversion.shadow_heads": 300,
            "span-inversion.ciphertext_shadows": 128,
        },
        "extraction": {
            "victims": 2,
            "adversary": ("hard-label", "soft-label"),
            "hard-label.decisions": 4000,
            "hard-label.reconstruct": False,
            "soft-label.reconstruct": False,
        },
        "inversion": {
            "task": "inversion",
            "evaluation_images": 10,
            "corrupted": (),
            "worlds": tuple(world for world in WORLDS if "malicious" not in world),
            "adversary": ("inversion-network", "inversion-answers"),
            "inversion-network.know_head": False,
            "inversion-network.steps": 250,
            "inversion-answers.steps": 250,
        },
        "membership": {"task": "membership", "adversary": ("span-membership", "lira-scores", "label-membership")},
        "property": {"task": "property", "victims": 200, "evaluation_images": 2, "adversary": ("property-inference",)},
        "informed": {
            "task": "informed",
            "adversary": ("informed",),
            "informed.refine_steps": 0,
            "informed.shadow_heads": 300,
        },
        "active": {
            # Replies of several polynomials, without which weights cannot be compared.
            "batch": 256,
            "victims": 2,
            "worlds": (*WORLDS, APPROXIMATE),
            # The last ones have the key closed: nothing is decided after them.
            "adversary": ("key-recovery", "malicious-host", "key-reading", "decryption-failure", "reaction"),
            "key-recovery.reconstruct": False,
            "malicious-host.reconstruct": False,
            "key-reading.reconstruct": False,
            "decryption-failure.reconstruct": False,
            "reaction.reconstruct": False,
        },
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
