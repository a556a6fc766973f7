"""A world model of a game, seen as a board or as pictures, and a policy that is trained inside it alone (TWM, Robine et al. 2023)."""
