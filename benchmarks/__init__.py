"""How fast gecaso is, beside other libraries: ``python -m benchmarks --help``."""
