"""Learners that are shown what to do: a demonstration is embedded (TecNets), or adapts the weights (MIL)."""
