"""Vector-Jacobian products, by kind of operation.

Each takes the site and the gradient at its output, (K, ...) for K targets, and returns one gradient per operand, in
order; None for an operand that does not depend on the images.
"""
