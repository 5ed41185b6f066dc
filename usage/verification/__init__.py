"""Verifying bills: everything they say is computed again, from the usage records themselves."""

from usage.verification.difference import Difference, counted
from usage.verification.verification import Verification

__all__ = ["Difference", "Verification", "counted"]
