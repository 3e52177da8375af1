"""Reading a steering vector: what it promotes, where it acts, by which path."""
