"""Reading the source systems' databases as they stand, and making histories of what is in them."""
