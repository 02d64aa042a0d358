"""The front end: from an nn.Module to a canonical graph."""
