"""What the transformer is made of, and what acting keeps of a pass."""
