"""Networks: torch modules that the parts of a system consist of."""
