"""Compiled explainers kept in memory and on disk, by architecture."""
