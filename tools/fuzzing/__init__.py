"""Hostile inputs by the thousand: what is changed, what is tried, and a process that may hang or die of it."""
