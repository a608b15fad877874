"""The set `missions`: levels of BabyAI in a room of 8 x 8 cells, solved by its bot."""
