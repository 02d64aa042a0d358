"""What tools/gpu runs, and the page that it writes. The plan and the page need no packages."""
