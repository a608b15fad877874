"""Networks: plain torch modules that parts are made of."""
