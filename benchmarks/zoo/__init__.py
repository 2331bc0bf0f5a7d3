"""The zoo: models that nobody here wrote, compressed, trained, resumed, stripped and exported. `make zoo` writes docs/zoo.md."""
