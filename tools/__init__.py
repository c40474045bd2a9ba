"""Tools of the repository: they make what is generated, and check that it is up to date."""
