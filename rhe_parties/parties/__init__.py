"""The parties as plain classes: bytes of an envelope in, bytes of envelopes out. No Ray, no gRPC."""

from rhe_parties.parties.base import Party
from rhe_parties.parties.build import build_party

__all__ = ["Party", "build_party"]
