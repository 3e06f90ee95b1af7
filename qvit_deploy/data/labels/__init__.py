"""Labels that are more than a class: maps of pixels, and boxes."""
