"""What concurrent clients were answered, held against a model of the shop that knows what is possible.

`checker` decides whether a history is linearizable, `model` says what the shop's operations do, `clients` are people
who remember; `make` writes histories by hand.
"""
