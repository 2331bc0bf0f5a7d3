"""Where quantizers go, what a config calls them and asks of them, which there are, and how many bits each has."""
