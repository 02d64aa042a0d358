"""Measures of explanations where the right answer is known."""
