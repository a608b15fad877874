"""The one way in: bytes of any origin to pixels and samples, within a budget of memory."""
