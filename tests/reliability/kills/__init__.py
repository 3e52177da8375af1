"""Work that is killed (SIGKILL) at any moment and taken up again: the folder stays good, and the end is the same to the bit."""
