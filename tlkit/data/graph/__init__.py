"""Image formats in graph operations, a file per format: what a header says, and pixels from bytes."""
