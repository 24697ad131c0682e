"""The public conformance suite on every strategy of this package, and the suite itself on strategies with a fault."""

from __future__ import annotations

import importlib.metadata

import pytest

from rhe_parties.attacks.base import ADVERSARIES
from rhe_parties.attacks.white_box import WhiteBoxStrategy
from rhe_parties.testing import StrategyConformance

# Little effort: the suite is about manners, not about success.
SPAN = {"decoder_steps": "5", "shadow_heads": "12", "refine_steps": "1"}
EXTRACTION = {"decisions": "300", "shadows": "32", "reconstruct": "false"}
SMALL = {
    "adapted-block": {"search_steps": "2", "refine_steps": "1"},
    "adapted-block-membership": {"search_steps": "2"},
    "ciphertext-reuse": SPAN | {"shadows": "16"},
    "chosen-features": EXTRACTION | {"batch": "100", "axes": "12"},
    "decryption-failure": {"shadows": "64", "reconstruct": "false"},
    "domain-inference": EXTRACTION | {"probe_heads": "1", "probe_images": "24", "leaves": "12"},
    "hard-label": EXTRACTION | {"batch": "100"},
    "informed": SPAN | {"iterations": "2"},
    "inversion-answers": {"steps": "3", "batch": "8", "width": "4", "head_queries": "60"},
    "inversion-network": {"steps": "3", "batch": "8", "width": "4", "shadow_heads": "8", "know_head": "false"},
    "key-recovery": {"shadows": "64", "reconstruct": "false"},
    "label-membership": {"queries": "2", "inside": "8", "outside": "8"},
    "lira": {"inside": "4", "outside": "8"},
    "lira-scores": {"inside": "4", "outside": "8"},
    "key-reading": {"shadows": "64", "reconstruct": "false"},
    "malicious-host": {"shadows": "64", "reconstruct": "false"},
    "ntk-difference": SPAN | {"iterations": "2"},
    "property-inference": {"shadows": "24", "components": "4"},
    "reaction": {"shadows": "64", "reconstruct": "false"},
    "reconstructor": {"steps": "2", "width": "4", "batch": "4"},
    "soft-label": {"queries": "300", "shadows": "64", "reconstruct": "false"},
    "span-inversion": SPAN | {"ciphertext_shadows": "16"},
    "span-membership": {"iterations": "1"},
    "traffic-analysis": SPAN | {"shadows": "16"},
}
OWN = [p.name for p in importlib.metadata.entry_points(group=ADVERSARIES.group) if p.value.startswith("rhe_parties.")]


@pytest.fixture(autouse=True)
def few_encrypted_shadows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WhiteBoxStrategy, "ciphertext_shadows", 16)


for _name in sorted(set(OWN)):
    _class = type(
        f"Test_{_name.replace('-', '_')}",
        (StrategyConformance,),
        {
            "strategy": _name,
            "options": SMALL.get(_name, {}),
            # Whoever works in a throughput layout alone.
            "parameters": {"batch": 256} if _name == "malicious-host" else {},
            "classes": 10 if _name == "soft-label" else 3,
            "__doc__": f"Conformance of {_name}.",
        },
    )
    globals()[_class.__name__] = _class
