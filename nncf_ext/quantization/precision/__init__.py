"""How many bits each quantizer gets (NNCF 2.x `initializer.precision`)."""
