"""What every part hands to the next: layouts, tokens, random numbers."""
