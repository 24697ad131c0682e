"""Defences: what the data owner does to protect a head, one class per file behind one interface."""
