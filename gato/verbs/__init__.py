"""What each verb of `gato` does: its options, one call of a room, and what it prints. A file per family of verbs."""
