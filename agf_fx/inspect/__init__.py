"""Looking into an explanation: where relevance goes."""
