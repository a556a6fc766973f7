"""A world model of a game on a board of cells, and a policy that is trained inside it alone (TWM, Robine et al. 2023)."""
