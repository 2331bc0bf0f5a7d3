"""Training loops: within a budget of accuracy, logged, and the best of them."""
