"""Explainers as files that run without agf-fx: one module a format, and `load` to read them back."""
