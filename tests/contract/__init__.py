"""One battery of tests that every architecture has to pass, SAELens' own included."""
