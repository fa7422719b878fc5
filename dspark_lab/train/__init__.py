"""How the lab pair was made, and how to make your own: text, target, drafters, losses."""
