"""Policies that learn by acting: an actor and a critic, with or without a memory, trained by PPO."""
