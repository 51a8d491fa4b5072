"""mihack: pick an open problem in mechanistic interpretability, get a repo that already runs."""

__version__ = "0.1.0"
