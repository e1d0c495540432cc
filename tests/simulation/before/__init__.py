"""The simulation as it was, with its own copy of the rules. See `compare`."""
