"""Files that ship with the package: trained networks and sample scenes."""
