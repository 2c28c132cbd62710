"""The control protocol as data: message structs, their codec and the version. No I/O happens here."""
