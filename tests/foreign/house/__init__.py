"""A package that is not ours: a suite, an agent and a network, as anybody could write them."""
