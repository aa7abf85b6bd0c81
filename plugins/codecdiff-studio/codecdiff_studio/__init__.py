"""`codecdiff ui`: generate, edit and compare music in the browser."""
