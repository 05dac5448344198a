"""Attacks on a shop by requests at the same time (ACIDRain), steered to the points where it would hurt."""
