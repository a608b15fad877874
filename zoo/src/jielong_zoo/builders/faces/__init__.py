"""The set `faces`: people drawn by DiceBear from attributes, with captions, edits and a split by combinations."""
