"""When jobs start: what people write, the moments that follow from it, and what is due. Pure, all of it."""
