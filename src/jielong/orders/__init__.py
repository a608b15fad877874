"""Orders: which tokens come next, together with which?"""
