"""``jielong serve``: models behind an address, by FastAPI and uvicorn (the extra ``serve``)."""
