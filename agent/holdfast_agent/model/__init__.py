"""Values and units shared by all parts: frozen, without I/O, safe to share between threads."""
