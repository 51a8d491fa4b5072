"""The catalogue: schema, cards, check and build (authoring time), index and query (run time)."""
