"""What networks are made of. A block takes a sketch and a value in it, writes some steps, and returns a new value."""
