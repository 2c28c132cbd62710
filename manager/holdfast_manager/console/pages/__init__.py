"""The pages, one module each: what is asked of the catalogue, and how it is laid out."""
