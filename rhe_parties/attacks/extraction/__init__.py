"""Heads recovered from the key holder's answers: from classes alone, or from the scores that it releases."""
