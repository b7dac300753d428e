"""The wire contracts and their generated stubs."""
