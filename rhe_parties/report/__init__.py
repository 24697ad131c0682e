"""The record of a run and what is rendered from it alone: terminal table and HTML report."""
