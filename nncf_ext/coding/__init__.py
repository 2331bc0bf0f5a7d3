"""Few values for many weights: code books of values and of sub-vectors, and what an error in each weight counts."""
