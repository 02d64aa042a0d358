"""What is claimed of every rule, by the room that it belongs to."""
