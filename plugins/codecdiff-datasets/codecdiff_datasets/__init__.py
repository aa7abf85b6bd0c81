"""`codecdiff data`: import, check, filter, caption, rank and measure music data sets."""
