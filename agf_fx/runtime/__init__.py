"""Running compiled explanations: the explainer, its results, and exports."""
