"""What every method stands on: configs, the registry, module surgery, counters, seeds and errors.

A method imports from the modules of this package; it never imports another method.
"""
