"""Who is corrupted, what was said, and the view that follows from both."""

from rhe_parties.threat.model import LABORATORY, PARTIES, ThreatModel
from rhe_parties.threat.transcript import Transcript, TranscriptEntry
from rhe_parties.threat.view import AdversaryView, build_view

__all__ = [
    "LABORATORY",
    "PARTIES",
    "AdversaryView",
    "ThreatModel",
    "Transcript",
    "TranscriptEntry",
    "build_view",
]
