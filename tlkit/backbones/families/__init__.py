"""Networks written for tlkit, a family per file: what builds them, their original top, and their rows of the table."""
