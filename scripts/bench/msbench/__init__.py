"""The parts of the bench: figures (what is wanted), measures (how), site (where), report."""
