"""Noise as a way to the key: a host that spoils its replies, and what the key holder does about it.

    rhe run scenarios/decryption_failure.py

`decryption-failure` pushes replies to where rounding fails and learns the key from wrong classes; checking the noise of
every reply stops it. But then refusals tell: `reaction` finds the key by which replies are refused, without a single
decision, under the noise check and the secret tag alike. What ends both: a key holder that decides nothing more under
this key once a reply was none that an honest host computes. That is how it does it unless the world's name says
otherwise.
"""

from rhe_parties import Scenario, run_as_program

HOST = "rhe+client+malicious"

scenario = Scenario(
    name="decryption_failure",
    summary="The secret key from noise: wrong rounding where it is not checked, refusals where it is.",
    parameters={
        "dataset": "digits",
        "victims": 10,
        "worlds": (
            "none",
            f"{HOST}+noise-check=off",
            f"{HOST}+noise-check=refuse",
            f"{HOST}+noise-check=refuse+tag",
            HOST,
        ),
        "adversary": ("decryption-failure", "reaction"),
        "client_budget": 0,
    },
)

if __name__ == "__main__":
    run_as_program(__file__)
