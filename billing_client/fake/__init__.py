"""The billing service in memory: for tests, and to grade clients in any language."""
